import errno
import io
import os
import pickle
import re
from dataclasses import MISSING, fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.files import make_a_folder_of
from spacy_elmo.errors import PretrainingError
from spacy_elmo.pretraining import checkpoint
from spacy_elmo.pretraining.checkpoint import Checkpoint


def make(value=1.0, size=2000):
    return Checkpoint(
        options={"lstm": {"cell_clip": None, "names": ["a", "b"]}, "char_cnn": {}},
        vocabulary="digest",
        step=3,
        rows=2,
        tokens_per_step=14,
        n_positions=100,
        origin={"initialized_from": "model", "tokens_seen_before": 10},
        optimizer_name="adagrad",
        model={"weight": torch.full((2, 2), value)},
        optimizer={"state": {0: {"step": torch.tensor(3.0), "sum": torch.full((2, 2), 0.5)}}, "param_groups": []},
        scaler={},
        states=[(torch.full((2, size), value), torch.zeros(2, 3, dtype=torch.bfloat16))],
        since_log=torch.tensor([value, 2.0], dtype=torch.float64),
        precision="bfloat16",
        average={"weight": torch.full((2, 2), 2 * value)},
    )


def assert_equal(found, expected):
    for part in fields(Checkpoint):
        if part.name != "source":
            same(getattr(found, part.name), getattr(expected, part.name))


def same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        same(list(found.values()), list(expected.values()))
    elif isinstance(expected, list | tuple):
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    else:
        assert found == expected


def test_what_was_written_comes_back_as_it_was(tmp_path):
    make(0.1).write(tmp_path / "c.pt")
    found = Checkpoint.read(tmp_path / "c.pt")
    assert_equal(found, make(0.1))
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]
    assert found.source == str(tmp_path / "c.pt")


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
    make(1.0).write(path)
    assert path.stat().st_size > 16_500
    with monkeypatch.context() as patch:
        FullDisk(patch, room)
        with pytest.raises(PretrainingError, match=r"c\.pt: the checkpoint cannot be written"):
            make(2.0).write(path)
    assert Checkpoint.read(path).states[0][0][0, 0] == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_file_that_cannot_be_flushed_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    make(1.0).write(path)

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(checkpoint.os, "fsync", fail)
    with pytest.raises(PretrainingError, match="cannot be written"):
        make(2.0).write(path)
    assert Checkpoint.read(path).states[0][0][0, 0] == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_interrupted_writing_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    make(1.0).write(path)

    def interrupt(_, file):
        file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.torch, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make(2.0).write(path)
    assert Checkpoint.read(path).states[0][0][0, 0] == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_missing_directory_is_an_error_of_ours(tmp_path):
    with pytest.raises(PretrainingError, match="cannot be written"):
        make().write(tmp_path / "missing" / "c.pt")


def test_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(PretrainingError, match=r"c\.pt: no checkpoint"):
        Checkpoint.read(tmp_path / "c.pt")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "c.pt"
    make().write(path)
    return path.read_bytes()


@given(st.floats(0, 0.9999))
def test_truncated_checkpoint_is_an_error_of_ours(tmp_path_factory, whole, share):
    path = tmp_path_factory.getbasetemp() / "truncated.pt"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(PretrainingError, match=r"truncated\.pt"):
        Checkpoint.read(path)


@settings(max_examples=150)
@given(st.integers(0, 3000), st.binary(min_size=1, max_size=8))
def test_overwritten_bytes_lead_to_an_error_of_ours_or_change_nothing(tmp_path_factory, whole, place, noise):
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    path.write_bytes(whole[:place] + noise + whole[place + len(noise) :])
    try:
        found = Checkpoint.read(path)
    except PretrainingError as error:
        assert "damaged.pt" in str(error)  # noqa: PT017
    else:
        assert_equal(found, make())


def test_a_tensor_that_the_zip_calls_a_folder_is_an_error_of_ours(tmp_path, whole):
    """torch would leave it uninitialized, and say nothing."""
    (tmp_path / "c.pt").write_bytes(whole)
    make_a_folder_of(tmp_path / "c.pt", "data/0")
    with pytest.raises(PretrainingError, match=r"c\.pt: .*not a zip archive as torch writes it"):
        Checkpoint.read(tmp_path / "c.pt")


