"""`threads` as a setting of the component: passed to the biLM, saved, loaded, and refused where it makes no sense."""

import pytest
import spacy
from thinc.api import Config

from helpers.pipelines import blank, listener
from spacy_elmo.errors import ElmoError
from spacy_elmo.pipeline.shim import shim_of


def threads_of(nlp, component="elmo"):
    return [shim_of(node).bilm.threads for node in nlp.get_pipe(component).model.walk() if node.name == "elmo_bilm"]


def test_threads_survive_saving(tiny, tmp_path):
    nlp = blank(tiny, model={"threads": 2})
    assert threads_of(nlp) == [2]
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    assert threads_of(loaded) == [2]
    assert threads_of(loaded.from_bytes(nlp.to_bytes())) == [2]
    assert threads_of(spacy.load(tmp_path, config={"components.elmo.model.threads": "auto"})) == ["auto"]


def test_a_pipeline_saved_without_the_setting_loads(tiny, tmp_path):
    nlp = blank(tiny)
    assert threads_of(nlp) == ["auto"]
    assert "threads" not in nlp.get_pipe("elmo").model.attrs
    nlp.to_disk(tmp_path)
    config = Config().from_disk(tmp_path / "config.cfg")
    del config["components"]["elmo"]["model"]["threads"]
    config.to_disk(tmp_path / "config.cfg")
    assert threads_of(spacy.load(tmp_path)) == ["auto"]


def test_a_biLM_in_the_place_of_a_listener_keeps_the_setting(tiny):  # noqa: N802
    nlp = blank(tiny, model={"threads": 2})
    nlp.add_pipe("tagger", config={"model": {"tok2vec": listener()}})
    nlp.replace_listeners("elmo", "tagger", ["model.tok2vec"])
    assert threads_of(nlp, "tagger") == [2]
    assert nlp.config["components"]["tagger"]["model"]["tok2vec"]["bilm"]["threads"] == 2


@pytest.mark.parametrize("wrong", [0, -2, True, 1.5, "2", "two", None, [1]])
def test_a_wrong_number_of_threads_is_one_clear_error(wrong):
    with pytest.raises(ElmoError, match=r'^threads is .*, expected "auto" or a whole number of at least 1$'):
        blank("en_elmo_sm", model={"threads": wrong})
