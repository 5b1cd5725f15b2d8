"""Text files in, a word of doubt out, where they look like something else than one tokenized sentence a line."""

import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from spacy_elmo.support.text import read_lines

_READ = 1000  # lines of a file
_TABLES = (".csv", ".tsv", ".json", ".jsonl")
_PACKED = (".gz", ".bz2", ".xz", ".zst")
# Tokenizers cut off punctuation, except from abbreviations, of which most end in a full stop: one counts only where the
# line ends with it too.
_GLUED = re.compile(r"""\w\w[,;:!?，、；：！？،؛؟][)\]}"'”’»」』]*(?:\s|$)|\w\w[.。।][)\]}"'”’»」』]*$""")
# Of the lines. It is at most 7% in tokenized text of UD, WNUT-17, MASC, WikiText and our own pretraining, and at least
# 41% in raw text of UD and of 21 sources for pretraining.
_MOST_GLUED = 0.2


def find_doubt(files: Iterable[Path]) -> str | None:
    """Say what speaks against the first of the files that does not look like tokenized text; None where all do.

    Raises:
        CorpusError: one cannot be read, see `read_lines`.
    """
    return next(filter(None, map(_doubt, files)), None)


def _doubt(path: Path) -> str | None:
    name = path.with_suffix("") if path.suffix in _PACKED else path
    if name.suffix.lower() in _TABLES:
        return f"{path}: looks like a table ({name.suffix}), but each row is read as a sentence, with all its columns"
    n_lines, n_glued, first = 0, 0, ""
    for line in islice(read_lines(path), _READ):
        n_lines += bool(line.strip())
        if found := _GLUED.search(line.rstrip()):
            n_glued += 1
            first = first or line[: found.end()].split()[-1][:30]
    if n_glued <= _MOST_GLUED * n_lines:
        return None
    return f"{path}: looks like raw text, but is split at spaces, so that {first!r} is one word"
