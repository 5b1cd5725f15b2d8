"""`options.json`, of each family of models."""

from pathlib import Path
from random import Random

import models
from changes import odd_json


class Kind:
    """Odd values, keys and bytes in the options of a model that is whole otherwise."""

    def __init__(self, seeds: Path) -> None:
        makers = (models.characters, models.words, models.manylangs)
        self._models = [make(seeds / make.__name__) for make in makers]
        self._options = (models.CHARACTERS, models.WORDS, models.MANYLANGS)

    def make(self, rng: Random, folder: Path) -> bool:
        number = rng.randrange(len(self._models))
        models.put({**self._models[number], "options.json": odd_json(rng, self._options[number])}, folder)
        return False

    def read(self, folder: Path, behind: bool) -> None:
        models.use(folder, folder.with_name("out"))
