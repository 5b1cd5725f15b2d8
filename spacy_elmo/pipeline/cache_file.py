"""Rows of sentences in, as bytes, and the same bytes out, or none at all: the file of a training cache.

It is an SQLite file. Several threads and processes may fill and read it at once. If a run is killed or the disk is
full, the rows that were stored before remain. A checksum ties each sentence's rows to their key and to the header.
"""

import json
import os
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from spacy_elmo.errors import ElmoError
from spacy_elmo.support.messages import quoted, reason, shown

_TABLES = [
    "CREATE TABLE header (name TEXT PRIMARY KEY, value TEXT)",
    "CREATE TABLE sentences (key BLOB PRIMARY KEY, rows BLOB, checksum INTEGER)",
]
_PAGE_BYTES = 2**14  # a sentence's rows take about 100 KB, and their last page stays half empty
_PATIENCE = 60.0  # seconds to wait for another process, which needs milliseconds unless it is stopped

# SQLite's connections and locks do not survive a fork. So a connection lasts for one call, and a fork waits for it.
_in_use = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_in_use.acquire, after_in_parent=_in_use.release, after_in_child=_in_use.release)


class RowFile:
    """The file at `path`, created if it does not exist.

    header: what the rows are of.

    Raises:
        ElmoError: (each method, too) the file is of other rows or another kind, damaged, or cannot be read or written.
    """

    def __init__(self, path: Path, header: Mapping[str, str]) -> None:
        self._path, self._header = path, dict(header)
        self._seed = zlib.crc32(json.dumps(self._header, sort_keys=True).encode())
        with self._opened():
            pass

    def get(self, keys: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """Yield the keys that are there, and the rows of each; damaged rows count as missing. The file is open until
        the last one is taken, so take them all at once."""
        with self._opened() as file:
            file.execute("BEGIN")
            for key in keys:
                found = file.execute("SELECT rows, checksum FROM sentences WHERE key = ?", (key,)).fetchone()
                if found and isinstance(found[0], bytes) and found[1] == self._checksum(key, found[0]):
                    yield key, found[0]

    def put(self, rows: Mapping[bytes, bytes]) -> None:
        """Add rows, or replace damaged ones: all of these, or none."""
        records = [(key, content, self._checksum(key, content)) for key, content in rows.items()]
        with self._opened() as file:
            file.execute("BEGIN IMMEDIATE")
            file.executemany("INSERT OR REPLACE INTO sentences VALUES (?, ?, ?)", records)
            file.execute("COMMIT")

    @property
    def n_bytes(self) -> int:
        """Size of the file."""
        return self._path.stat().st_size

    def __len__(self) -> int:
        """Number of sentences in the file."""
        with self._opened() as file:
            return int(file.execute("SELECT count(*) FROM sentences").fetchone()[0])

    def _checksum(self, key: bytes, rows: bytes) -> int:
        return zlib.crc32(rows, zlib.crc32(key, self._seed))

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """Open a connection to the file and compare its header."""
        try:
            with (
                _in_use,
                closing(sqlite3.connect(self._path.absolute(), timeout=_PATIENCE, isolation_level=None)) as file,
            ):
                self._prepare(file)
                yield file
        except sqlite3.OperationalError as error:  # disk full, no permission, no lock
            raise self._unusable(reason(error)) from None
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter from an SQLite error that repeats odd bytes
            raise self._refusal(reason(error)) from None

    def _prepare(self, file: sqlite3.Connection) -> None:
        # Nothing is forced to the disk: if the machine crashes, the file may be damaged, but that is noticed.
        file.execute("PRAGMA synchronous = OFF")
        if not (tables := _tables(file)):
            file.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            file.execute("BEGIN IMMEDIATE")
            if not (tables := _tables(file)):  # another process may have made them meanwhile
                for table in _TABLES:
                    file.execute(table)
                file.executemany("INSERT INTO header VALUES (?, ?)", self._header.items())
                tables = _TABLES
            file.execute("COMMIT")
        if tables != _TABLES:  # another program's database, or one that does more than store (triggers)
            raise self._refusal("it has other tables")
        found = dict(file.execute("SELECT name, value FROM header"))
        for name, value in self._header.items():
            if found.get(name) != value:
                there = found.get(name)
                there = shown(there[:16]) if isinstance(there, str) else quoted(there)
                raise ElmoError(
                    f"cache_path {self._path}: holds rows of another {name} ({there}, not {value[:16]}); "
                    "delete the file, or set another path"
                )

    def _unusable(self, why: str) -> ElmoError:
        if self._path.is_dir():
            what = "this is a folder; name a file in it, which need not exist yet"
        elif not self._path.parent.is_dir():
            what = f"there is no folder {self._path.parent}; make it, or set another path"
        else:
            what = f"cannot be read or written ({why}); fix that, or set another path"
        return ElmoError(f"cache_path {self._path}: {what}")

    def _refusal(self, why: str) -> ElmoError:
        index = self._path.with_name(f"{self._path.name}.index")
        if index.exists():
            return ElmoError(
                f"cache_path {self._path}: a cache of an earlier version of spacy-elmo; delete it and {index.name}, or "
                "set another path"
            )
        return ElmoError(
            f"cache_path {self._path}: a file of another kind, or a damaged cache ({why}); set a path where no file "
            "exists, or delete the file if it is a cache"
        )


def _tables(file: sqlite3.Connection) -> list[str]:
    return [sql for (sql,) in file.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL")]
