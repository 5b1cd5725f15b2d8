"""What `info` finds in a pipeline on disk and in an installed package."""

import json
import shutil

import pytest
import spacy

from spacy_elmo import ElmoError, task_weights
from spacy_elmo.tools.describe import describe
from spacy_elmo.tools.describe_pipeline import describe_pipeline, find_bilm, find_pipeline, table


@pytest.fixture(scope="module")
def nlp(data):
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.add_pipe("elmo", name="vectors", config={"layers": "top", "model": {"weights": str(data / "tiny_2l_skip")}})
    for name, mix in (("tagger", "learned"), ("morphologizer", [0.5, 0.25, 0.25])):
        listener = {"@architectures": "spacy-elmo.ElmoListener.v1", "upstream": "vectors", "width": 32, "mix": mix}
        nlp.add_pipe(name, config={"model": {"tok2vec": listener}})
    tagged = spacy.tokens.Doc(nlp.vocab, words=["We", "live"], tags=["PRON", "VERB"], pos=["PRON", "VERB"])
    nlp.initialize(lambda: [spacy.training.Example(tagged.copy(), tagged)])
    return nlp


@pytest.fixture(scope="module")
def saved(nlp, tmp_path_factory):
    """Save the pipeline. Do not change the directory."""
    path = tmp_path_factory.mktemp("saved")
    nlp.to_disk(path)
    return path


def test_a_saved_pipeline_tells_of_its_elmo_and_of_what_tasks_have_learned(saved, nlp, data):
    assert find_pipeline(str(saved)) == saved
    facts = describe_pipeline(str(saved))
    assert facts["components"] == nlp.pipe_names
    elmo = facts["elmo"]
    assert (elmo["name"], elmo["frozen"], elmo["layers"]) == ("vectors", True, "top")
    assert elmo["bilm"]["digest"] == describe(str(data / "tiny_2l_skip"))["digest"]
    (tagger,), (morphologizer,) = facts["task_weights"].values()
    assert tagger == vars(task_weights(nlp)["tagger"][0])
    assert (morphologizer["mix"], morphologizer["weights"]) == ([0.5, 0.25, 0.25], None)
    assert json.loads(json.dumps(facts)) == facts


def test_the_table_shows_each_mix(saved):
    lines = dict(line.split("  ", 1) for line in table(describe_pipeline(str(saved))).splitlines() if line)
    shown = {name: value.strip() for name, value in lines.items()}
    assert shown["mix of tagger"] == "0.333 0.333 0.333, gamma 1.000"
    assert shown["mix of morphologizer"] == "fixed, [0.5, 0.25, 0.25]"
    assert shown["vectors"].startswith(("frozen, ", "32 wide"))


def test_a_replaced_listener_is_said_to_have_a_model_of_its_own(saved, tmp_path):
    nlp = spacy.load(saved)
    nlp.replace_listeners("vectors", "tagger", ["model.tok2vec"])
    nlp.remove_pipe("morphologizer")
    nlp.remove_pipe("vectors")
    nlp.to_disk(tmp_path)
    facts = describe_pipeline(str(tmp_path))
    assert facts["elmo"] is None
    assert "mix of tagger  0.333 0.333 0.333, gamma 1.000 (of its own biLM)" in table(facts)


def test_the_biLM_of_a_pipeline_is_found(saved):  # noqa: N802
    assert find_bilm("pipeline", saved) == saved / "vectors" / "model"


def test_an_installed_package_is_found_by_its_name(saved, tmp_path, monkeypatch):
    package = tmp_path / "en_tiny_tagger"
    shutil.copytree(saved, package / "en_tiny_tagger-1.0.0")
    (package / "__init__.py").write_text("raise AssertionError('must not be imported to find it')")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_pipeline("en_tiny_tagger") == package / "en_tiny_tagger-1.0.0"


@pytest.mark.parametrize("name", ["en_elmo_sm", "allennlp-small", "no_such_name", "json", "__main__", "x" * 5000, ""])
def test_what_is_no_pipeline_is_none(name):
    assert find_pipeline(name) is None


def test_the_directory_of_a_model_is_none(data):
    assert find_pipeline(str(data / "tiny_2l_skip")) is None


def test_a_pipeline_without_elmo_is_an_error_that_names_its_components(tmp_path):
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.to_disk(tmp_path)
    for call in (describe_pipeline, lambda name: find_bilm(name, tmp_path)):
        with pytest.raises(
            ElmoError, match=rf"^{tmp_path}: this pipeline has no elmo; its components are sentencizer$"
        ):
            call(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "content"),
    [("config.cfg", b"no config"), ("meta.json", b"{"), ("tagger/model", b"\x81"), ("vocab/strings.json", b"")],
)
def test_a_damaged_pipeline_is_an_error_of_one_line_that_names_it(saved, tmp_path, file, content):
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    (copy / file).write_bytes(content)
    with pytest.raises(ElmoError, match=rf"^{copy}: cannot be loaded as a pipeline \(.+\)$") as caught:
        describe_pipeline(str(copy))
    assert "\n" not in str(caught.value)


def test_damaged_weights_are_an_error_that_names_them(saved, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    (copy / "vectors" / "model" / "weights.hdf5").unlink()
    with pytest.raises(ElmoError, match=str(copy / "vectors" / "model")):
        describe_pipeline(str(copy))
