"""`precision = "auto"`: the choice for each kind of hardware, and the warning if a precision is emulated."""

import json
import os
import platform
import subprocess
import sys

import pytest
import torch

from spacy_elmo.errors import PretrainingError
from spacy_elmo.pretraining import checkpoint, precision
from spacy_elmo.pretraining.checkpoint import Checkpoint
from spacy_elmo.pretraining.distributed import Group
from spacy_elmo.pretraining.precision import explain_emulation, fastest_precision, support_of

CPU = torch.device("cpu")
AMX, AVX512_BF16, INTEL = "amx", "avx512_bf16", "Intel"


@pytest.fixture
def processor(monkeypatch):
    """Return a function that makes the hardware look like an x86 processor with these features."""

    def pretend(*features, limit=None):
        monkeypatch.setattr(platform, "machine", lambda: "AMD64")
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: AMX in features)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: AVX512_BF16 in features)
        monkeypatch.setattr(precision, "_is_intel", lambda: INTEL in features)
        for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
            monkeypatch.delenv(name, raising=False)
        if limit is not None:
            monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)

    return pretend


@pytest.fixture
def gpu(monkeypatch):
    """Return a function that pretends to have a GPU of this compute capability."""

    def pretend(*capability):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        return torch.device("cuda:0")

    return pretend


@pytest.fixture
def hardware(monkeypatch):
    """Return a function that sets the support for bfloat16. Everything else counts as slow."""

    def pretend(support):
        monkeypatch.setattr(precision, "support_of", lambda name, _: support if name == "bfloat16" else "slow")

    return pretend


@pytest.mark.parametrize(
    ("features", "limit", "expected"),
    [
        ({INTEL}, None, "emulated"),
        (set(), None, "emulated"),
        ({AVX512_BF16}, None, "fast"),
        ({INTEL, AVX512_BF16}, None, "slow"),
        ({INTEL, AVX512_BF16, AMX}, None, "fast"),
        ({INTEL, AVX512_BF16, AMX}, "ALL", "fast"),
        ({INTEL, AVX512_BF16, AMX}, "AVX512_CORE_AMX", "fast"),
        ({INTEL, AVX512_BF16, AMX}, "no such name", "fast"),
        ({INTEL, AVX512_BF16, AMX}, "AVX512_CORE_BF16", "slow"),
        ({INTEL, AVX512_BF16, AMX}, "avx512_core_fp16", "slow"),
        ({INTEL, AVX512_BF16, AMX}, "AVX512_CORE", "emulated"),
        ({INTEL, AVX512_BF16, AMX}, "avx2", "emulated"),
        ({AVX512_BF16}, "AVX512_CORE_BF16", "fast"),
        ({AVX512_BF16}, "AVX512_CORE_VNNI", "emulated"),
    ],
)
def test_bfloat16_on_a_processor_depends_on_its_instructions_and_on_those_onednn_may_use(
    processor, features, limit, expected
):
    processor(*features, limit=limit)
    assert support_of("bfloat16", CPU) == expected
    assert fastest_precision(Group(CPU)) == ("bfloat16" if expected == "fast" else "float32")
    assert (explain_emulation("bfloat16", Group(CPU)) is not None) == (expected == "emulated")


@pytest.mark.parametrize(("runs", "expected"), [(True, "slow"), (False, "emulated")])
def test_float16_on_a_processor_is_never_chosen_and_emulated_where_onednn_has_none(
    processor, monkeypatch, runs, expected
):
    processor()
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: runs)
    assert support_of("float16", CPU) == expected
    assert fastest_precision(Group(CPU)) == "float32"


def test_a_newer_name_of_the_limit_wins_over_the_older_as_in_onednn(processor, monkeypatch):
    processor(INTEL, AVX512_BF16, AMX)
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX2")
    assert support_of("bfloat16", CPU) == "emulated"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "ALL")
    assert support_of("bfloat16", CPU) == "fast"


@pytest.mark.parametrize("missing", ["x86", "onednn", "question"])
def test_float32_and_no_warning_where_nothing_is_known(processor, monkeypatch, missing):
    processor()
    if missing == "x86":
        monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    elif missing == "onednn":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    else:
        monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert fastest_precision(Group(CPU)) == "float32"
    assert explain_emulation("bfloat16", Group(CPU)) is None


