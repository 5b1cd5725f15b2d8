"""Who listens to `elmo`: listeners that two pipelines share, and pipelines that are dropped."""

import gc
import weakref

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc
from spacy.training import Example

from spacy_elmo.pipeline.listener import link_of
from spacy_elmo.pipeline.shim import shim_of

WIDTH = 32  # of tests/data/tiny_2l_skip
LISTENER = {"@architectures": "spacy-elmo.ElmoListener.v1", "width": WIDTH}
SPACYS = {"@architectures": "spacy.Tok2VecListener.v1", "width": WIDTH, "upstream": "elmo"}
WORDS, TAGS = ["Peter", "met", "Anna"], ["N", "V", "N"]


@pytest.fixture
def make(data):
    """A trained pipeline: elmo, tagger."""

    def make(listener=LISTENER, frozen=True):
        nlp = spacy.blank("en")
        nlp.add_pipe("elmo", config={"model": {"weights": str(data / "tiny_2l_skip")}, "frozen": frozen})
        nlp.add_pipe("tagger", config={"model": {"tok2vec": listener}})
        examples = [Example(Doc(nlp.vocab, words=WORDS), Doc(nlp.vocab, words=WORDS, tags=TAGS))]
        optimizer = nlp.initialize(lambda: examples)
        for _ in range(2):
            nlp.update(examples, sgd=optimizer)
        return nlp

    return make


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("listener", [LISTENER, SPACYS], ids=["ours", "spacys"])
def test_dropped_pipeline_is_freed_without_the_garbage_collector(make, listener, frozen):
    gc.collect()
    gc.disable()
    try:
        nlp = make(listener, frozen)
        nlp(" ".join(WORDS))
        bilm = weakref.ref(shim_of(nlp.get_pipe("elmo").model).bilm)
        del nlp
        assert bilm() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("first", [0, 1])
def test_listener_of_two_pipelines_reads_what_the_elmo_of_each_gave(make, first):
    """A component that is sourced is one object in both."""
    one = make()
    other = spacy.blank("en", vocab=one.vocab)
    other.add_pipe("elmo", source=make())
    other.add_pipe("tagger", source=one)
    tagger = one.get_pipe("tagger")
    assert other.get_pipe("tagger") is tagger
    pipelines = [one, other]
    elmos = [nlp.get_pipe("elmo") for nlp in pipelines]
    for number in (first, 1 - first, first):
        doc = elmos[number](Doc(one.vocab, words=WORDS))
        link = next(link for node in tagger.model.walk() if (link := link_of(node)))
        assert link.get_upstream([doc]) is elmos[number].hub
        np.testing.assert_array_equal(elmos[number].rows([doc])[0], link.get_upstream([doc]).rows([doc])[0])


def test_listener_goes_on_with_the_pipeline_that_is_left(make):
    one = make()
    other = spacy.blank("en", vocab=one.vocab)
    other.add_pipe("elmo", source=make())
    other.add_pipe("tagger", source=one)
    expected = [token.tag_ for token in one(Doc(one.vocab, words=WORDS))]
    del other
    gc.collect()
    assert [token.tag_ for token in one(Doc(one.vocab, words=WORDS))] == expected
