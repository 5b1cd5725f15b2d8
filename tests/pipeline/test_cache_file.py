"""The file of a training cache gives right rows, no matter who fills, cuts, damages, forks or forges it."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import zlib
from contextlib import closing
from pathlib import Path

import pytest

from helpers.caches import N_TOKENS, ROW, fill, found, get, key_of, rows_of
from helpers.files import names
from spacy_elmo import ElmoError
from spacy_elmo.pipeline import cache_file
from spacy_elmo.pipeline.cache import Cache

HEADER = {"biLM": "abc"}
START = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from helpers.caches import fill, found
from spacy_elmo.pipeline.cache import Cache
cache = Cache(0, path=sys.argv[1], header={HEADER!r})
"""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rows"


@pytest.fixture
def filled(path):
    """Make a cache file with twenty sentences."""
    fill(Cache(0, path=path, header=HEADER), range(20))
    return path


def open_cache(path):
    return Cache(0, path=path, header=HEADER)


def start(path, code):
    """Start a process that runs code with `cache`."""
    return subprocess.Popen([sys.executable, "-c", START + code, path], stdout=subprocess.PIPE, text=True)


def change(path, statement, *values):
    """Change the file through SQLite."""
    with closing(sqlite3.connect(path)) as file:
        file.execute(statement, values)
        file.commit()


def assert_one_line(error):
    assert str(error).isprintable()
    assert len(str(error)) < 1000


# Kept


def test_has_no_budget_and_serves_a_second_run(path):
    fill(open_cache(path), range(100))
    second = open_cache(path)
    assert found(second, range(100)) == list(range(100))
    fill(second, range(100, 120))
    third = open_cache(path)
    assert found(third, range(120)) == list(range(120))
    assert (third.misses, len(third), third.n_bytes) == (0, 120, path.stat().st_size)
    assert names(path.parent) == ["rows"]


def test_file_that_is_deleted_begins_anew(filled):
    cache = open_cache(filled)
    filled.unlink()
    assert found(cache, range(20)) == []
    fill(cache, [1])
    assert found(open_cache(filled), range(20)) == [1]


@pytest.mark.parametrize(
    ("header", "precision", "message"),
    [
        ({"biLM": "other"}, "float32", r"another biLM \(abc, not other\); delete the file, or set another path"),
        (HEADER, "float16", "another precision"),
        ({**HEADER, "content": "top layer"}, "float32", "another content"),
    ],
)
def test_file_of_other_rows_is_refused(filled, header, precision, message):
    before = filled.read_bytes()
    with pytest.raises(ElmoError, match=message):
        Cache(0, precision, filled, header)
    assert filled.read_bytes() == before


def test_file_of_another_kind_is_refused_and_left_alone(path):
    path.write_text("my thesis, on which I have worked for two years")
    with pytest.raises(ElmoError, match="another kind"):
        Cache(0, path=path)
    assert path.read_text() == "my thesis, on which I have worked for two years"
    path.unlink()
    change(path, "CREATE TABLE accounts (name, money)")
    before = path.read_bytes()
    with pytest.raises(ElmoError, match="another kind"):
        Cache(0, path=path)
    assert path.read_bytes() == before


def test_cache_of_an_earlier_version_is_refused_with_what_to_do(path):
    path.write_bytes(bytes(2**12))
    path.with_name("rows.index").write_text('{"row_width": 10}\n')
    with pytest.raises(ElmoError, match=r"earlier version .* delete it and rows\.index, or set another path"):
        Cache(0, path=path)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (".", r"cache_path \.: this is a folder; name a file in it"),
        ("folder", "cache_path folder: this is a folder; name a file in it"),
        ("no/such/rows", "cache_path no/such/rows: there is no folder no/such; make it"),
    ],
)
def test_place_where_no_file_can_be_is_one_clear_error(tmp_path, monkeypatch, place, message):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ElmoError, match=message):
        Cache(0, path=place)
    assert names(tmp_path) == ["folder"]


def test_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    fill(Cache(0, path="~/rows", header=HEADER), [1])
    assert found(open_cache(tmp_path / "rows"), [1]) == [1]


# Damaged and forged


