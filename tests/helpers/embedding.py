"""The small text that the tests of `embed` use, and the contents of a file of vectors."""

import h5py
import numpy as np

LINES = [
    "The quick brown fox jumps over the lazy dog .",
    "Hello",
    "naïve café “quoted” 今天 😀",
    "Hello",
    "a  b\tc",
    "The end / or not",
]


SENTENCES = [line.split() for line in LINES]


def contents(path):
    """Return every dataset of an HDF5 file by name: as an array, or as a string if it is one."""
    with h5py.File(path) as file:
        names = []
        file.visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None)
        return {name: file[name][0] if file[name].dtype == object else file[name][...] for name in names}


def assert_same(one, other):
    one, other = contents(one), contents(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])
        assert getattr(value, "dtype", None) == getattr(other[name], "dtype", None)


REDUCED = {
    "all": lambda layers: layers,
    "top": lambda layers: layers[-1],
    "average": lambda layers: layers.mean(axis=0),
    "0": lambda layers: layers[0],
    1: lambda layers: layers[1],
}