@pytest.mark.parametrize(
    ("capability", "bfloat16", "float16"),
    [
        ((9, 0), "fast", "fast"),
        ((8, 0), "fast", "fast"),
        ((7, 5), "emulated", "fast"),
        ((7, 0), "emulated", "fast"),
        ((6, 1), "emulated", "slow"),
    ],
)
def test_gpus_have_bfloat16_from_ampere_and_float16_from_volta_on(gpu, capability, bfloat16, float16):
    device = gpu(*capability)
    assert (support_of("bfloat16", device), support_of("float16", device)) == (bfloat16, float16)


def test_lower_precision_is_chosen_only_where_all_processes_are_fast_in_it(hardware, monkeypatch):
    monkeypatch.setattr(Group, "sum", lambda group, values: values + 1)  # every precision is fast for the other process
    hardware("fast")
    assert fastest_precision(Group(CPU, size=2)) == "bfloat16"
    hardware("slow")
    assert fastest_precision(Group(CPU, size=2)) == "float32"


def test_emulation_is_explained_by_what_lacks_the_instructions(processor, gpu):
    processor(INTEL)
    assert explain_emulation("float32", Group(CPU)) is None
    assert explain_emulation("bfloat16", Group(CPU)) == (
        "this processor has no bfloat16 instructions: they are emulated, several times slower than float32"
    )
    processor(INTEL, AVX512_BF16, AMX, limit="avx2")
    assert "ONEDNN_MAX_CPU_ISA=AVX2 leaves this processor no bfloat16" in explain_emulation("bfloat16", Group(CPU))


PROGRAM = """
import json, torch
from spacy_elmo.pretraining.distributed import Group
from spacy_elmo.pretraining.precision import fastest_precision, support_of
cpu = torch.device("cpu")
onednn = torch.ops.mkldnn
print(json.dumps([support_of("bfloat16", cpu), support_of("float16", cpu), fastest_precision(Group(cpu)),
                  onednn._is_mkldnn_bf16_supported(), onednn._is_mkldnn_fp16_supported()]))
"""


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="of x86")
@pytest.mark.parametrize(
    "limit", ["", "AVX2", *(pytest.param(one, marks=pytest.mark.slow) for one in ("AVX512_CORE", "AVX512_CORE_BF16"))]
)
def test_what_is_said_of_this_processor_agrees_with_onednn(limit):
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": limit}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, capture_output=True, text=True)
    bfloat16, float16, chosen, runs_bfloat16, runs_float16 = json.loads(done.stdout)
    assert (float16 == "emulated") == (not runs_float16)
    if not runs_bfloat16 or limit in ("AVX2", "AVX512_CORE"):
        assert (bfloat16, chosen) == ("emulated", "float32")


# In a run


@pytest.fixture
def types(monkeypatch):
    """Collect the types that autocast uses for products, step by step."""
    found, original = [], torch.autocast

    def autocast(kind, dtype, enabled=True):
        found.append(dtype if enabled else torch.float32)
        return original(kind, dtype, enabled=enabled)

    monkeypatch.setattr("spacy_elmo.pretraining.steps.torch.autocast", autocast)
    return found


@pytest.mark.parametrize(
    ("support", "expected"),
    [("fast", "bfloat16"), ("slow", "float32"), ("emulated", "float32"), ("unknown", "float32")],
)
def test_auto_trains_in_what_the_hardware_is_fastest_in_without_a_warning(
    train, hardware, log, capsys, support, expected
):
    hardware(support)
    named = train("named", training__max_steps=5, training__precision=expected)
    out = train("auto", training__max_steps=5, training__precision="auto")
    assert capsys.readouterr().err == ""
    assert log.losses(out) == log.losses(named)
    assert Checkpoint.read(out / checkpoint.NAME).precision == expected
    assert f" in {expected};" in json.loads((out / "model_card.json").read_text())["training"]
    assert 'precision = "auto"' in (out / "pretrain.cfg").read_text()


@pytest.mark.parametrize(("asked", "is_told"), [("auto", True), ("float32", False)])
def test_choice_is_told_once_with_the_progress(corpus_file, tmp_path, tiny_config, hardware, capsys, asked, is_told):
    from spacy_elmo.pretraining.run import pretrain

    hardware("fast")
    pretrain(corpus_file, tmp_path / "out", tiny_config(training__max_steps=2, training__precision=asked))
    told = [line for line in capsys.readouterr().err.splitlines() if "precision" in line]
    assert told == (['ℹ [training] precision = "auto": bfloat16'] if is_told else [])