@given(st.binary(max_size=300))
def test_any_other_file_is_an_error_of_ours(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "other.pt"
    path.write_bytes(data)
    with pytest.raises(PretrainingError, match=r"other\.pt"):
        Checkpoint.read(path)


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
        Checkpoint.read(path)
    assert not trace.exists()


@pytest.mark.parametrize("content", [{"format": 0}, {}, [1], {"format": "1"}, {"format": torch.ones(2)}], ids=str)
def test_other_content_is_no_checkpoint(tmp_path, content):
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(PretrainingError, match="not a checkpoint of this version"):
        Checkpoint.read(tmp_path / "c.pt")


@pytest.fixture
def with_part(tmp_path):
    """Return a function that writes a checkpoint with changed parts and returns its path. It omits parts that are
    `MISSING`."""

    def write(**changed):
        path = tmp_path / "c.pt"
        make().write(path)
        content = {**torch.load(path), **changed}
        torch.save({name: value for name, value in content.items() if value is not MISSING}, path)
        return path

    return write


PARTS = [part.name for part in fields(Checkpoint) if part.name != "source"]
VALUES = (
    None,
    7,
    -1,
    1.5,
    True,
    "text",
    b"bytes",
    [],
    [1],
    (),
    {},
    {"a": 1},
    {1: "a"},
    torch.ones(3),
    [(1, 2)],
    10**500,
)


@pytest.mark.parametrize("name", PARTS)
def test_each_part_that_is_missing_is_an_error_that_names_it_or_was_not_there_in_earlier_versions(with_part, name):
    path = with_part(**{name: MISSING})
    if name in ("precision", "average"):
        assert getattr(Checkpoint.read(path), name) is None
        return
    with pytest.raises(PretrainingError, match=rf"c\.pt: {name} is missing, expected "):
        Checkpoint.read(path)


@pytest.mark.parametrize("name", PARTS)
def test_each_part_of_another_type_is_an_error_that_names_it(with_part, name):
    refused = 0
    for value in VALUES:
        try:
            Checkpoint.read(with_part(**{name: value}))
        except PretrainingError as error:
            assert re.match(rf".*c\.pt: {name} is .*, expected .*; the file is damaged", str(error))  # noqa: PT017
            refused += 1
    assert refused >= len(VALUES) - 4  # a few values are right for some parts


ODD_TENSORS = {
    "sparse": lambda tensor: tensor.to_sparse(),
    "without memory": lambda tensor: tensor.to("meta"),
    "in one place": lambda tensor: tensor[:1].expand(tensor.shape),
    "a parameter": torch.nn.Parameter,
}


@pytest.mark.parametrize("name", ["model", "average", "states", "since_log"])
@pytest.mark.parametrize("change", ODD_TENSORS.values(), ids=ODD_TENSORS)
def test_tensors_that_no_step_can_be_taken_in_are_an_error(with_part, name, change):
    odd = change(torch.ones(2, dtype=torch.float64))
    value = {"states": [(odd, odd)], "since_log": odd}.get(name, {"weight": odd})
    with pytest.raises(PretrainingError, match=rf"c\.pt: {name} is .*, expected"):
        Checkpoint.read(with_part(**{name: value}))


@pytest.mark.parametrize("change", ODD_TENSORS.values(), ids=ODD_TENSORS)
def test_such_tensors_are_an_error_in_the_memory_of_an_optimizer(change):
    tensor = torch.ones(2, 2)
    with pytest.raises(PretrainingError, match=r"sum is .*expected numbers \[2, 2\]"):
        checkpoint.check_tensor(change(tensor), tensor, "c.pt: sum")


@pytest.mark.parametrize("value", [torch.ones(3), b"x", {1: 2}, 10**30], ids=["tensor", "bytes", "key", "large"])
def test_options_that_no_json_can_say_are_an_error(with_part, value):
    with pytest.raises(PretrainingError, match=r"c\.pt: options is .*expected the options of a biLM"):
        Checkpoint.read(with_part(options={"lstm": {"cell_clip": value}, "char_cnn": {}}))


def test_names_in_errors_are_short_and_on_one_line():
    with pytest.raises(PretrainingError) as caught:
        checkpoint.check_tensors({"\n\ud800" * 500: torch.ones(1)}, {}, "c.pt: model")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_more_tokens_than_rows_can_read_are_an_error(with_part):
    with pytest.raises(PretrainingError, match="tokens_per_step is 11, expected a multiple of rows, 2"):
        Checkpoint.read(with_part(tokens_per_step=11))
