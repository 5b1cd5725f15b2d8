"""Sentences in, the rows the frozen biLM gave for them out: what is remembered across the epochs of a training run."""

import hashlib
import json
import os
import struct
import weakref
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt
import srsly

from spacy_elmo.bilm.threads import ForkSafeLock
from spacy_elmo.errors import ElmoError
from spacy_elmo.pipeline.rows import Array

try:
    import fcntl
except ImportError:  # Windows: two runs with one file are not kept apart there
    fcntl = None  # type: ignore[assignment]

Precision = Literal["float32", "float16"]

_BLOCK_BYTES = 2**24
_RECORD = struct.Struct("<16sQII")  # key, first row, rows, CRC-32 of their bytes


class Memory:
    """A cache that is there when it is of use: from the first update on, only for what was made of the layers then, and
    only for the weights that are there now.

    max_mb: budget, 0 for none; path, precision: as of `Cache`.
    is_on: whether new rows are remembered.
    """

    def __init__(self, max_mb: float, path: str | None = None, precision: Precision = "float32") -> None:
        self.max_mb, self.path, self.precision = max_mb, path, precision
        self.is_on = False
        self.cache: Cache | None = None
        self._content = ""
        self._made_of: Any = None
        self._lock = ForkSafeLock()

    def turn_on(self, content: str) -> None:
        """Remember from now on; content: what is made of the layers in this training."""
        self.is_on, self._content = True, content

    def open(self, content: str, version: Any, header: dict[str, Callable[[], str]]) -> "Cache | None":
        """The cache for this content and version of what makes the rows; None where nothing is to be remembered.

        header: what else a file says about its rows.
        """
        with self._lock:
            if content != self._content:  # the listeners were replaced or removed: the training is over
                self._close()
                return None
            if self.cache is not None and self._made_of == (content, version):
                self.cache.is_on = self.is_on
                return self.cache
            self._close()
            if self.is_on and (self.max_mb or self.path):
                facts = {name: fact() for name, fact in header.items()} if self.path else {}
                self.cache = Cache(int(self.max_mb * 2**20), self.precision, self.path, {**facts, "content": content})
                self._made_of = (content, version)
            return self.cache

    def clear(self) -> None:
        """Forget what is in memory; a file stays."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self.cache is not None:
            self.cache.close()
        self.cache = None

    def forecast(self, sizes: Iterable[int], row_width: int) -> str:
        """Say how much of a corpus with Docs of these sizes will be remembered."""
        if not (self.max_mb or self.path):
            return "cache_mb = 0: nothing is remembered, each sentence is run in every epoch"
        row_bytes = row_width * np.dtype(self.precision).itemsize
        n_tokens, fits = 0, self.max_mb * 2**20 / row_bytes
        for size in sizes:
            n_tokens += size
            if n_tokens > 20 * fits and not self.path:
                break  # a corpus without end, perhaps
        needed = f"{n_tokens:,} tokens of training text take {n_tokens * row_bytes / 2**20:,.0f} MB"
        if self.path:
            return f"{needed}, remembered in {self.path}"
        if n_tokens <= fits:
            return f"{needed}: all of them fit into cache_mb = {self.max_mb:g}, each sentence is run once"
        return (
            f"{needed} or more: {fits / n_tokens:.0%} of them fit into cache_mb = {self.max_mb:g}, the others are run "
            'in every epoch; raise it, set cache_precision = "float16", or name a cache_path'
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Memory, (self.max_mb, self.path, self.precision)


class Cache:
    """Rows by sentence, within a budget of memory or in a file. Safe to call from several threads.

    When the budget is spent, what is there stays: each epoch goes through the whole corpus in another order, and a rule
    that made room for the newest would throw out everything before it comes again.

    max_bytes: budget; with a path there is none, and all is remembered.
    precision: of the stored numbers. What is computed now is rounded like what is read later.
    path: file of the rows (an index lies beside it), mapped into memory and kept: a later run starts warm. Another
        cache of this process that has the same file open lets go of it.
    header: what the rows are of; a file that says otherwise is refused.
    is_on: whether it takes new rows.

    Raises:
        ElmoError: the file is of another biLM or another kind, in use by another process, or cannot be written.
    """

    def __init__(
        self,
        max_bytes: int,
        precision: Precision = "float32",
        path: str | Path | None = None,
        header: dict[str, str] | None = None,
    ) -> None:
        self.max_bytes, self.dtype = max_bytes, np.dtype(precision)
        self.hits = self.misses = 0
        self.n_bytes = 0
        self._lock = ForkSafeLock()
        self._entries: dict[bytes, tuple[int, int, int, int | None]] = {}  # block, first row, rows, CRC to check yet
        self._blocks: list[npt.NDArray[Any]] = []
        self._used = 0  # rows of the last block
        self.is_on = True
        self._file = None if path is None else _RowFile(Path(path), {**(header or {}), "precision": precision})
        if self._file is not None:
            self._open_file(self._file)

    def key(self, sentence: Sequence[str]) -> bytes:
        """What a sentence is found by."""
        return hashlib.blake2b(srsly.msgpack_dumps(list(sentence)), digest_size=16).digest()

    def get(self, key: bytes) -> Array | None:
        """Rows of a sentence, `[n_tokens, row_width]`, or None."""
        with self._lock:
            entry = self._entries.get(key)
            rows = None if entry is None else self._read(key, entry)
            self.hits, self.misses = self.hits + (rows is not None), self.misses + (rows is None)
            return rows

    def _read(self, key: bytes, entry: tuple[int, int, int, int | None]) -> Array | None:
        block, first, count, crc = entry
        stored = self._blocks[block][first : first + count]
        if crc is not None:  # from an earlier run, which may have ended in a crash of the machine
            if zlib.crc32(stored.tobytes()) != crc:
                del self._entries[key]
                return None
            self._entries[key] = (block, first, count, None)
        rows: Array = stored.astype(np.float32)
        return rows

    def put(self, key: bytes, rows: Array) -> Array:
        """Remember the rows of a sentence, if they still fit; return them as `get` will."""
        stored = rows.astype(self.dtype)
        with self._lock:
            if self.is_on and key not in self._entries and self._make_room(*stored.shape):
                block, first = len(self._blocks) - 1, self._used
                self._blocks[block][first : first + len(stored)] = stored
                self._used += len(stored)
                self._entries[key] = (block, first, len(stored), None)
                if self._file is not None:
                    self._file.note(key, len(stored), zlib.crc32(stored.tobytes()))
        rounded: Array = stored.astype(np.float32)
        return rounded

    def _make_room(self, count: int, width: int) -> bool:
        """See to it that the last block has room for so many rows; False where the budget is spent."""
        if self._file is not None and not self._file.is_ours:
            return False
        if self._blocks and self._used + count <= len(self._blocks[-1]):
            return True
        row_bytes = width * self.dtype.itemsize
        n_rows = max(count, _BLOCK_BYTES // row_bytes)
        if self._file is not None:
            self._blocks.append(self._file.grow(n_rows, width, self.dtype))
        else:
            n_rows = min(n_rows, (self.max_bytes - self.n_bytes) // row_bytes)
            if n_rows < count:
                return False
            self._blocks.append(np.empty((n_rows, width), dtype=self.dtype))
        self.n_bytes += n_rows * row_bytes
        self._used = 0
        return True

    def _open_file(self, file: "_RowFile") -> None:
        width, records = file.read_index()
        rows = file.map_all(width, self.dtype)
        if rows is None:
            return
        self._blocks, self._used, self.n_bytes = [rows], len(rows), rows.nbytes
        self._entries = {key: (0, first, n, crc) for key, first, n, crc in records if first + n <= len(rows)}

    def close(self) -> None:
        """Let go of the file, if there is one."""
        if self._file is not None:
            self._file.close()

    def __len__(self) -> int:
        """Sentences remembered."""
        return len(self._entries)


_OPEN: "weakref.WeakValueDictionary[Path, _RowFile]" = weakref.WeakValueDictionary()


class _RowFile:
    """The file of a cache and its index: `PATH` holds rows, `PATH.index` a line of JSON and a record a sentence.

    A sentence's rows are written before its record, so that a run that is killed leaves nothing half-known.
    """

    def __init__(self, path: Path, header: dict[str, str]) -> None:
        self.path, self._header = path, header
        self._index_path = path.with_name(path.name + ".index")
        if path.exists() and not self._index_path.exists():
            raise ElmoError(f"cache_path {path}: there is a file of another kind; name a path that is free")
        try:
            self._index: IO[bytes] = self._index_path.open("a+b")
        except OSError as error:
            raise ElmoError(f"cache_path {path}: cannot be written ({error})") from None
        self._pid = os.getpid()
        self._width = 0
        self._n_rows = self._first = 0
        if (other := _OPEN.get(path.resolve())) is not None:
            other.close()  # of a pipeline trained before in this process
        if fcntl is not None:
            try:
                fcntl.flock(self._index, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ElmoError(f"cache_path {path}: in use by another process; give each run its own") from None
        _OPEN[path.resolve()] = self

    @property
    def is_ours(self) -> bool:
        """Whether this process may write: one forked from it may not, nor one that has closed it."""
        return not self._index.closed and os.getpid() == self._pid

    def read_index(self) -> tuple[int, list[tuple[bytes, int, int, int]]]:
        """Width of the rows (0 where there are none yet), and the records: key, first row, rows, CRC."""
        self._index.seek(0)
        first_line, _, rest = self._index.read().partition(b"\n")
        if not first_line:
            return 0, []
        try:
            header = json.loads(first_line)
            width = header.pop("row_width")
        except (ValueError, KeyError, AttributeError):
            raise ElmoError(
                f"cache_path {self.path}: {self._index_path.name} is no index of spacy-elmo's; name a path that is free"
            ) from None
        for name, value in self._header.items():
            if header.get(name) != value:
                raise ElmoError(
                    f"cache_path {self.path}: holds rows of another {name} ({str(header.get(name))[:16]}, not "
                    f"{value[:16]}); delete the file and its index, or name another path"
                )
        whole = len(rest) // _RECORD.size * _RECORD.size
        if whole < len(rest):  # the run before was killed in the middle of a record
            self._index.truncate(len(first_line) + 1 + whole)
        self._width = width
        return width, list(_RECORD.iter_unpack(rest[:whole]))

    def map_all(self, width: int, dtype: np.dtype[Any]) -> npt.NDArray[Any] | None:
        """All rows that the file has; None where it has none."""
        size = self.path.stat().st_size if self.path.exists() else 0
        self._n_rows = size // (width * dtype.itemsize) if width else 0
        return np.memmap(self.path, dtype, "r", shape=(self._n_rows, width)) if self._n_rows else None

    def grow(self, n_rows: int, width: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Make room for more rows behind those there are."""
        if not self._width:
            self._write(json.dumps({**self._header, "row_width": width}).encode() + b"\n")
            self._width = width
        start = self._n_rows * width * dtype.itemsize
        try:
            with self.path.open("ab") as file:
                _allocate(file, start, n_rows * width * dtype.itemsize)
            block = np.memmap(self.path, dtype, "r+", offset=start, shape=(n_rows, width))
        except OSError as error:
            raise ElmoError(f"cache_path {self.path}: cannot grow ({error})") from None
        self._first, self._n_rows = self._n_rows, self._n_rows + n_rows
        return block

    def close(self) -> None:
        """Let another run have the file."""
        with suppress(OSError):  # a full disk has been told of
            self._index.close()

    def note(self, key: bytes, n_rows: int, crc: int) -> None:
        """Record a sentence whose rows have been written behind the last one's."""
        self._write(_RECORD.pack(key, self._first, n_rows, crc))
        self._first += n_rows

    def _write(self, line: bytes) -> None:
        try:
            self._index.write(line)
            self._index.flush()
        except OSError as error:
            raise ElmoError(f"cache_path {self.path}: its index cannot be written ({error})") from None


def _allocate(file: IO[bytes], start: int, size: int) -> None:
    """Make a file longer, and have its disk space at once: mapped memory without any would end the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), start, size)
    else:
        file.truncate(start + size)
