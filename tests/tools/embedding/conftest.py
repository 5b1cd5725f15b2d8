import pytest

from helpers.embedding import LINES, SENTENCES
from spacy_elmo.formats import load


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model(data):
    return str(data / "tiny_2l_skip")


@pytest.fixture(scope="module")
def expected(model):
    """Return all layers of each line."""
    return load(model).encode(SENTENCES)