def test_rows_damaged_on_disk_are_not_served_but_made_anew(filled):
    content = filled.read_bytes()
    filled.write_bytes(content.replace(rows_of(4).tobytes()[20:], bytes(N_TOKENS * ROW - 20)))
    cache = open_cache(filled)
    assert found(cache, range(20)) == [number for number in range(20) if number != 4]
    fill(cache, [4])
    assert found(open_cache(filled), range(20)) == list(range(20))


@pytest.mark.parametrize("seed", range(5))
def test_changed_file_is_refused_or_gives_what_is_right(filled, seed):
    """`found` checks the rows."""
    rng, content, n_refused = random.Random(seed), filled.read_bytes(), 0
    for _ in range(100):
        changed = bytearray(content)
        at = rng.randrange(len(content))
        if rng.random() < 0.5:  # most of the file is empty, so change a byte that is not
            at = rng.choice([at for at, byte in enumerate(content) if byte])
        end = min(len(content), at + rng.choice((1, 1, 4, 64, 2**14)))
        match rng.choice(("flip", "zero", "random", "cut", "drop")):
            case "flip":
                changed[at] ^= 1 << rng.randrange(8)
            case "zero":
                changed[at:end] = bytes(end - at)
            case "random":
                changed[at:end] = rng.randbytes(end - at)
            case "cut":
                del changed[at:]
            case _:
                del changed[at:end]
        filled.write_bytes(changed)
        try:
            cache = open_cache(filled)
            found(cache, range(20))
            fill(cache, range(15, 25))
            found(cache, range(25))
        except ElmoError as error:
            assert_one_line(error)
            n_refused += 1
        filled.with_name("rows-journal").unlink(missing_ok=True)
    assert 0 < n_refused < 100


def test_sql_that_is_no_text_is_refused_in_one_line(filled):
    filled.write_bytes(
        filled.read_bytes().replace(b"CREATE TABLE sentences", b"CREATE TABLE \xff\xfe\xfd\xfc\xfb\xfances")
    )
    with pytest.raises(ElmoError, match="another kind, or a damaged cache") as caught:
        open_cache(filled)
    assert_one_line(caught.value)


@pytest.mark.parametrize("value", [None, 1, -0.5, float("inf"), "\x1b[2J\n" * 100, b"abc", "NaN"], ids=repr)
def test_header_of_another_type_is_refused_in_one_line(filled, value):
    change(filled, "UPDATE header SET value = ? WHERE name = 'biLM'", value)
    with pytest.raises(ElmoError, match="another biLM") as caught:
        open_cache(filled)
    assert_one_line(caught.value)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER more AFTER INSERT ON sentences BEGIN DELETE FROM sentences; END",
        "CREATE VIEW more AS SELECT * FROM sentences",
        "ALTER TABLE sentences ADD COLUMN more",
        "DROP TABLE header",
    ],
)
def test_file_that_does_more_than_to_store_is_refused(filled, statement):
    change(filled, statement)
    with pytest.raises(ElmoError, match="other tables"):
        open_cache(filled)


@pytest.mark.parametrize("content", [b"", bytes(ROW), bytes(4 * ROW), bytes(3 * ROW + 1), "text", 7, None], ids=repr)
def test_rows_of_another_shape_or_type_are_not_served(filled, content):
    """Their checksums are correct, if they can have one."""
    seed = zlib.crc32(b'{"biLM": "abc", "precision": "float32"}')
    checksum = zlib.crc32(content, zlib.crc32(key_of(3), seed)) if isinstance(content, bytes) else 7
    change(filled, "UPDATE sentences SET rows = ?, checksum = ? WHERE key = ?", content, checksum, key_of(3))
    cache = open_cache(filled)
    assert get(cache, 3) is None
    fill(cache, [3])
    assert found(cache, [3]) == [3]


def test_rows_belong_to_their_sentence_and_their_bilm(filled):
    change(filled, "UPDATE sentences SET key = key || x'00' WHERE key = ?", key_of(2))
    change(filled, "UPDATE sentences SET key = ? WHERE key = ?", key_of(2), key_of(1))
    assert found(open_cache(filled), range(1, 4)) == [3]
    change(filled, "UPDATE header SET value = 'other' WHERE name = 'biLM'")
    assert found(Cache(0, path=filled, header={"biLM": "other"}), range(20)) == []


