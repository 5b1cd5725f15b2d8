"""Where `Elmo` was: modules that were pickled whole name this place."""

from typing import Any

from spacy_elmo import bilm


def __getattr__(name: str) -> Any:
    return getattr(bilm, name)
