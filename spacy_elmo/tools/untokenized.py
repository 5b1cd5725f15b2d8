"""Text files in, a warning out, where they look like something else than tokenized sentences (see `support`)."""

import warnings
from collections.abc import Iterable
from pathlib import Path

from spacy_elmo.support.untokenized import find_doubt


def warn_of(
    files: Iterable[Path], advice: str = "split it first, with one sentence a line and spaces between its tokens"
) -> None:
    """Warn once of the first such file. advice: what to do."""
    if doubt := find_doubt(files):
        warnings.warn(f"{doubt}; {advice}", stacklevel=3)
