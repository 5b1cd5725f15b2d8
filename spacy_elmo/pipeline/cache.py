"""Sentences in, the rows that the frozen biLM gave for them out: the cache of a training run, for all its epochs."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from srsly import msgpack

from spacy_elmo.bilm.threads import ForkSafeLock
from spacy_elmo.errors import ElmoError
from spacy_elmo.pipeline.rows import Array
from spacy_elmo.support.files import at_home
from spacy_elmo.support.paths import path_of

if TYPE_CHECKING:
    from spacy_elmo.pipeline.cache_file import RowFile

Precision = Literal["float32", "float16"]


class Memory:
    """A cache that exists only while it is useful: from the first update on, for what that training makes of the
    layers, and for the current weights.

    max_mb: budget, 0 for none; path, precision: as in `Cache`.
    is_on: whether it takes new rows.
    """

    def __init__(self, max_mb: float, path: str | None = None, precision: Precision = "float32") -> None:
        self.max_mb, self.path, self.precision = max_mb, path, precision
        self.is_on = False
        self.cache: Cache | None = None
        self._content = ""
        self._made_of: Any = None
        self._lock = ForkSafeLock()

    def turn_on(self, content: str) -> None:
        """Cache from now on; content: what this training makes of the layers."""
        self.is_on, self._content = True, content

    def open(self, content: str, version: Any, header: dict[str, Callable[[], str]]) -> "Cache | None":
        """Return the cache for this content and this version of the weights; None if nothing is to be cached.

        header: what else a cache file says about its rows.
        """
        with self._lock:
            if content != self._content:  # the listeners were replaced or removed, so the training is over
                self.cache = None
                return None
            if self.cache is not None and self._made_of == (content, version):
                self.cache.is_on = self.is_on
                return self.cache
            self.cache = None
            if self.is_on and (self.max_mb or self.path):
                facts = {name: fact() for name, fact in header.items()} if self.path else {}
                self.cache = Cache(int(self.max_mb * 2**20), self.precision, self.path, {**facts, "content": content})
                self._made_of = (content, version)
            return self.cache

    def clear(self) -> None:
        """Delete what is in memory; a file stays."""
        with self._lock:
            self.cache = None

    def forecast(self, sizes: Iterable[int], row_width: int) -> str:
        """Say how much of a corpus with Docs of these sizes the cache will hold."""
        if not (self.max_mb or self.path):
            return "cache_mb = 0: nothing is remembered, so each sentence is run in every epoch"
        row_bytes = row_width * np.dtype(self.precision).itemsize
        n_tokens, fits = 0, self.max_mb * 2**20 / row_bytes
        for size in sizes:
            n_tokens += size
            if n_tokens > 20 * fits and not self.path:
                break  # the corpus may be endless
        needed = f"{n_tokens:,} tokens of training text take {n_tokens * row_bytes / 2**20:,.0f} MB"
        if self.path:
            return f"{needed}, remembered in {self.path}"
        if n_tokens <= fits:
            return f"{needed}: all of them fit into cache_mb = {self.max_mb:g}, so each sentence is run once"
        return (
            f"{needed} or more: {fits / n_tokens:.0%} of them fit into cache_mb = {self.max_mb:g}, and the others are "
            'run in every epoch; raise cache_mb, set cache_precision = "float16", or set cache_path'
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Memory, (self.max_mb, self.path, self.precision)


class Cache:
    """Rows by sentence, within a memory budget or in a file. Several threads may use it at once.

    When the budget is used up, the rows that are there stay. Each epoch goes through the whole corpus in another order,
    so a rule that made room for the newest rows would drop all others before they are needed again.

    max_bytes: budget; with a path there is none, and everything is cached.
    precision: of the stored numbers. New rows are rounded like rows that are read later.
    path: file of the rows (see `cache_file.py`). The file is kept: a later run starts warm, and another run at the same
        time shares it.
    header: what the rows are of; a file with another header is an error.
    is_on: whether it takes new rows.

    Raises:
        ElmoError: (`get` and `put`, too) the file is of another biLM or another kind, damaged, or cannot be written.
    """

    def __init__(
        self,
        max_bytes: int,
        precision: Precision = "float32",
        path: str | Path | None = None,
        header: Mapping[str, str] | None = None,
    ) -> None:
        self.dtype = np.dtype(precision)
        self.hits = self.misses = 0
        self.is_on = True
        self._packer = msgpack.Packer(use_bin_type=True)  # kept: a new one looks through all installed packages
        self._lock = ForkSafeLock()
        facts = {**(header or {}), "precision": precision}
        self._store = _RowsInMemory(max_bytes) if path is None else _row_file(path, facts)

    def key(self, sentence: Sequence[str]) -> bytes:
        """Return the key of a sentence."""
        return hashlib.blake2b(self._packer.pack(list(sentence)), digest_size=16).digest()

    def get(self, lengths: Mapping[bytes, int], width: int) -> Iterator[tuple[bytes, Array]]:
        """Yield the keys that are there, and the rows of each, `[n_tokens, width]`. Take them all at once: a file stays
        open meanwhile.

        lengths: n_tokens of each sentence, by its key.
        """
        n_found = 0
        for key, content in self._store.get(lengths):
            shape = lengths[key], width
            if len(content) == math.prod(shape) * self.dtype.itemsize:
                n_found += 1
                yield key, np.ndarray(shape, self.dtype, content).astype(np.float32)
        with self._lock:
            self.hits, self.misses = self.hits + n_found, self.misses + len(lengths) - n_found

    def put(self, rows: Mapping[bytes, Array]) -> dict[bytes, Array]:
        """Store the rows of sentences as far as there is room. Return them as `get` will return them."""
        stored = {key: array.astype(self.dtype, copy=False) for key, array in rows.items()}
        if self.is_on:
            self._store.put({key: array.tobytes() for key, array in stored.items()})
        return {key: array.astype(np.float32, copy=False) for key, array in stored.items()}

    @property
    def n_bytes(self) -> int:
        """Size of the rows."""
        return self._store.n_bytes

    def __len__(self) -> int:
        """Number of cached sentences."""
        return len(self._store)


class _RowsInMemory:
    """Rows in memory, up to the budget."""

    def __init__(self, max_bytes: int) -> None:
        self.n_bytes = 0
        self._max_bytes = max_bytes
        self._rows: dict[bytes, bytes] = {}
        self._lock = ForkSafeLock()

    def get(self, keys: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
        return ((key, self._rows[key]) for key in keys if key in self._rows)

    def put(self, rows: Mapping[bytes, bytes]) -> None:
        with self._lock:
            for key, content in rows.items():
                if key not in self._rows and self.n_bytes + len(content) <= self._max_bytes:
                    self._rows[key] = content
                    self.n_bytes += len(content)

    def __len__(self) -> int:
        return len(self._rows)


def _row_file(path: str | Path, header: Mapping[str, str]) -> "RowFile":
    try:
        from spacy_elmo.pipeline.cache_file import RowFile
    except ImportError as error:  # some builds of Python have no sqlite3
        raise ElmoError(f"cache_path needs Python's sqlite3, which cannot be imported here ({error})") from None
    place = at_home(path_of(path, "cache_path"))
    return RowFile(path_of(place, "cache_path"), header)
