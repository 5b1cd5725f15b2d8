import json
import re
from pathlib import Path

import pytest
import spacy
from spacy.tokens import Doc
from spacy.training import Example

from spacy_elmo import __version__
from spacy_elmo.bilm import kernels
from spacy_elmo.formats import digest, load
from spacy_elmo.tools.describe import human_size


def test_info_of_the_bundled_model_is_one_json_object(elmo, bundled_width):
    done = elmo("info", "--json")
    assert done.status == 0
    facts = json.loads(done.stdout)
    bilm = load("en_elmo_sm")
    assert facts["name"] == "en_elmo_sm"
    assert facts["digest"] == digest(bilm)
    assert facts["layers"] == 2
    assert facts["width"] == 2 * facts["projection_dim"] == bundled_width
    assert facts["dim"] == bilm.options.lstm.dim
    assert facts["max_characters"] == 50
    assert facts["n_characters"] == 262
    assert facts["license"] == "CC BY-SA 4.0"
    # the zero row before the character embeddings is ours, and not in the file
    assert facts["parameters"] == sum(p.numel() for p in bilm.parameters()) - bilm.options.char_cnn.embedding_dim


def test_info_as_a_table(elmo, data):
    done = elmo("info", data / "tiny_2l_clip")
    assert done.status == 0
    assert re.search(r"clipping +cell 0.5, projection 0.3", done.stdout)
    assert re.search(r"license +not stated", done.stdout)
    assert re.search(r"name +tiny_2l_clip", done.stdout)


def test_machine_is_one_json_object(elmo, monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    done = elmo("info", "--machine", "--json")
    assert done.status == 0
    facts = json.loads(done.stdout)
    assert facts["model"] == "en_elmo_sm"
    assert facts["variables"]["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    in_float32 = [case["case"] for case in facts["engines"] if (case["device"], case["setting"]) == ("cpu", "float32")]
    assert in_float32 == ["one sentence", "stream", "training"]


def test_machine_as_a_table(elmo, data):
    done = elmo("info", data / "tiny_2l_clip", "--machine")
    assert done.status == 0
    for name in ("processor", "compiled part", "torch", "threads", "GPUs", "pretraining"):
        assert re.search(rf"^{name} +\S", done.stdout, re.MULTILINE), name
    assert "What runs the LSTM layers of tiny_2l_clip" in done.stdout
    assert re.search(r"^training, cpu, .*\n +gradients_by_hand +in float32 ", done.stdout, re.MULTILINE)


@pytest.mark.skipif(kernels.is_missing(), reason="built without a C compiler")
def test_machine_tells_the_instruction_set_that_was_asked_for(elmo_process):
    done = elmo_process("info", "--machine", "--json", SPACY_ELMO_ISA="generic")
    facts = json.loads(done.stdout)
    assert facts["compiled_part"]["instruction_set"] == facts["variables"]["SPACY_ELMO_ISA"] == "generic"
    assert "compiled" not in [case["engine"] for case in facts["engines"]]


def test_machine_with_an_unknown_instruction_set_is_one_line_and_status_1(elmo_process):
    done = elmo_process("info", "--machine", SPACY_ELMO_ISA="avx1024")
    if kernels.is_missing():
        assert done.status == 0
        return
    assert done.status == 1
    assert "avx1024" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def pipeline(data, tmp_path_factory):
    """Save a pipeline whose tagger listens to elmo. It is not trained yet."""
    path, nlp = tmp_path_factory.mktemp("pipeline"), spacy.blank("en")
    nlp.add_pipe("elmo", config={"model": {"weights": str(data / "tiny_2l_skip")}})
    listener = {"@architectures": "spacy-elmo.ElmoListener.v1", "width": 32, "initial_weights": [0.0, 0.0, 1.0]}
    nlp.add_pipe("tagger", config={"model": {"tok2vec": listener}})
    tagged = Doc(nlp.vocab, words=["It", "works"], tags=["PRON", "VERB"])
    nlp.initialize(lambda: [Example(tagged.copy(), tagged)])
    nlp.to_disk(path)
    return path


def test_info_of_a_pipeline_shows_its_elmo_and_what_tasks_have_learned(elmo, pipeline):
    done = elmo("info", pipeline)
    assert done.status == 0
    assert re.search(r"^components +elmo, tagger$", done.stdout, re.MULTILINE)
    assert re.search(r"^mix of tagger +0\.212 0\.212 0\.576, gamma 1\.000$", done.stdout, re.MULTILINE)
    assert re.search(r"^vectors +32 wide", done.stdout, re.MULTILINE)


def test_info_of_a_pipeline_is_one_json_object(elmo, pipeline, data):
    facts = json.loads(elmo("info", pipeline, "--json").stdout)
    assert facts["task_weights"]["tagger"][0]["gamma"] == 1.0
    assert facts["elmo"]["bilm"]["digest"] == digest(load(data / "tiny_2l_skip"))


def test_machine_tells_what_runs_the_elmo_of_a_pipeline(elmo, pipeline):
    facts = json.loads(elmo("info", pipeline, "--machine", "--json").stdout)
    assert {case["case"] for case in facts["engines"]} == {"one sentence", "stream", "training"}


@pytest.mark.parametrize("option", [[], ["--machine"]])
def test_info_of_a_pipeline_without_elmo_is_one_line_and_status_1(elmo, tmp_path, option):
    spacy.blank("en").to_disk(tmp_path)
    done = elmo("info", tmp_path, *option)
    assert done.status == 1
    assert re.fullmatch(rf"✘ {tmp_path}: this pipeline has no elmo.*none\n", done.stderr)


@pytest.mark.parametrize("option", [[], ["--machine"]])
@pytest.mark.parametrize("model", ["/no/such/model", "no_such_name"])
def test_info_of_no_model_is_one_line_and_status_1(elmo, model, option):
    done = elmo("info", model, *option)
    assert done.status == 1
    assert model in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_wrong_usage_is_status_2(elmo):
    assert elmo("info", "--no-such-option").status == 2
    assert elmo("no-such-command").status == 2


def test_help_has_an_example(elmo):
    done = elmo("info", "--help")
    assert done.status == 0
    assert "python -m spacy elmo info" in done.stdout
    assert "info" in elmo("--help").stdout


def test_version_is_the_installed_one():
    import importlib.metadata

    assert importlib.metadata.version("spacy-elmo") == __version__


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_line_and_status_1(elmo_process):
    with Path("/dev/full").open("w") as full:
        done = elmo_process("info", "en_elmo_sm", stdout=full)
    assert done.status == 1
    assert re.fullmatch(r"✘ .*No space left on device\n", done.stderr)


def test_output_in_an_encoding_without_our_signs_is_escaped(elmo_process, tmp_path):
    done = elmo_process("init-config", tmp_path / "a.cfg", "--pretrain", PYTHONIOENCODING="cp1252", PYTHONUTF8="0")
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout.startswith("\\u2714 ")


def test_small_weights_are_told_in_kilobytes(elmo, data):
    assert re.search(r"weights +\d+\.\d (kB|MB)", elmo("info", data / "tiny_2l_skip").stdout)
    assert human_size(25_104) == "25.1 kB"
    assert human_size(3_600_000) == "3.6 MB"
