"""HDF5 files: written even when the disk fills up, and read whichever program made them."""

import gc
import io
import struct

import h5py
import numpy as np
import pytest

from spacy_elmo import WeightsError
from spacy_elmo.formats.hdf5_file import find_dataset, has_values, new_hdf5, refuse_bomb

ARRAYS = {f"group/{n}": np.arange(n, dtype=np.float32) for n in range(200)}


class Full(io.BytesIO):
    """A file on a disk with this much room."""

    def __init__(self, room, error):
        super().__init__()
        self.room, self.error, self.failures = room, error, 0

    def write(self, data):
        if self.tell() + len(data) > self.room:
            self.failures += 1
            raise self.error
        return super().write(data)


def fill(file):
    with new_hdf5(file) as hdf5:
        for name, array in ARRAYS.items():
            assert name not in hdf5
            hdf5.add(name, array)
            assert name in hdf5


def test_arrays_are_those_written():
    file = io.BytesIO()
    fill(file)
    with h5py.File(file) as hdf5:
        assert len(hdf5["group"]) == len(ARRAYS)
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(hdf5[name], array)


@pytest.mark.parametrize("room", [0, 500, 5_000, 50_000, 100_000])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "Ctrl-C"])
def test_the_first_error_of_the_file_is_raised_and_hdf5_is_closed(room, error, capfd):
    file = Full(room, error)
    with pytest.raises(type(error)) as raised:
        fill(file)
    gc.collect()
    assert raised.value is error
    assert file.failures == 1
    assert capfd.readouterr().err == ""
    fill(io.BytesIO())  # HDF5 still works


def test_an_error_of_the_caller_stays_what_it_is():
    def fail():
        with new_hdf5(io.BytesIO()) as hdf5:
            hdf5.add("a", [1.0])
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()


def stored(shape, libver="earliest", is_written=True, **how):
    """Make an HDF5 file with a dataset `x`."""
    file = io.BytesIO()
    with h5py.File(file, "w", libver=libver) as hdf5:
        dataset = hdf5.create_dataset("x", shape, "f4", **how)
        if is_written:
            dataset[...] = 0.5
    return file


def index_that_names_itself(content, levels):
    """Put levels above the chunk index of `x`. Each of a level's 64 entries leads to the same node below."""
    content = bytearray(content)
    (leaf,) = (at for at in range(len(content)) if content[at : at + 5] == b"TREE\1")
    root = content.index(struct.pack("<Q", leaf))
    assert struct.unpack_from("<H", content, leaf + 6) == (64,)
    key, below = 8 + 3 * 8, leaf
    for level in range(1, levels + 1):
        node = content[leaf : leaf + 24 + 65 * key + 64 * 8]
        node[5] = level
        for number in range(64):
            struct.pack_into("<Q", node, 24 + (number + 1) * key + number * 8, below)
        below = len(content)
        content += node
    struct.pack_into("<Q", content, root, below)
    struct.pack_into("<Q", content, 40, len(content))  # where the superblock has the end of the file
    return io.BytesIO(content)


def test_an_index_of_chunks_that_names_itself_is_not_walked():
    """Each level multiplies the time to sum up the chunks by 64. Here it would be longer than the age of the
    universe."""
    with h5py.File(index_that_names_itself(stored((64, 1), chunks=(1, 1)).getvalue(), levels=12)) as hdf5:
        assert has_values(hdf5["x"])
        np.testing.assert_array_equal(hdf5["x"], np.full((64, 1), 0.5, np.float32))


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("is_written", [True, False])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"chunks": (7, 1)},
        {"chunks": (1, 1), "compression": "gzip"},
        {"chunks": (64, 1), "maxshape": (None, None)},
    ],
    ids=["whole", "chunks", "packed", "resizable"],
)
def test_values_that_are_nowhere_stored_are_noticed(libver, is_written, how):
    with h5py.File(stored((64, 1), libver, is_written, **how)) as hdf5:
        assert has_values(hdf5["x"]) == is_written


def test_arrays_that_take_far_more_than_their_file_are_refused():
    """128 MB of one value, compressed. No honest weights compress so well."""
    file = io.BytesIO()
    chunk = np.full((2**10, 2**10), 0.5, "f4")
    with h5py.File(file, "w") as hdf5:
        x = hdf5.create_dataset("x", (2**15, 2**10), "f4", chunks=chunk.shape, compression="gzip")
        for first in range(0, len(x), len(chunk)):  # `x[...] = 0.5` takes very long with h5py 3.10
            x[first : first + len(chunk)] = chunk
    with h5py.File(file) as hdf5:
        assert has_values(hdf5["x"])
        with pytest.raises(WeightsError, match=r"file: its arrays would grow from .* to 134,217,728 bytes"):
            refuse_bomb(hdf5, [hdf5["x"]], "file")
        refuse_bomb(hdf5, [], "file")


def test_chunks_much_larger_than_their_array_are_refused():
    """HDF5 would unpack a whole chunk for one value."""
    file = stored((3, 2), chunks=(2**22, 2), maxshape=(None, 2), compression="gzip")
    with h5py.File(file) as hdf5, pytest.raises(WeightsError, match="chunks much larger than itself"):
        find_dataset(hdf5, ("x",), (3, 2), "file")