def test_bfloat16_that_is_emulated_is_warned_about_once_and_trains_all_the_same(train, hardware, capsys):
    hardware("emulated")
    out = train(training__max_steps=5, training__precision="bfloat16")
    assert capsys.readouterr().err == (
        '⚠ [training] precision is "bfloat16", but this processor has no bfloat16 instructions: they are emulated, '
        'several times slower than float32; set it to "auto" or "float32"\n'
    )
    assert Checkpoint.read(out / checkpoint.NAME).precision == "bfloat16"


@pytest.mark.parametrize("support", ["fast", "slow", "unknown"])
def test_bfloat16_that_is_not_emulated_is_not_warned_about(train, hardware, capsys, support):
    hardware(support)
    train(training__max_steps=2, training__precision="bfloat16")
    assert capsys.readouterr().err == ""


def test_run_of_auto_goes_on_as_it_began_on_a_machine_without_the_instructions(train, hardware, log, capsys):
    hardware("fast")
    whole = train("whole", training__max_steps=10, training__precision="auto")
    train(training__max_steps=5, training__precision="auto")
    hardware("emulated")
    out = train(resume=True, training__max_steps=10, training__precision="auto")
    assert capsys.readouterr().err == (
        '⚠ [training] precision is "bfloat16", as in the checkpoint, but this processor has no bfloat16 instructions: '
        'they are emulated, several times slower than float32; set it to "float32"\n'
    )
    assert log.losses(out) == log.losses(whole)


def test_run_of_auto_that_began_in_float32_goes_on_in_it_on_a_machine_with_the_instructions(train, hardware, log):
    hardware("emulated")
    whole = train("whole", training__max_steps=10, training__precision="auto")
    train(training__max_steps=5, training__precision="auto")
    hardware("fast")
    assert log.losses(train(resume=True, training__max_steps=10, training__precision="auto")) == log.losses(whole)


def test_resumed_run_takes_a_precision_that_is_named(train, hardware, capsys):
    hardware("emulated")
    train(training__max_steps=5, training__precision="bfloat16")
    assert 'set it to "auto" or "float32"' in capsys.readouterr().err
    out = train(resume=True, training__max_steps=7, training__precision="bfloat16")
    assert capsys.readouterr().err.endswith('set it to "float32"\n')
    train(resume=True, training__max_steps=10, training__precision="float32")
    assert capsys.readouterr().err == ""
    assert Checkpoint.read(out / checkpoint.NAME).precision == "float32"


def test_checkpoint_that_names_no_precision_goes_on_in_the_one_chosen_here(train, hardware, types):
    """Earlier versions wrote such checkpoints."""
    out = train(training__max_steps=5)
    saved = torch.load(out / checkpoint.NAME)
    del saved["precision"]
    torch.save(saved, out / checkpoint.NAME)
    hardware("fast")
    types.clear()
    train(resume=True, training__max_steps=7, training__precision="auto")
    assert types == [torch.bfloat16] * 2


@pytest.mark.parametrize("wrong", ["load", "float64", "", 16])
def test_checkpoint_that_names_an_unknown_precision_is_one_clear_error(train, wrong):
    out = train(training__max_steps=5)
    torch.save({**torch.load(out / checkpoint.NAME), "precision": wrong}, out / checkpoint.NAME)
    with pytest.raises(PretrainingError, match=f"checkpoint.pt: precision is {wrong!r}, expected one of float32"):
        train(resume=True, training__max_steps=7, training__precision="auto")


@pytest.mark.slow
@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="of x86")
def test_process_that_onednn_keeps_to_avx2_warns_of_bfloat16_and_chooses_float32(corpus_file, tmp_path, tiny_config):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    (tmp_path / "tiny.cfg").write_text(tiny_config(training__max_steps=3).text())
    for name, words in (("bfloat16", "no bfloat16 instructions"), ("auto", "")):
        arguments = [corpus_file, tmp_path / name, "--config", tmp_path / "tiny.cfg", "--quiet"]
        command = [sys.executable, "-m", "spacy_elmo.pretraining", *arguments, "--training.precision", name]
        done = subprocess.run(list(map(str, command)), env=environment, check=True, capture_output=True, text=True)
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == bool(words)
    assert Checkpoint.read(tmp_path / "auto" / checkpoint.NAME).precision == "float32"
