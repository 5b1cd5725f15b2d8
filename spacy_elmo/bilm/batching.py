"""Plans batches, packs sequences without padding, and caches the vectors of words."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spacy_elmo.bilm.threads import ForkSafeLock
from spacy_elmo.bilm.transfer import to_device

# With fewer rows than this, reading the weights limits the speed of a time step.
_ROWS_TO_REACH = 16

# Size of a word in the table without its vector: a string, a number, and their entry in a dict with some spare room.
_WORD_BYTES = 200


def plan_batches(
    lengths: Sequence[int], max_tokens: int, stretch: int = 1, max_rows: int | None = None
) -> Iterator[list[int]]:
    """Yield batches of sequence numbers, longest sequences first, each of at most `max_tokens` tokens.

    Sorting gives every time step of a batch as many rows as possible. The first 16 sequences of a batch may take
    `stretch` times as many tokens, and a sequence that is even longer is its own batch. A batch has at most `max_rows`
    sequences.
    """
    batch: list[int] = []
    n_tokens = 0
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        limit = max_tokens if len(batch) >= _ROWS_TO_REACH else stretch * max_tokens
        if batch and (n_tokens + lengths[number] > limit or len(batch) == max_rows):
            yield batch
            batch, n_tokens = [], 0
        batch.append(number)
        n_tokens += lengths[number]
    if batch:
        yield batch


@dataclass(frozen=True)
class Packing:
    """How to reorder concatenated sequences time step by time step, without padding, and back again.

    batch_sizes: rows of each time step.
    order: `[2, n_read]` int64; `order[0]` brings tokens to the order of the forward direction, `order[1]` to that of
        the reversed sequences.
    rows: `[n_sequences]` int64; the sequence in each row, longest first.
    n_first: how many of the first outputs of a direction are dropped.
    places: `[2, n_read - n_first]` int64; where the others go.
    """

    batch_sizes: list[int]
    order: Tensor
    rows: Tensor
    n_first: int
    places: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], keep_boundaries: bool = True) -> "Packing":
        """Pack sequences of these lengths (each at least 1).

        keep_boundaries: False: the outputs at the first and the last token of each sequence are not wanted. Each
            direction does not even read the token behind the last wanted one. Each length is at least 2.
        """
        sizes = np.asarray(lengths, dtype=np.int64)
        rows = np.argsort(-sizes, kind="stable")
        starts = (np.cumsum(sizes) - sizes)[rows]
        sizes = sizes[rows]
        n_steps = sizes if keep_boundaries else sizes - 1
        time, row = np.nonzero(np.arange(n_steps[0])[:, None] < n_steps)
        order = np.stack([starts[row] + time, starts[row] + sizes[row] - 1 - time])
        n_first = 0 if keep_boundaries else len(rows)
        places = order[:, n_first:]
        if not keep_boundaries:
            places = places - (2 * rows[row[n_first:]] + 1)  # as many boundaries come before the token
        numbers = np.bincount(time).tolist()
        return cls(numbers, torch.from_numpy(order), torch.from_numpy(rows), n_first, torch.from_numpy(places))

    @property
    def n_outputs(self) -> int:
        """How many tokens have outputs."""
        return self.places.shape[1]


class WordTable:
    """A cache of word vectors with a memory budget. Several threads can use it.

    When the budget is used up, the table is cleared: frequent words are back soon. It also clears itself when the
    weights behind it change. Pickles and copies of it are empty.

    max_bytes: budget for the words and their vectors.
    """

    def __init__(self, max_bytes: int = 64 * 2**20) -> None:
        self.max_bytes = max_bytes
        self._lock = ForkSafeLock()
        self.clear()

    def clear(self) -> None:
        """Remove all words."""
        with self._lock:
            self._rows: dict[str, int] = {}
            self._vectors = torch.empty(0, 0)
            self._version: Any = None

    def embed(self, words: Sequence[str], embed: Callable[[Sequence[str]], Tensor], version: Any) -> Tensor:
        """Return the vectors of `words`, `[len(words), width]`, and compute each distinct word once.

        embed: see `lookup`; version: see `lookup`, or None if nothing may be cached, which clears the table.
        """
        rows: dict[str, int] = {}
        numbers = [rows.setdefault(word, len(rows)) for word in words]
        if rows and version is not None:
            vectors = self.lookup(list(rows), embed, version)
        else:
            if version is None:
                self.clear()
            vectors = embed(list(rows))
        return vectors[to_device(torch.tensor(numbers, dtype=torch.long), vectors.device)]

    def lookup(self, words: Sequence[str], embed: Callable[[Sequence[str]], Tensor], version: Any) -> Tensor:
        """Return the vectors of distinct `words` (at least one), `[len(words), width]`.

        embed: computes the vectors of new words; version: identifies the weights that it uses.
        """
        with self._lock:
            if version != self._version:
                self.clear()
                self._version = version
            new = [word for word in words if word not in self._rows]
            if len(self._rows) + len(new) > self._capacity(self._vectors):
                self._rows.clear()
                new = list(words)
            if new:
                vectors = embed(new)
                if len(new) > self._capacity(vectors):
                    return vectors  # of all words: the table was cleared
                self._add(new, vectors)
            rows = torch.tensor([self._rows[word] for word in words], dtype=torch.long)
            return self._vectors[to_device(rows, self._vectors.device)]

    def _capacity(self, vectors: Tensor) -> int:
        """Return how many such vectors fit into the budget."""
        return self.max_bytes // (vectors.shape[1] * vectors.element_size() + _WORD_BYTES)

    def _add(self, words: Sequence[str], vectors: Tensor) -> None:
        if not len(self._vectors):  # allocate the whole budget: on a CPU, unwritten pages take no memory
            with torch.inference_mode(False):  # so that it can be written to in any mode
                shape = self._capacity(vectors), vectors.shape[1]
                self._vectors = torch.empty(shape, dtype=vectors.dtype, device=vectors.device)
        used = len(self._rows)
        self._vectors[used : used + len(words)] = vectors
        self._rows.update((word, row) for row, word in enumerate(words, start=used))

    def __getstate__(self) -> dict[str, Any]:
        return {"max_bytes": self.max_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]
