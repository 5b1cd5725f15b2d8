"""`model_card.json`."""

from pathlib import Path
from random import Random

import models
from changes import odd_json


class Kind:
    """Puts odd values, keys and bytes into the card of an otherwise good model."""

    def __init__(self, seeds: Path) -> None:
        self._model = models.characters(seeds)

    def make(self, rng: Random, folder: Path) -> bool:
        models.put({**self._model, "model_card.json": odd_json(rng, models.CARD)}, folder)
        return False

    def read(self, folder: Path, behind: bool) -> None:
        models.use(folder, folder.with_name("out"))
