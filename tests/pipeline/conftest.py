import pytest
import spacy


@pytest.fixture(scope="module")
def nlp():
    """A blank pipeline with the bundled model; tests that change it make their own."""
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo")
    return nlp
