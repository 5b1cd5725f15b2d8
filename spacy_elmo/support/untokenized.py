"""Text files in, a warning text out, if they look like something other than one tokenized sentence per line."""

import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from spacy_elmo.support.text import read_lines

_READ = 1000  # lines of a file
_TABLES = (".csv", ".tsv", ".json", ".jsonl")
_PACKED = (".gz", ".bz2", ".xz", ".zst")
# Tokenizers split off punctuation, except from abbreviations. Most of these end in a full stop, so a full stop only
# counts at the end of the line.
_GLUED = re.compile(r"""\w\w[,;:!?，、；：！？،؛؟][)\]}"'”’»」』]*(?:\s|$)|\w\w[.。।][)\]}"'”’»」』]*$""")
# Share of the lines with such punctuation. It is at most 7% in tokenized text of UD, WNUT-17, MASC, WikiText and our
# own pretraining, and at least 41% in raw text of UD and of 21 sources for pretraining.
_MOST_GLUED = 0.2


def find_doubt(files: Iterable[Path]) -> str | None:
    """Return why the first unsuitable file does not look like tokenized text; None if all files do.

    Raises:
        CorpusError: a file cannot be read, see `read_lines`.
    """
    return next(filter(None, map(_doubt, files)), None)


def _doubt(path: Path) -> str | None:
    name = path.with_suffix("") if path.suffix in _PACKED else path
    if name.suffix.lower() in _TABLES:
        return f"{path}: looks like a table ({name.suffix}), but each row with all its columns is read as a sentence"
    n_lines, n_glued, first = 0, 0, ""
    for line in islice(read_lines(path), _READ):
        n_lines += bool(line.strip())
        if found := _GLUED.search(line.rstrip()):
            n_glued += 1
            first = first or line[: found.end()].split()[-1][:30]
    if n_glued <= _MOST_GLUED * n_lines:
        return None
    return f"{path}: looks like raw text, but is split at spaces, so {first!r} is one word"
