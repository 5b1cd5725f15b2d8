"""The former place of `Elmo`, for modules that were pickled whole by an earlier version."""

from typing import Any

from spacy_elmo import bilm


def __getattr__(name: str) -> Any:
    return getattr(bilm, name)
