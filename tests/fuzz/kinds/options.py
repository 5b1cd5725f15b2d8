"""`options.json`, for each family of models."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import models
from changes import odd_json, put


class Kind:
    """Puts odd values, keys and bytes into the options of an otherwise good model."""

    def __init__(self, seeds: Path) -> None:
        makers = (models.characters, models.words, models.manylangs)
        self._models = [make(seeds / make.__name__) for make in makers]
        self._options = (models.CHARACTERS, models.WORDS, models.MANYLANGS)

    def make(self, rng: Random, folder: Path) -> bool:
        number = rng.randrange(len(self._models))
        put({**self._models[number], "options.json": odd_json(rng, self._options[number])}, folder)
        return False

    def honest(self) -> Iterator[models.Files]:
        yield from self._models

    def read(self, folder: Path, behind: bool) -> None:
        models.use(folder, folder.with_name("out"))
