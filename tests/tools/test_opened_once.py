"""The weights file is opened only once, whatever you do with the model."""

import io
from pathlib import Path

import h5py
import pytest

from helpers.commands import Commands


@pytest.fixture
def opened(monkeypatch):
    """Collect the names of files that Python or HDF5 open from now on."""
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
def test_a_command_opens_the_weights_once(whole_model, tmp_path, opened, command, named):
    commands, weights = Commands(whole_model, tmp_path), whole_model / "weights.hdf5"
    opened.clear()
    done = commands.run(command, MODEL=str(whole_model if named == "directory" else weights))
    assert done.exit_code == 0, done.output
    assert opened.count(weights.resolve()) == (0 if command.startswith("init-config") else 1)
    assert opened.count((whole_model / "softmax.hdf5").resolve()) <= 1
