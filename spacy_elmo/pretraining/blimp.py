"""Accuracy on BLiMP's minimal pairs (Warstadt et al. 2020): how often the grammatical sentence is more likely."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spacy_elmo.errors import CorpusError
from spacy_elmo.pretraining.evaluation import Evaluator
from spacy_elmo.support.paths import path_of
from spacy_elmo.support.progress import progress_bar
from spacy_elmo.support.text import read_lines

Tokenize = Callable[[str], Sequence[str]]


@dataclass(frozen=True)
class Pair:
    """A minimal pair and the phenomenon it tests."""

    phenomenon: str
    good: str
    bad: str


@dataclass(frozen=True)
class Accuracy:
    """Share of pairs whose good sentence is more likely for the forward, the backward, and both language models."""

    forward: float
    backward: float
    sum: float

    @classmethod
    def of(cls, margins: Tensor) -> "Accuracy":
        """Compute the shares.

        margins: `[n, 2]`, log-likelihood of the good sentence minus that of the bad one, by direction.
        """
        won = torch.cat([margins, margins.sum(1, keepdim=True)], dim=1) > 0
        return cls(*won.cpu().double().mean(0).tolist())


@dataclass(frozen=True)
class BlimpResult:
    """Accuracy over all pairs, and by phenomenon."""

    overall: Accuracy
    by_phenomenon: dict[str, Accuracy]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object that `evaluate --json` prints."""
        return {
            **asdict(self.overall),
            "by_phenomenon": {name: asdict(accuracy) for name, accuracy in self.by_phenomenon.items()},
        }


def read_pairs(directory: str | Path) -> list[Pair]:
    """Read BLiMP's `.jsonl` (or `.jsonl.xz`, ...) files from a directory and its subfolders.

    Raises:
        CorpusError: there is no such file, or a line is not a minimal pair.
    """
    files = sorted(path for path in path_of(directory, "directory", CorpusError).rglob("*.jsonl*") if path.is_file())
    if not files:
        raise CorpusError(f"{directory}: no .jsonl file in this folder; expected the folder of BLiMP's data")
    pairs = [_parse(line, path) for path in files for line in read_lines(path) if line]
    if not pairs:
        raise CorpusError(f"{directory}: no minimal pair in the files; expected the folder of BLiMP's data")
    return pairs


def _parse(line: str, path: Path) -> Pair:
    try:
        pair = json.loads(line)
        return Pair(str(pair["linguistics_term"]), str(pair["sentence_good"]), str(pair["sentence_bad"]))
    except (ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"{path}: not a minimal pair of BLiMP ({type(error).__name__}: {error})") from None


def words_and_marks(sentence: str) -> list[str]:
    """Split a sentence into words and punctuation marks, and contractions like English treebanks do."""
    return re.findall(r"\w+(?=n't\b)|n't\b|'\w+|\w+(?:-\w+)*|[^\w\s]", sentence)


def score(
    evaluator: Evaluator, pairs: Sequence[Pair], tokenize: Tokenize = words_and_marks, show_progress: bool = False
) -> BlimpResult:
    """Score minimal pairs, each sentence from zero state."""
    margins = []
    with progress_bar(show_progress, "minimal pairs", len(pairs), unit=" pairs") as bar:
        for start in range(0, len(pairs), _PAIRS_AT_ONCE):
            block = pairs[start : start + _PAIRS_AT_ONCE]
            sentences = [tokenize(text) for pair in block for text in (pair.good, pair.bad)]
            good, bad = evaluator.zero_state_losses(sentences).view(-1, 2, 2).unbind(1)
            margins.append(bad - good)
            bar.update(len(block))
    table = torch.cat(margins)
    rows: dict[str, list[int]] = {}
    for row, pair in enumerate(pairs):
        rows.setdefault(pair.phenomenon, []).append(row)
    return BlimpResult(Accuracy.of(table), {name: Accuracy.of(table[rows[name]]) for name in sorted(rows)})


_PAIRS_AT_ONCE = 1000
