"""The file of `cache_path`: SQLite's bytes, the content of its tables, and the journal of a killed run."""

import json
import shutil
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from changes import damage, odd_text

from spacy_elmo.pipeline.cache import Cache

_N, _N_TOKENS, _WIDTH = 12, 3, 8
_HEADER = {"biLM": "41e1", "content": "rows"}
_TABLES = ("header", "sentences")


class Kind:
    """Changes bytes of the file, or values in its tables; half of the rows before their checksum is computed.

    The reader must refuse rows of another type or shape. Their numbers may be anything.
    """

    def __init__(self, seeds: Path) -> None:
        seeds.mkdir(parents=True)
        _open(seeds / "rows").put({_key(number): _rows(number) for number in range(_N)})
        self._file, self._journal = (seeds / "rows").read_bytes(), _journal(seeds / "rows")

    def make(self, rng: Random, folder: Path) -> bool:
        path, chance = folder / "rows", rng.random()
        if chance < 0.4:
            places = [at for at in range(0, len(self._file), 16) if any(self._file[at : at + 16])]
            path.write_bytes(damage(rng, self._file, places))
            return False
        path.write_bytes(self._file)
        if chance < 0.5:
            (folder / "rows-journal").write_bytes(damage(rng, self._journal))
            return False
        behind = chance < 0.8
        with closing(sqlite3.connect(path)) as file:
            file.text_factory = bytes
            for _ in range(rng.choice((1, 1, 3))):
                (_change_rows if behind else _change_anything)(rng, file)
            file.commit()
        return behind

    def honest(self) -> Iterator[dict[str, bytes]]:
        yield {"rows": self._file}

    def read(self, folder: Path, behind: bool) -> None:
        out = folder.with_name("out")
        shutil.copytree(folder, out)
        cache = _open(out / "rows")
        _check(cache, behind)
        cache.put({_key(number): _rows(number) for number in range(_N + 3)})
        len(cache)
        _check(cache, behind)


def _check(cache: Cache, behind: bool) -> None:
    lengths = {_key(number): _N_TOKENS for number in range(_N + 3)}
    there = dict(cache.get(lengths, _WIDTH))
    for number in range(_N + 3):
        rows = there.get(_key(number), _rows(number))
        assert rows.shape == (_N_TOKENS, _WIDTH), "rows of another shape"
        assert behind or np.array_equal(rows, _rows(number)), "other rows"


def _change_rows(rng: Random, file: sqlite3.Connection) -> None:
    key = _key(rng.randrange(_N))
    content = damage(rng, _rows(0).tobytes())
    content = rng.choice((content, content, content[:_N_TOKENS], content * rng.choice((0, 2, 2**12))))
    facts = json.dumps({**_HEADER, "precision": "float32"}, sort_keys=True).encode()
    checksum = zlib.crc32(content, zlib.crc32(key, zlib.crc32(facts)))
    file.execute("UPDATE sentences SET rows = ?, checksum = ? WHERE key = ?", (content, checksum, key))


def _change_anything(rng: Random, file: sqlite3.Connection) -> None:
    statement = rng.choice(
        (
            lambda: ("UPDATE OR IGNORE header SET value = ? WHERE name = ?", _odd(rng), rng.choice(list(_HEADER))),
            lambda: ("UPDATE OR IGNORE header SET name = ?", _odd(rng)),
            lambda: ("INSERT OR IGNORE INTO header VALUES (?, ?)", _odd(rng), _odd(rng)),
            lambda: (f"DELETE FROM {rng.choice(_TABLES)}",),
            lambda: (
                f"UPDATE OR IGNORE sentences SET {rng.choice(('key', 'rows', 'checksum'))} = ? WHERE key = ?",
                _odd(rng),
                _key(rng.randrange(_N)),
            ),
            lambda: ("UPDATE sentences SET rows = (SELECT max(rows) FROM sentences)",),
            lambda: (f"CREATE INDEX IF NOT EXISTS index{rng.randrange(9)} ON sentences (checksum)",),
            lambda: (f"CREATE VIEW IF NOT EXISTS view{rng.randrange(9)} AS SELECT * FROM header",),
            lambda: (
                f"CREATE TRIGGER IF NOT EXISTS trigger{rng.randrange(9)} AFTER INSERT ON sentences "
                "BEGIN UPDATE sentences SET rows = zeroblob(96); END",
            ),
            lambda: (f"PRAGMA user_version = {rng.randrange(9)}",),
        )
    )()
    file.execute(statement[0], statement[1:])


def _odd(rng: Random) -> Any:
    text = odd_text(rng).encode(errors="surrogatepass")
    return rng.choice(
        (
            None,
            True,
            -1,
            2**63 - 1,
            0.5,
            float("inf"),
            float("nan"),
            text,
            text.decode(errors="replace"),
            rng.randbytes(rng.choice((0, 1, 16, 96, 10**6))),
        )
    )


def _journal(path: Path) -> bytes:
    """Return what a run leaves if it is killed while it writes."""
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("PRAGMA cache_size = 1")
        file.execute("BEGIN")
        file.executemany("UPDATE sentences SET rows = ? WHERE key = ?", [(bytes(96), _key(n)) for n in range(_N)])
        file.executemany("INSERT INTO sentences VALUES (?, ?, 0)", [(_key(n), bytes(2**15)) for n in range(90, 99)])
        journal = path.with_name("rows-journal").read_bytes()
        file.execute("ROLLBACK")
    return journal


def _open(path: Path) -> Cache:
    return Cache(0, path=path, header=_HEADER)


def _key(number: int) -> bytes:
    return Cache(0).key([f"w{number}"])


def _rows(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=(_N_TOKENS, _WIDTH)).astype(np.float32)
