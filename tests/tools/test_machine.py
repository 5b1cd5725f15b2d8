import copy
import platform
import warnings
from pathlib import Path

import pytest
import torch

from spacy_elmo.bilm import engines, kernels, lstm
from spacy_elmo.errors import ElmoError
from spacy_elmo.formats import load
from spacy_elmo.tools import machine

ROOT = Path(__file__).resolve().parents[2]
CASES = {case.name: case for case in machine.CASES}


@pytest.fixture
def calls(monkeypatch):
    """Collect the engine, the rows of the first time step, and the precision of each call."""
    found = []

    def watch(owner, attribute, name):
        run = getattr(owner, attribute)

        def watched(*args):
            layer, call = args[-2:]
            engine = args[0] if len(args) == 3 else None
            found.append((name, call.rows, engine and engine.precision(layer, call)))
            return run(*args)

        monkeypatch.setattr(owner, attribute, watched)

    for engine in engines.ENGINES:
        watch(type(engine), "run", engine.name)
    watch(lstm, "plain_recurrence", "plain_recurrence")
    return found


def use(bilm, case):
    """Run the biLM as the case says, on sentences of one length."""
    sentences = [["We", "sat", "here"]] * case.rows
    if not case.is_training:
        bilm.encode(sentences)
        return
    trained = copy.deepcopy(bilm).requires_grad_()
    for batch in trained.stream_with_gradients(sentences):
        batch.layers.sum().backward()
    assert all(parameter.grad is not None for parameter in trained.layers.parameters())


@pytest.mark.parametrize("has_compiled_part", [True, False])
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("name", CASES)
def test_engine_that_is_named_is_the_one_that_is_called(
    name, precision, has_compiled_part, data, calls, without_compiled_part
):
    if has_compiled_part and kernels.is_missing():
        pytest.skip("built without a C compiler")
    if not has_compiled_part:
        without_compiled_part()
    bilm = load(data / "tiny_2l_clip")
    try:
        bilm.set_precision(precision)
    except ElmoError:
        pytest.skip("no means for this precision here")
    (facts,) = [facts for facts in machine.describe_engines(bilm) if facts["case"] == name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        use(bilm, CASES[name])
    assert set(calls) == {(facts["engine"], facts["rows"], facts["precision"])}
    assert len(calls) == len(facts["layers"]) == 2
    assert (ROOT / facts["file"]).is_file()


def test_each_engine_before_the_named_one_has_its_reasons(data):
    names = [engine.name for engine in engines.ENGINES]
    for facts in machine.describe_engines(load(data / "tiny_2l_clip")):
        assert list(facts["reasons_against"]) == names[: names.index(facts["engine"])]
        assert all(facts["reasons_against"].values())


def test_layers_that_are_run_in_different_ways_are_told_apart(data, calls):
    bilm = load(data / "tiny_2l_clip")
    bilm.layers[1].requires_grad_()
    found = [facts for facts in machine.describe_engines(bilm) if facts["case"] == "one sentence"]
    bilm.encode([["We", "sat", "here"]])
    assert [facts["layers"] for facts in found] == [[0], [1]]
    assert [facts["engine"] for facts in found] == [name for name, _, _ in calls]
    assert found[0]["engine"] != found[1]["engine"] == "in_place"


def test_model_is_as_it_was(data):
    bilm = load(data / "tiny_2l_clip")
    bilm.encode([["We", "sat", "here"]])
    kept = [dict(layer._packed._contents) for layer in bilm.layers]
    before = {name: (value.data_ptr(), value.dtype, value.requires_grad) for name, value in bilm.named_parameters()}
    machine.describe_engines(bilm)
    assert before == {
        name: (value.data_ptr(), value.dtype, value.requires_grad) for name, value in bilm.named_parameters()
    }
    assert [layer._packed._contents for layer in bilm.layers] == kept != [{}, {}]
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_machine_is_described_by_what_is_in_use(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    facts = machine.describe_machine()
    assert facts["processor"]
    assert facts["machine"] == platform.machine()
    assert facts["torch"]["version"] == torch.__version__
    assert facts["variables"]["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert facts["threads"]["torch"] == torch.get_num_threads()
    assert 1 <= facts["threads"]["auto"] <= facts["threads"]["usable_cpus"]
    assert facts["compiled_part"]["instruction_set"] == kernels.instruction_set()
    assert facts["pretraining_precision"] in ("float32", "bfloat16", "float16")


def test_table_says_what_is_missing(data, monkeypatch, without_compiled_part):
    without_compiled_part()
    monkeypatch.setattr(kernels, "is_for_this_platform", lambda: True)
    lines = machine.table(machine.describe_all(str(data / "tiny_2l_clip"))).splitlines()
    assert sum(line.startswith("compiled part  none: the compiled part was not built") for line in lines) == 1
    assert any(line.split()[:2] == ["not", "compiled"] and "was not built" in line for line in lines)
