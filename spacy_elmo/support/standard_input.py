"""The name of a text in, a path that can be read several times out, even for `-` (standard input) or a pipe."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from spacy_elmo.errors import CorpusError
from spacy_elmo.support.paths import path_of
from spacy_elmo.support.text import PathLike


@contextmanager
def rereadable(text: PathLike) -> Iterator[PathLike]:
    """Yield the text itself. If it is `-`, a pipe or a terminal, yield a temporary copy of what comes from there."""
    path = path_of(text, "text", CorpusError)
    from_standard_input = str(text) == "-"
    if not from_standard_input and not path.is_fifo() and not path.is_char_device():
        yield text
        return
    # A reader that has not reached the end still has the copy open, and then Windows cannot remove it.
    with TemporaryDirectory(prefix="spacy_elmo_", ignore_cleanup_errors=True) as folder:
        copy = Path(folder) / "stdin"
        try:
            with copy.open("wb") as target:
                if from_standard_input:
                    shutil.copyfileobj(sys.stdin.buffer, target)
                else:
                    with path.open("rb") as source:
                        shutil.copyfileobj(source, target)
        except OSError as error:
            raise CorpusError(f"{text}: cannot be read, or cannot be copied for a second reading ({error})") from None
        yield copy
