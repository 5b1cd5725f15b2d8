"""Describes what runs a biLM on this machine, and why (behind `python -m spacy elmo info --machine`)."""

import itertools
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import torch
from torch import nn

from spacy_elmo import formats
from spacy_elmo.bilm import BiLM, engines, kernels
from spacy_elmo.bilm.cpus import cpu_quota, usable_cpus
from spacy_elmo.bilm.engines import Call
from spacy_elmo.bilm.engines.engine import name_of
from spacy_elmo.bilm.lstm import BidirectionalLSTMLayer, plain_recurrence
from spacy_elmo.bilm.products import Precision
from spacy_elmo.bilm.threads import count_threads
from spacy_elmo.errors import ElmoError
from spacy_elmo.pretraining.distributed import Group
from spacy_elmo.pretraining.precision import fastest_precision
from spacy_elmo.support.device import choose_device
from spacy_elmo.tools.describe import aligned

VARIABLES = (
    kernels.VARIABLE,
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY",
    "MKL_ENABLE_INSTRUCTIONS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
)


class Case(NamedTuple):
    """A way to use a biLM. rows: of a time step; each is a sentence."""

    name: str
    rows: int
    is_training: bool = False


CASES = (Case("one sentence", 1), Case("stream", 128), Case("training", 128, is_training=True))


def describe_all(model: str) -> dict[str, Any]:
    """Return `describe_machine`, and `describe_engines` of this model on each device and in each precision.

    Raises:
        ElmoError: the model cannot be read; see `formats.load`.
    """
    found = []
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        opened = formats.open_model(model)  # again for each device: a precision cannot be undone
        bilm = opened.bilm().to(device)
        for precision in get_args(Precision):
            with suppress(ElmoError):  # this precision is not supported here
                bilm.set_precision(precision)
                found += [
                    facts
                    for facts in describe_engines(bilm)
                    if precision == "float32" or facts["case"] != "training"  # other precisions need frozen weights
                ]
    return {**describe_machine(), "model": opened.card.get("name", opened.name), "engines": found}


def describe_machine() -> dict[str, Any]:
    """Return what the speed of a biLM depends on: processor, compiled part, torch, environment, threads, GPUs."""
    return {
        "processor": processor_name(),
        "machine": platform.machine(),
        "system": platform.system(),
        "compiled_part": {
            "is_there": not kernels.is_missing(),
            "why_missing": kernels.why_missing(),
            "instruction_set": kernels.instruction_set(),
            "instruction_sets": kernels.instruction_sets(),
        },
        "torch": {
            "version": torch.__version__,
            "instruction_set": torch.backends.cpu.get_cpu_capability(),
            "has_onednn": torch.backends.mkldnn.is_available(),
            "has_mkl": torch.backends.mkl.is_available(),
        },
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "threads": {
            "torch": torch.get_num_threads(),
            "usable_cpus": usable_cpus(),
            "cpu_quota": cpu_quota(),
            "auto": count_threads("auto"),
        },
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
        "pretraining_precision": fastest_precision(Group(choose_device("auto"))),
    }


def describe_engines(bilm: BiLM) -> list[dict[str, Any]]:
    """Return which engine runs the LSTM layers of a biLM in each of `CASES`, and the reasons against faster engines.

    Consecutive layers with the same facts share one entry. They differ if only some layers are trained.
    """
    found: list[dict[str, Any]] = []
    for case in CASES:
        for number, module in enumerate(bilm.layers):
            layer = cast("BidirectionalLSTMLayer", module)
            facts = {"device": str(bilm.device), "setting": layer.precision, "case": case.name, "rows": case.rows}
            facts |= _describe_layer(_trained_like(layer) if case.is_training else layer, case)
            if found and found[-1] == {**facts, "layers": found[-1]["layers"]}:
                found[-1]["layers"].append(number)
            else:
                found.append({**facts, "layers": [number]})
    return found


def _describe_layer(layer: BidirectionalLSTMLayer, case: Case) -> dict[str, Any]:
    with _mode(case, layer.weight.device.type):
        call = _call(layer, case.rows)
        engine = engines.choose(layer, call)
        faster = itertools.takewhile(lambda other: other is not engine, engines.ENGINES)
        return {
            "engine": engine.name if engine else plain_recurrence.__name__,
            "file": (type(engine) if engine else plain_recurrence).__module__.replace(".", "/") + ".py",
            "precision": engine.precision(layer, call) if engine else name_of(layer.weight.dtype),
            "reasons_against": {other.name: other.reasons_against(layer, call) for other in faster},
        }


