import shutil

import h5py
import pytest


@pytest.fixture
def model_dir(data, tmp_path):
    """Make a directory with the weights and options of tiny_2l_skip."""
    directory = tmp_path / "model"
    directory.mkdir()
    for name in ("weights.hdf5", "options.json"):
        shutil.copyfile(data / "tiny_2l_skip" / name, directory / name)
    return directory


def read_arrays(path):
    """Return every dataset of an HDF5 file by its name."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, node: found.update({name: node[...]}) if isinstance(node, h5py.Dataset) else None)
    return found


@pytest.fixture(scope="session")
def stored():
    """Read every dataset of an HDF5 file with h5py alone: `stored(path)` maps names to arrays."""
    return read_arrays
