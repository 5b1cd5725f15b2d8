"""The weights file is opened once, whatever is done with the model."""

import io
from pathlib import Path

import h5py
import pytest
from typer.testing import CliRunner

from spacy_elmo.cli import elmo_cli
from spacy_elmo.formats import load, softmax_hdf5, write
from spacy_elmo.tools.embed import embed_file

LINES = ["the bank lent money", "a bank of sand", "he sat on the bank"]
WORDS = ["<S>", "</S>", "<UNK>", "the", "bank"]


@pytest.fixture
def model(data, tmp_path):
    """A model with all its parts."""
    bilm, out = load(data / "tiny_2l_skip"), tmp_path / "model"
    write(bilm, out)
    (out / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))
    softmax_hdf5.write(softmax_hdf5.Softmax(len(WORDS), bilm.options.lstm.projection_dim), out / "softmax.hdf5")
    return out


@pytest.fixture
def opened(monkeypatch):
    """Names of the files that Python or HDF5 open from now on."""
    seen = []

    def counting(original, position):
        def call(*arguments, **settings):
            if isinstance(name := arguments[position], str | bytes | Path):
                seen.append(Path(name.decode() if isinstance(name, bytes) else name).resolve())
            return original(*arguments, **settings)

        return call

    monkeypatch.setattr(h5py.File, "__init__", counting(h5py.File.__init__, 1))
    monkeypatch.setattr(h5py, "is_hdf5", counting(h5py.is_hdf5, 0))
    monkeypatch.setattr(io, "open", counting(io.open, 0))
    return seen


COMMANDS = [
    "info MODEL",
    "convert MODEL OUT",
    "evaluate MODEL TEXT",
    "substitutes TEXT --model MODEL",
    "visualize TEXT OUT.png --model MODEL",
    "neighbours bank CORPUS --model MODEL --in SENTENCE",
    "embed TEXT OUT.hdf5 --model MODEL",
    "init-config OUT.cfg --pipeline ner --lang en --weights MODEL",
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[0])
@pytest.mark.parametrize("named", ["directory", "file"])
def test_a_command_opens_the_weights_once(model, tmp_path, opened, command, named):
    text, corpus = tmp_path / "text.txt", tmp_path / "corpus.hdf5"
    text.write_text("".join(f"{line}\n" for line in LINES))
    embed_file(text, corpus, model=str(model))
    weights = model / "weights.hdf5"
    values = {
        "MODEL": str(model if named == "directory" else weights),
        "TEXT": str(text),
        "CORPUS": str(corpus),
        "SENTENCE": "the bank lent",
    }
    arguments = [values.get(word, word.replace("OUT", str(tmp_path / "out"))) for word in command.split()]
    opened.clear()
    done = CliRunner().invoke(elmo_cli, arguments)
    assert done.exit_code == 0, done.output
    assert opened.count(weights.resolve()) == (0 if command.startswith("init-config") else 1)
    assert opened.count((model / "softmax.hdf5").resolve()) <= 1
