"""What is remembered while training: within its budget, in its file, and never wrong."""

import copy
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from spacy_elmo import ElmoError
from spacy_elmo.pipeline.cache import Cache, Memory

WIDTH = 10
ROW = WIDTH * 4


def rows_of(number, n_tokens=3):
    return np.random.default_rng(number).normal(size=(n_tokens, WIDTH)).astype("f")


def fill(cache, numbers):
    for number in numbers:
        cache.put(cache.key([f"w{number}"]), rows_of(number))


def found(cache, numbers):
    return [number for number in numbers if cache.get(cache.key([f"w{number}"])) is not None]


def same(cache, numbers, **tolerance):
    for number in numbers:
        np.testing.assert_allclose(cache.get(cache.key([f"w{number}"])), rows_of(number), **tolerance)


def test_gives_back_what_it_was_given_and_counts():
    cache = Cache(2**20)
    fill(cache, range(50))
    same(cache, range(50), rtol=0)
    assert found(cache, range(45, 55)) == list(range(45, 50))
    assert (len(cache), cache.hits, cache.misses) == (50, 55, 5)


def test_key_tells_sentences_apart():
    cache = Cache(2**20)
    sentences = [["a", "b"], ["b", "a"], ["a b"], ["a\0b"], ["a", "", "b"], ["a", "b", ""], ["ab"]]
    assert len({cache.key(sentence) for sentence in sentences}) == len(sentences)
    assert cache.key(["a", "b"]) == cache.key(("a", "b"))


def test_keeps_to_its_budget_and_keeps_what_is_there():
    """Going through a corpus that is too large, epoch by epoch, has hits: those that were there first stay."""
    cache = Cache(20 * 3 * ROW)
    fill(cache, range(100))
    assert found(cache, range(100)) == list(range(20))
    fill(cache, range(99, -1, -1))
    assert found(cache, range(100)) == list(range(20))
    assert cache.n_bytes <= cache.max_bytes


