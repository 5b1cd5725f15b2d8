"""Warns if text files do not look like tokenized sentences (see `support`)."""

import warnings
from collections.abc import Iterable
from pathlib import Path

from spacy_elmo.support.untokenized import find_doubt


def warn_of(
    files: Iterable[Path], advice: str = "split it first: one sentence per line, spaces between tokens"
) -> None:
    """Warn once, about the first such file. advice: what to do."""
    if doubt := find_doubt(files):
        warnings.warn(f"{doubt}; {advice}", stacklevel=3)
