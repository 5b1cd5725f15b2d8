"""`softmax.hdf5`."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import models
from changes import put
from hdf5 import HDF5File


class Kind:
    """Changes the softmax of an otherwise good model."""

    def __init__(self, seeds: Path) -> None:
        self._model = models.words(seeds)
        self._softmax = HDF5File(self._model["softmax.hdf5"])

    def make(self, rng: Random, folder: Path) -> bool:
        content, behind = self._softmax.change(rng)
        put({**self._model, "softmax.hdf5": content}, folder)
        return behind

    def honest(self) -> Iterator[models.Files]:
        yield self._model

    def read(self, folder: Path, behind: bool) -> None:
        models.use(folder, folder.with_name("out"))
