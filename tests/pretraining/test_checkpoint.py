import errno
import io
import os
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_elmo.errors import PretrainingError
from spacy_elmo.pretraining import checkpoint


def state(value=1.0, size=2000):
    return {
        "format": checkpoint.FORMAT,
        "step": 3,
        "states": [(torch.full((2, size), value), torch.zeros(2, 3, dtype=torch.bfloat16))],
        "options": {"lstm": {"cell_clip": None, "names": ["a", "b"]}},
    }


def test_state_comes_back_as_it_was(tmp_path):
    checkpoint.save(tmp_path / "c.pt", state(0.1))
    found, expected = checkpoint.load(tmp_path / "c.pt"), state(0.1)
    for one, other in zip(found["states"][0], expected["states"][0], strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert found["options"] == expected["options"]
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


class FullDisk:
    """Makes files full after `room` bytes."""

    def __init__(self, monkeypatch, room):
        class File(io.FileIO):
            def write(self, data):
                if self.tell() + len(data) > room:
                    super().write(bytes(data)[: max(0, room - self.tell())])
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return super().write(data)

        original = checkpoint.Path.open

        def opened(path, mode="r", *arguments, **keywords):
            if "w" in mode and "b" in mode:
                return File(path, mode.replace("b", ""))
            return original(path, mode, *arguments, **keywords)

        monkeypatch.setattr(checkpoint.Path, "open", opened)


@pytest.mark.parametrize("room", [0, 100, 8_000, 16_500])
def test_full_disk_keeps_the_checkpoint_before_and_leaves_nothing_else(tmp_path, monkeypatch, room):
    path = tmp_path / "c.pt"
    checkpoint.save(path, state(1.0))
    assert path.stat().st_size > 16_500
    with monkeypatch.context() as patch:
        FullDisk(patch, room)
        with pytest.raises(PretrainingError, match=r"c\.pt: the checkpoint cannot be written"):
            checkpoint.save(path, state(2.0))
    assert checkpoint.load(path)["states"][0][0][0, 0] == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_file_that_cannot_be_flushed_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    checkpoint.save(path, state(1.0))

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(checkpoint.os, "fsync", fail)
    with pytest.raises(PretrainingError, match="cannot be written"):
        checkpoint.save(path, state(2.0))
    assert checkpoint.load(path)["states"][0][0][0, 0] == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_interrupted_writing_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    checkpoint.save(path, state(1.0))

    def interrupt(_, file):
        file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.torch, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, state(2.0))
    assert checkpoint.load(path)["states"][0][0][0, 0] == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_missing_directory_is_an_error_of_ours(tmp_path):
    with pytest.raises(PretrainingError, match="cannot be written"):
        checkpoint.save(tmp_path / "missing" / "c.pt", state())


def test_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(PretrainingError, match=r"c\.pt: no checkpoint"):
        checkpoint.load(tmp_path / "c.pt")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "c.pt"
    checkpoint.save(path, state())
    return path.read_bytes()


@given(st.floats(0, 0.9999))
def test_truncated_checkpoint_is_an_error_of_ours(tmp_path_factory, whole, share):
    path = tmp_path_factory.getbasetemp() / "truncated.pt"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(PretrainingError, match=r"truncated\.pt"):
        checkpoint.load(path)


@settings(max_examples=150)
@given(st.integers(0, 3000), st.binary(min_size=1, max_size=8))
def test_overwritten_bytes_lead_to_an_error_of_ours_or_are_not_noticed(tmp_path_factory, whole, place, noise):
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    path.write_bytes(whole[:place] + noise + whole[place + len(noise) :])
    try:
        checkpoint.load(path)
    except PretrainingError as error:
        assert "damaged.pt" in str(error)  # noqa: PT017


@given(st.binary(max_size=300))
def test_any_other_file_is_an_error_of_ours(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "other.pt"
    path.write_bytes(data)
    with pytest.raises(PretrainingError, match=r"other\.pt"):
        checkpoint.load(path)


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("packed", [False, True])
def test_code_in_a_checkpoint_is_not_run(tmp_path, packed):
    trace, path = tmp_path / "trace", tmp_path / "c.pt"
    content = {"format": checkpoint.FORMAT, "model": Hostile(trace)}
    if packed:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(PretrainingError, match=r"c\.pt"):
        checkpoint.load(path)
    assert not trace.exists()


@pytest.mark.parametrize("content", [{"format": 0}, {}, [1], {"format": "1"}], ids=str)
def test_other_content_is_no_checkpoint(tmp_path, content):
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(PretrainingError, match="not a checkpoint of this version"):
        checkpoint.load(tmp_path / "c.pt")
