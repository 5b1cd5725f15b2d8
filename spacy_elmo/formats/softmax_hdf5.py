"""`softmax.hdf5` beside the weights: the language model's output layer, in bilm-tf's names."""

from collections.abc import Iterator
from pathlib import Path

import h5py
import torch

from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.errors import WeightsError
from spacy_elmo.formats.archive import File, opened
from spacy_elmo.formats.bilm_hdf5 import (
    Array,
    Entry,
    StoredDtype,
    find,
    naming_damage,
    read_array,
    write_arrays,
)
from spacy_elmo.support.files import write_whole

NAME = "softmax.hdf5"


def read(path: File, n_words: int, projection_dim: int) -> Softmax:
    """Read the output layer for a vocabulary of `n_words` into a frozen module.

    Raises:
        WeightsError: the file is missing, damaged, of another shape, or holds NaN or infinite values.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; a model without its softmax can embed words, but not predict them")
    softmax = Softmax(n_words, projection_dim, seed=None).requires_grad_(False)
    entries = (
        (Entry("softmax/W", "weight", (n_words, projection_dim)), softmax.weight),
        (Entry("softmax/b", "bias", (n_words,)), softmax.bias),
    )
    with opened(path) as content, naming_damage(str(path)), h5py.File(content, "r") as file:
        for entry, parameter in entries:
            with naming_damage(f"{path}: {entry.name}"):
                parameter.copy_(torch.from_numpy(read_array(find(file, entry, str(path)), str(path))))
    return softmax.eval()


def write(softmax: Softmax, path: Path, dtype: StoredDtype = "float32") -> None:
    """Write the output layer; the file appears whole or not at all. dtype: see `bilm_hdf5.write`."""

    def arrays() -> Iterator[tuple[str, Array]]:
        for name, parameter in (("softmax/W", softmax.weight), ("softmax/b", softmax.bias)):
            yield name, parameter.detach().float().cpu().numpy()

    write_whole(path, lambda file: write_arrays(arrays, file, dtype))
