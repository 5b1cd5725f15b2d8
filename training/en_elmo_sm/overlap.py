"""Hash the runs of 13 words of a paragraph, and find whether other text has the same runs."""

from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import spacy
from numpy.lib.stride_tricks import sliding_window_view
from spacy.attrs import LOWER

Hashes = npt.NDArray[np.uint64]

RUN = 13  # Words.
SHORTEST = 6  # Words; shorter paragraphs are common phrases ("Thank you very much.").
_REMEMBERED = 10_000_000  # Entries of the tokenizer's cache: more than it will need.
# A run's hash is the sum of its words' hashes, each times one of these, modulo 2 ** 64.
_FACTORS: Hashes = np.random.default_rng(13).integers(0, 2**63, RUN, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
# All digits count as equal: the stubs that bots write differ in nothing else.
_FOLD = str.maketrans("’123456789", "'000000000")


class Words:
    """spaCy's English tokenizer: a text's number of tokens, and the hash of each of its words in lower case."""

    def __init__(self) -> None:
        nlp = spacy.blank("en")
        self._tokenizer = cast("Any", nlp.tokenizer)
        self._tokenizer.max_cache_size = _REMEMBERED
        # Punctuation does not count as a word: evaluation sets write it in different ways.
        self._has_letters = nlp.vocab.add_flag(lambda word: any(map(str.isalnum, word)))

    def __call__(self, text: str) -> tuple[int, Hashes]:
        """Return the number of tokens, and the hashes `[n_words]`."""
        doc = self._tokenizer(text.translate(_FOLD))
        table = doc.to_array([LOWER, self._has_letters])
        return len(doc), table[table[:, 1] != 0, 0]


def runs(words: Hashes) -> Hashes:
    """Return the hash of each run of 13 words; for a shorter text, one hash of all of it."""
    length = min(len(words), RUN)
    hashes: Hashes = sliding_window_view(words, length) @ _FACTORS[:length]
    return hashes


class EvaluationRuns:
    """The exact set of runs of evaluation texts."""

    def __init__(self, texts: Iterable[Hashes]) -> None:
        found = [runs(words) for words in texts if len(words) >= SHORTEST]
        self._sorted: Hashes = np.unique(np.concatenate([*found, np.zeros(0, np.uint64)]))
        # A table of the first 26 bits answers nearly every query.
        self._begin = np.zeros(2**26, bool)
        self._begin[self._sorted >> np.uint64(38)] = True

    def __len__(self) -> int:
        return len(self._sorted)

    def has_any(self, hashes: Hashes) -> bool:
        """Return whether one of the runs occurs in an evaluation text."""
        likely = hashes[self._begin[hashes >> np.uint64(38)]]
        places = np.minimum(np.searchsorted(self._sorted, likely), len(self._sorted) - 1)
        return bool((self._sorted[places] == likely).any())


class SeenRuns:
    """A sample of the runs seen so far, in a Bloom filter: one in 5,000 positive answers is wrong."""

    def __init__(self, bits: int = 32) -> None:
        """Make an empty filter.

        bits: logarithm of its size to base 2; 32 (512 MiB) is for 40 million samples.
        """
        self._bits = np.zeros(2 ** (bits - 3), np.uint8)
        self._shift = np.uint64(64 - bits)

    def share(self, hashes: Hashes) -> float:
        """Return the share of these runs that were added before, 0 to 1."""
        bytes_, masks = self._places(hashes)
        return float(((self._bits[bytes_] & masks) != 0).all(axis=0).mean())

    def add(self, hashes: Hashes) -> None:
        """Add runs."""
        bytes_, masks = self._places(hashes)
        np.bitwise_or.at(self._bits, bytes_.ravel(), masks.ravel())  # several bits may be in one byte

    def _places(self, hashes: Hashes) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint8]]:
        """Return the byte and the bit in it for each run of the sample, `[2, n_sampled]`.

        The sample is the same wherever a run occurs: one hash in four, or the lowest hash if none of these is there.
        """
        sample = hashes[hashes % np.uint64(4) == 0]
        if not len(sample):
            sample = hashes.min(keepdims=True)
        places = (sample * _FACTORS[:2, None]) >> self._shift
        return (places >> np.uint64(3)).astype(np.intp), np.uint8(1) << (places & np.uint64(7)).astype(np.uint8)