def _mode(case: Case, device: str) -> AbstractContextManager[Any]:
    """Set the modes in which `BiLM.stream` and `BiLM.stream_with_gradients` compute a batch."""
    modes = ExitStack()
    modes.enter_context(torch.inference_mode(not case.is_training))
    modes.enter_context(torch.set_grad_enabled(case.is_training))
    modes.enter_context(torch.autocast(device, enabled=False))
    return modes


def _call(layer: BidirectionalLSTMLayer, rows: int) -> Call:
    """Return a call of one time step. Vectors have the dtype of the biases: reduced precision only affects matrices."""
    x = torch.empty(2, rows, layer.n_in, dtype=layer.bias.dtype, device=layer.weight.device)
    return layer.call(x, [rows])


def _trained_like(layer: BidirectionalLSTMLayer) -> BidirectionalLSTMLayer:
    """Return a trained layer of the same shape on the same device that takes no memory. It has the dtype of the biases,
    because reduced precision needs frozen weights."""
    trained = BidirectionalLSTMLayer(1, 1, 1, layer.cell_clip, layer.proj_clip)
    trained.n_in, trained.dim, trained.projection_dim = layer.n_in, layer.dim, layer.projection_dim
    trained.proj_clip = layer.proj_clip
    for name, parameter in layer.named_parameters():
        one = torch.zeros((), dtype=layer.bias.dtype, device=parameter.device)
        setattr(trained, name, nn.Parameter(one.expand(parameter.shape)))
    return trained


def processor_name() -> str:
    """Return the name of the processor, as far as the system knows it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    if platform.system() == "Darwin":
        with suppress(OSError, subprocess.SubprocessError):
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return platform.processor() or platform.machine()


# Readable output


def table(facts: dict[str, Any]) -> str:
    """Return the facts of `describe_all` as readable lines."""
    return "\n".join([aligned(dict(_machine_lines(facts))), "", *_engine_lines(facts)])


def _machine_lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    compiled, ours, threads = facts["compiled_part"], facts["torch"], facts["threads"]
    yield "processor", f"{facts['processor']} ({facts['machine']}, {facts['system']})"
    if compiled["is_there"]:
        versions = ", ".join(compiled["instruction_sets"])
        yield "compiled part", f"{compiled['instruction_set']} (versions for this processor: {versions})"
    else:
        yield "compiled part", f"none: {compiled['why_missing']}"
    libraries = [name for name, key in (("oneDNN", "has_onednn"), ("MKL", "has_mkl")) if ours[key]]
    yield "torch", ", ".join([ours["version"], ours["instruction_set"], *libraries])
    if facts["variables"]:
        yield "environment", " ".join(f"{name}={value}" for name, value in facts["variables"].items())
    quota = "none" if threads["cpu_quota"] is None else f"{threads['cpu_quota']:g}"
    limits = f"torch {threads['torch']}, usable CPUs {threads['usable_cpus']}, CPU quota {quota}"
    yield "threads", f'"auto" is {threads["auto"]} ({limits})'
    yield "GPUs", ", ".join(facts["gpus"]) or "none"
    yield "pretraining", f'precision "auto" is {facts["pretraining_precision"]}'


def _engine_lines(facts: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about engines. Cases with the same facts share their lines."""
    yield f"What runs the LSTM layers of {facts['model']}, and why nothing faster does:"
    width = max(len(engine.name) for engine in engines.ENGINES)
    shared = ("device", "setting", "engine", "precision", "reasons_against")
    for _, group in itertools.groupby(facts["engines"], key=lambda case: [case[name] for name in shared]):
        cases = list(group)
        case, names = cases[0], dict.fromkeys(case["case"] for case in cases)
        yield ""
        yield f'{" and ".join(names)}, {case["device"]}, precision "{case["setting"]}"'
        yield f"  {case['engine']:<{width}}  in {case['precision']} ({case['file']})"
        for engine, reasons in case["reasons_against"].items():
            for number, reason in enumerate(reasons):
                yield f"    {'' if number else 'not ' + engine:<{width + 4}}  {reason}"
