"""`softmax.hdf5` next to the weights: the language model's output layer, with bilm-tf's names."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.errors import WeightsError
from spacy_elmo.formats.archive import File
from spacy_elmo.formats.hdf5_file import (
    Array,
    StoredDtype,
    find_dataset,
    naming_damage,
    open_hdf5,
    read_array,
    refuse_bomb,
    write_arrays,
)
from spacy_elmo.support.files import write_whole

NAME = "softmax.hdf5"
_WEIGHT, _BIAS = "softmax/W", "softmax/b"


def explain_missing(path: File) -> str | None:
    """Say that the file is missing and what that means; None if it is there."""
    if path.is_file():
        return None
    return f"{path}: no such file; without it and vocab.txt a model can embed words, but not predict them"


def read(path: File, n_words: int, projection_dim: int) -> Softmax:
    """Read the output layer for a vocabulary of `n_words` into a frozen module.

    The file is checked before memory is allocated for the module.

    Raises:
        WeightsError: the file is missing or damaged, has another shape, or contains NaN or infinite values.
    """
    if (reason := explain_missing(path)) is not None:
        raise WeightsError(reason)
    source, datasets = str(path), {}
    with open_hdf5(path, source) as file:
        for name, shape in ((_WEIGHT, (n_words, projection_dim)), (_BIAS, (n_words,))):
            with naming_damage(f"{source}: {name}"):
                datasets[name] = find_dataset(file, (name,), shape, source)
        refuse_bomb(file, datasets.values(), source)
        softmax = Softmax(n_words, projection_dim, seed=None).requires_grad_(False)
        for name, parameter in _named(softmax):
            with naming_damage(f"{source}: {name}"):
                parameter.copy_(torch.from_numpy(read_array(datasets[name], source)))
    return softmax.eval()


def write(softmax: Softmax, path: Path, dtype: StoredDtype = "float32") -> None:
    """Write the output layer. The file appears complete or not at all. dtype: see `formats.write`."""

    def arrays() -> Iterator[tuple[str, Array]]:
        for name, parameter in _named(softmax):
            yield name, parameter.detach().float().cpu().numpy()

    write_whole(path, lambda file: write_arrays(arrays, file, dtype))


def _named(softmax: Softmax) -> tuple[tuple[str, Tensor], ...]:
    return ((_WEIGHT, softmax.weight), (_BIAS, softmax.bias))