# Several processes at once, killed processes, a full disk


def test_several_of_a_process_share_it(path):
    first, second = open_cache(path), open_cache(path)
    fill(first, [1])
    fill(second, [2])
    fill(first, [3])
    assert found(first, [1, 2, 3]) == found(second, [1, 2, 3]) == [1, 2, 3]


def test_threads_share_it(path):
    cache, errors = open_cache(path), []

    def work(offset):
        try:
            for number in range(offset, offset + 40):
                fill(cache, [number])
                assert found(cache, [number]) == [number]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(20 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(cache) == 100


def test_two_processes_fill_it_at_once(path):
    code = "first = int(sys.stdin.readline())\nfor n in range(60): fill(cache, [first + n]); found(cache, range(90))"
    command = [sys.executable, "-c", START + code, path]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(2)]
    for process, first in zip(both, (0, 30), strict=True):
        process.stdin.write(f"{first}\n")
        process.stdin.close()
    assert [process.wait() for process in both] == [0, 0]
    assert found(open_cache(path), range(100)) == list(range(90))
    assert names(path.parent) == ["rows"]


def test_another_that_never_lets_go_is_one_clear_error(filled, monkeypatch):
    monkeypatch.setattr(cache_file, "_PATIENCE", 0.0)
    cache = open_cache(filled)
    with closing(sqlite3.connect(filled)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ElmoError, match=r"cannot be read or written \(database is locked\)"):
            fill(cache, [30])
    fill(cache, [30])


def test_what_a_killed_run_had_put_is_there_and_the_next_one_goes_on(path):
    process = start(path, "fill(cache, range(10))\nprint(flush=True)\nfill(cache, range(10, 10**9))")
    process.stdout.readline()
    while len(open_cache(path)) < 20:
        pass
    process.kill()
    process.communicate()
    cache = open_cache(path)
    n = len(cache)
    assert n >= 20
    assert found(cache, range(n)) == list(range(n))
    fill(cache, range(n, n + 10))
    assert len(open_cache(path)) == n + 10
    assert names(path.parent) == ["rows"]


@needs_fork
def test_worker_that_outlives_a_killed_training_locks_nobody_out(path):
    code = "fill(cache, [1])\nif os.fork(): os.kill(os.getpid(), 9)\nprint(os.getpid(), flush=True)\nsys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", START + code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    worker = int(process.stdout.readline())
    assert process.wait() == -9
    cache = open_cache(path)
    fill(cache, [2])
    assert found(cache, [1, 2]) == [1, 2]
    os.kill(worker, signal.SIGKILL)
    process.communicate()


@needs_fork
def test_forked_process_shares_it_also_while_a_thread_is_at_work(path):
    cache, is_over = open_cache(path), threading.Event()
    numbers = iter(range(100, 10**9))

    def work():
        while not is_over.is_set():
            fill(cache, [next(numbers)])

    thread = threading.Thread(target=work)
    thread.start()
    children = []
    for number in range(20):
        if not (child := os.fork()):
            threading.Timer(60, os._exit, [1]).start()  # a lock that stays held must not block the tests
            fill(cache, [number])
            os._exit(0 if found(cache, [number]) == [number] else 2)
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    is_over.set()
    thread.join()
    assert statuses == [0] * 20
    n_filled = 100 + len(cache) - 20
    assert found(open_cache(path), [*range(20), *range(100, n_filled)]) == [*range(20), *range(100, n_filled)]


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
def test_file_that_cannot_grow_is_one_clear_error_and_loses_nothing(path):
    code = (
        "import resource\nfill(cache, range(200))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(sys.argv[1]),) * 2)\nfill(cache, range(200, 10**9))"
    )
    done = subprocess.run([sys.executable, "-c", START + code, path], capture_output=True, text=True)
    assert "ElmoError: cache_path" in done.stderr
    assert "cannot be read or written" in done.stderr
    cache = open_cache(path)
    n = len(cache)
    assert n >= 200
    assert found(cache, range(n)) == list(range(n))
    fill(cache, [n])
    assert len(cache) == n + 1
