import gc
import io

import h5py
import numpy as np
import pytest

from spacy_elmo.formats.hdf5_file import new_hdf5

ARRAYS = {f"group/{n}": np.arange(n, dtype=np.float32) for n in range(200)}


class Full(io.BytesIO):
    """A file on a disk of so many bytes."""

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
    fill(io.BytesIO())  # HDF5 works on


def test_an_error_of_the_caller_stays_what_it_is():
    def fail():
        with new_hdf5(io.BytesIO()) as hdf5:
            hdf5.add("a", [1.0])
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()
