"""`weights.hdf5`, in both versions of HDF5: plain, chunked and compressed."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import models
from changes import put
from hdf5 import HDF5File


class Kind:
    """Changes weights, not options. Most weights have no checksum, so other values may be read."""

    def __init__(self, seeds: Path) -> None:
        self._models = [make(seeds / make.__name__) for make in (models.characters, models.words, models.manylangs)]
        self._weights = [HDF5File(model["weights.hdf5"]) for model in self._models]

    def make(self, rng: Random, folder: Path) -> bool:
        number = rng.randrange(len(self._models))
        content, behind = self._weights[number].change(rng)
        put({**self._models[number], "weights.hdf5": content}, folder)
        return behind

    def honest(self) -> Iterator[models.Files]:
        yield from self._models

    def read(self, folder: Path, behind: bool) -> None:
        models.use(folder, folder.with_name("out"))
