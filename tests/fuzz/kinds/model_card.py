"""`model_card.json`."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import models
from changes import odd_json, put


class Kind:
    """Puts odd values, keys and bytes into the card of an otherwise good model."""

    def __init__(self, seeds: Path) -> None:
        self._model = models.characters(seeds)

    def make(self, rng: Random, folder: Path) -> bool:
        put({**self._model, "model_card.json": odd_json(rng, models.CARD)}, folder)
        return False

    def honest(self) -> Iterator[models.Files]:
        yield self._model

    def read(self, folder: Path, behind: bool) -> None:
        models.use(folder, folder.with_name("out"))
