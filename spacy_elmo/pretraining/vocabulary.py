"""Make, read and check a vocabulary: the words that a biLM predicts, in bilm-tf's order and file format."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from spacy_elmo.bilm.characters import BOS, EOS
from spacy_elmo.errors import CorpusError
from spacy_elmo.support.paths import path_of
from spacy_elmo.support.words import read_words, text_of

UNKNOWN = "<UNK>"
SPECIAL = (BOS, EOS, UNKNOWN)

# How much larger the mean logarithm of the rank may be than in perfect order. Perfect order has 1.0, a vocabulary of
# other text about 1.1, and alphabetical order 1.7.
_MOST_DISORDER = 1.3
_MOST_UNKNOWN = 0.2  # share of a text's words


class Vocabulary:
    """Words in the order of their ids: `<S>`, `</S>` and `<UNK>` anywhere, the others by falling count.

    Raises:
        CorpusError: a special entry is missing, or an entry is empty, has white space, or occurs twice.
    """

    def __init__(self, words: Sequence[str], source: str = "vocabulary") -> None:
        self.words = list(words)
        self.ids = {word: number for number, word in enumerate(self.words)}
        self.source = source
        if missing := [word for word in SPECIAL if word not in self.ids]:
            raise CorpusError(
                f"{source}: {', '.join(missing)} missing; expected a vocab.txt that starts with <S> </S> <UNK>"
            )
        for number, word in enumerate(self.words):
            if word.split() != [word]:
                raise CorpusError(f"{source}, line {number + 1}: {word!r} is not one word")
            if self.ids[word] != number:
                raise CorpusError(f"{source}, line {self.ids[word] + 1}: {word!r} occurs twice")

    def __len__(self) -> int:
        return len(self.words)

    @property
    def unknown(self) -> int:
        """Id of `<UNK>`."""
        return self.ids[UNKNOWN]

    @property
    def digest(self) -> str:
        """SHA-256 of the words in order."""
        return hashlib.sha256("\n".join(self.words).encode("utf-8", "surrogatepass")).hexdigest()

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> "Vocabulary":
        """Read a vocab.txt, one word per line, plain or `.gz`.

        Raises:
            CorpusError: the file is missing, damaged or not UTF-8, or its content is wrong (see the class).
        """
        return cls(read_words(path_of(path, "vocabulary", CorpusError)), str(path))

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], min_count: int = 1, max_size: int | None = None) -> "Vocabulary":
        """Take the words seen at least `min_count` times, up to `max_size` entries, special ones included."""
        seen = [(word, count) for word, count in counts.items() if count >= min_count and word not in SPECIAL]
        seen.sort(key=lambda item: (-item[1], item[0]))
        return cls([*SPECIAL, *(word for word, _ in seen)][:max_size], "vocabulary of the corpus")

    def text(self) -> str:
        """Return the content of a vocab.txt."""
        return text_of(self.words)

    def is_out_of_order(self, counts: npt.NDArray[np.int64]) -> bool:
        """Return whether the order is far from falling counts, on which log-uniform sampling relies.

        counts: `[len(self)]`, how often each entry occurs in the corpus; `<UNK>` is ignored: it counts many words.
        """
        known = np.delete(counts, [self.ids[word] for word in SPECIAL])
        cost = np.log(np.arange(1, len(known) + 1) + 1.0)
        return bool(cost @ known > _MOST_DISORDER * (cost @ np.sort(known)[::-1]))


def misfit(unknown_share: float, source: str) -> str | None:
    """Return a warning if too large a share of a text's words is unknown: a model learns to predict `<UNK>` instead.

    `source` names the vocabulary.
    """
    if unknown_share <= _MOST_UNKNOWN:
        return None
    return (
        f"{source}: {unknown_share:.0%} of the words of the corpus are not in the vocabulary and count as {UNKNOWN}. "
        "Check that its text had the same case and tokenizer, that min_count is not too high, and max_size not too low."
    )


def count_words(sentences: Iterable[tuple[list[str], bool]]) -> Counter[str]:
    """Count how often each word occurs."""
    counts: Counter[str] = Counter()
    for words, _ in sentences:
        counts.update(words)
    return counts
