import pytest
import spacy

from helpers.pipelines import examples, pipeline
from spacy_elmo.bilm import BiLM


@pytest.fixture(scope="module")
def nlp():
    """A blank pipeline with the bundled model. Tests that change it make their own."""
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo")
    return nlp


@pytest.fixture(scope="session")
def tiny(data):
    return str(data / "tiny_2l_skip")


@pytest.fixture
def seen(monkeypatch):
    """Collect the sentences that the biLM reads."""
    sentences = []
    original = BiLM.stream

    def stream(self, given, *rest, **settings):
        sentences.extend(tuple(sentence) for sentence in given)
        return original(self, given, *rest, **settings)

    monkeypatch.setattr(BiLM, "stream", stream)
    return sentences


@pytest.fixture
def frozen_component(tiny):
    """Return a function that makes a pipeline and its update. `elmo` is among the frozen_components, so spaCy neither
    initializes nor updates it. Keyword arguments are those of `pipeline`."""

    def make(**settings):
        nlp = pipeline(tiny, **settings)
        with nlp.select_pipes(disable=["elmo"]):
            optimizer = nlp.initialize(lambda: examples(nlp))
        optimizer.learn_rate = 0.02

        def update(annotates=("sentencizer", "elmo")):
            nlp.update(examples(nlp), sgd=optimizer, exclude=["elmo"], annotates=list(annotates))

        return nlp, update

    return make