def test_sentence_longer_than_a_block_is_kept_whole():
    cache = Cache(2**26)
    long = rows_of(0, n_tokens=2**24 // ROW + 5)
    fill(cache, [1])
    cache.put(b"long", long)
    fill(cache, [2])
    np.testing.assert_array_equal(cache.get(b"long"), long)
    same(cache, [1, 2], rtol=0)


def test_half_precision_is_rounded_at_once_and_takes_half():
    cache = Cache(20 * 3 * ROW, "float16")
    given = cache.put(b"x", rows_of(1))
    assert given.dtype == np.float32
    np.testing.assert_array_equal(given, cache.get(b"x"))
    np.testing.assert_allclose(given, rows_of(1), rtol=1e-3)
    fill(cache, range(100))
    assert len(cache) == 40


def test_what_it_gives_cannot_change_it():
    cache = Cache(2**20)
    fill(cache, [1])
    cache.get(cache.key(["w1"]))[:] = 7
    same(cache, [1], rtol=0)


def test_threads_may_share_it():
    cache = Cache(2**22)
    wrong = []

    def work(offset):
        for number in range(offset, offset + 300):
            fill(cache, [number])
            if not np.array_equal(cache.get(cache.key([f"w{number}"])), rows_of(number)):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(100 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(cache) == 600


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rows"


def test_file_has_no_budget_and_serves_a_second_run(path):
    first = Cache(0, path=path, header={"biLM": "abc"})
    fill(first, range(100))
    same(first, range(100), rtol=0)
    first.close()
    second = Cache(0, path=path, header={"biLM": "abc"})
    same(second, range(100), rtol=0)
    fill(second, range(100, 120))
    second.close()
    third = Cache(0, path=path, header={"biLM": "abc"})
    same(third, range(120), rtol=0)
    assert third.misses == 0


def test_file_of_a_run_that_was_killed_serves_what_was_written(path):
    code = (
        "import os, numpy as np\n"
        "from spacy_elmo.pipeline.cache import Cache\n"
        f"cache = Cache(0, path={str(path)!r}, header={{'biLM': 'abc'}})\n"
        "for n in range(50):\n"
        "    rows = np.random.default_rng(n).normal(size=(3, 10)).astype('f')\n"
        "    cache.put(cache.key([f'w{n}']), rows)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with path.with_name("rows.index").open("ab") as index:
        index.write(b"half a record")
    cache = Cache(0, path=path, header={"biLM": "abc"})
    same(cache, range(50), rtol=0)
    fill(cache, range(50, 60))
    cache.close()
    same(Cache(0, path=path, header={"biLM": "abc"}), range(60), rtol=0)


def test_rows_damaged_on_disk_are_not_served(path):
    cache = Cache(0, path=path, header={"biLM": "abc"})
    fill(cache, range(10))
    cache.close()
    del cache
    with path.open("r+b") as file:
        file.seek(4 * 3 * ROW)
        file.write(bytes(ROW))
    cache = Cache(0, path=path, header={"biLM": "abc"})
    assert found(cache, range(10)) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    fill(cache, [4])
    same(cache, range(10), rtol=0)


def test_file_cut_short_serves_what_is_left(path):
    cache = Cache(0, path=path, header={"biLM": "abc"})
    fill(cache, range(10))
    cache.close()
    del cache
    os.truncate(path, 4 * 3 * ROW + 8)
    assert found(Cache(0, path=path, header={"biLM": "abc"}), range(10)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("header", "precision", "message"),
    [
        ({"biLM": "other"}, "float32", "another biLM"),
        ({"biLM": "abc"}, "float16", "another precision"),
        ({"biLM": "abc", "content": "top layer"}, "float32", "another content"),
    ],
)
def test_file_of_other_rows_is_refused(path, header, precision, message):
    cache = Cache(0, path=path, header={"biLM": "abc"})
    fill(cache, [1])
    cache.close()
    before = path.read_bytes()
    with pytest.raises(ElmoError, match=message):
        Cache(0, precision, path, header)
    assert path.read_bytes() == before


def test_file_of_another_kind_is_refused_and_left_alone(path):
    path.write_text("my thesis")
    with pytest.raises(ElmoError, match="another kind"):
        Cache(0, path=path)
    path.with_name("rows.index").write_text("[an index of something]\n")
    with pytest.raises(ElmoError, match="no index of spacy-elmo"):
        Cache(0, path=path)
    assert path.read_text() == "my thesis"
    with pytest.raises(ElmoError, match="cannot be written"):
        Cache(0, path=path.parent / "no" / "such" / "directory")


def test_two_processes_do_not_write_one_file(path):
    cache = Cache(0, path=path)
    fill(cache, [1])
    code = f"from spacy_elmo.pipeline.cache import Cache; Cache(0, path={str(path)!r})"
    other = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert other.returncode == 1
    assert "in use by another process" in other.stderr


def test_second_training_in_a_process_takes_the_file_over(path):
    first = Cache(0, path=path)
    fill(first, [1])
    second = Cache(0, path=path)
    fill(second, [2])
    fill(first, [3])
    same(first, [1], rtol=0)
    assert found(first, [3]) == []
    same(second, [1, 2], rtol=0)
    second.close()
    assert found(Cache(0, path=path), [1, 2, 3]) == [1, 2]


def test_cache_that_is_off_gives_but_does_not_take():
    cache = Cache(2**20)
    fill(cache, [1])
    cache.is_on = False
    fill(cache, [2])
    assert found(cache, [1, 2]) == [1]


def test_full_disk_is_one_clear_error(path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ElmoError, match=r"cannot grow .*No space left"):
        fill(Cache(0, path=path), [1])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_under_the_index_is_one_clear_error(path, monkeypatch):
    cache = Cache(0, path=path)
    monkeypatch.setattr(cache._file, "_index", Path("/dev/full").open("wb"))  # noqa: SIM115
    with pytest.raises(ElmoError, match="index cannot be written"):
        fill(cache, [1])
    cache.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_process_reads_the_file_but_does_not_write_it(path):
    cache = Cache(0, path=path)
    fill(cache, [1])
    before = path.with_name("rows.index").read_bytes()
    child = os.fork()
    if child == 0:
        try:
            same(cache, [1], rtol=0)
            fill(cache, [2])
            os._exit(len(found(cache, [2])))
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert path.with_name("rows.index").read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_process_does_not_wait_for_a_thread_it_has_not(path):
    memory, is_inside, may_end = Memory(1, path=str(path)), threading.Event(), threading.Event()
    memory.turn_on("rows")

    def fact():
        is_inside.set()
        may_end.wait(30)
        return "rows"

    thread = threading.Thread(target=memory.open, args=("rows", 1, {"of": fact}))
    thread.start()
    is_inside.wait(30)
    child = os.fork()
    if child == 0:
        threading.Timer(10, os._exit, [1]).start()  # a lock that stays held must not hang the tests
        memory.open("rows", 1, {"of": lambda: "rows"})
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    may_end.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0


# When there is one


def test_memory_is_there_from_the_first_update_on_and_for_the_weights_of_now():
    memory = Memory(1)
    assert memory.open("rows", 1, {}) is None
    memory.turn_on("rows")
    cache = memory.open("rows", 1, {})
    assert memory.open("rows", 1, {}) is cache
    memory.is_on = False
    assert memory.open("rows", 1, {}) is cache
    assert not cache.is_on
    memory.turn_on("rows")
    assert memory.open("rows", 2, {}) is not cache
    memory.clear()
    assert memory.cache is None
    nothing = Memory(0)
    nothing.turn_on("rows")
    assert nothing.open("rows", 1, {}) is None


def test_memory_is_of_what_was_trained_with(path):
    memory = Memory(1, str(path))
    memory.turn_on("rows")
    fill(memory.open("rows", 1, {}), [1])
    assert memory.open("mix mean", 1, {}) is None
    assert found(memory.open("rows", 1, {}), [1]) == [1]
    memory.turn_on("mix mean")
    with pytest.raises(ElmoError, match=r"another content \(rows, not mix mean\)"):
        memory.open("mix mean", 1, {})


def test_memory_takes_nothing_along_into_copies_and_other_processes():
    memory = Memory(1, precision="float16")
    memory.turn_on("rows")
    memory.open("rows", 1, {})
    for other in (pickle.loads(pickle.dumps(memory)), copy.deepcopy(memory)):
        assert (other.max_mb, other.precision, other.is_on, other.cache) == (1, "float16", False, None)


def test_forecast_says_how_much_fits(path):
    mb = 2**20
    assert "all of them fit into cache_mb = 1," in Memory(1).forecast([mb // ROW], WIDTH)
    assert "50% of them fit" in Memory(1).forecast([mb // ROW] * 2, WIDTH)
    assert "all of them fit" in Memory(1, precision="float16").forecast([mb // ROW] * 2, WIDTH)
    assert "nothing is remembered" in Memory(0).forecast([mb // ROW], WIDTH)
    assert "remembered in cache.rows" in Memory(1, "cache.rows").forecast([mb // ROW] * 2, WIDTH)


def test_forecast_of_a_corpus_without_end_ends():
    def endless():
        while True:
            yield 1000

    assert "or more: 5% of them fit" in Memory(1).forecast(endless(), WIDTH)
