"""The cache of a training: it keeps to its budget and is never wrong. `test_cache_file.py` tests its file."""

import copy
import hashlib
import os
import pickle
import sys
import threading

import catalogue
import numpy as np
import pytest
import srsly

from helpers.caches import ROW, WIDTH, fill, found, get, key_of, rows_of
from spacy_elmo import ElmoError
from spacy_elmo.pipeline.cache import Cache, Memory


def test_gives_back_what_it_was_given_and_counts():
    cache = Cache(2**20)
    fill(cache, range(50))
    assert found(cache, range(50)) == list(range(50))
    assert found(cache, range(45, 55)) == list(range(45, 50))
    assert (len(cache), cache.hits, cache.misses) == (50, 55, 5)


def test_key_tells_sentences_apart():
    cache = Cache(2**20)
    sentences = [["a", "b"], ["b", "a"], ["a b"], ["a\0b"], ["a", "", "b"], ["a", "b", ""], ["ab"]]
    assert len({cache.key(sentence) for sentence in sentences}) == len(sentences)
    assert cache.key(["a", "b"]) == cache.key(("a", "b"))


def test_key_is_that_of_files_that_earlier_versions_wrote():
    packed = srsly.msgpack_dumps(["Füße", "", "走"])
    assert Cache(0).key(("Füße", "", "走")) == hashlib.blake2b(packed, digest_size=16).digest()
    assert Cache(0).key(["a", "b"]).hex() == "d9e19282bfdc65cefea6aab442aa31d7"


def test_key_does_not_look_through_the_installed_packages(monkeypatch):
    def look(_):
        raise AssertionError("it did")

    cache = Cache(0)
    monkeypatch.setattr(catalogue.Registry, "get_all", look)
    cache.key(["a", "b"])


def test_keeps_to_its_budget_and_keeps_what_is_there():
    """Even if a corpus is too large, each epoch has hits, because the first entries stay."""
    cache = Cache(20 * 3 * ROW)
    fill(cache, range(100))
    assert found(cache, range(100)) == list(range(20))
    fill(cache, range(99, -1, -1))
    assert found(cache, range(100)) == list(range(20))
    assert cache.n_bytes == 20 * 3 * ROW


def test_half_precision_is_rounded_at_once_and_takes_half():
    cache = Cache(20 * 3 * ROW, "float16")
    given = cache.put({key_of(1): rows_of(1)})[key_of(1)]
    assert given.dtype == np.float32
    np.testing.assert_array_equal(given, get(cache, 1))
    np.testing.assert_allclose(given, rows_of(1), rtol=1e-3)
    fill(cache, range(100))
    assert len(cache) == 40


def test_rows_of_another_shape_are_not_there():
    cache = Cache(2**20)
    fill(cache, [1])
    for n_tokens, width in ((2, WIDTH), (4, WIDTH), (3, WIDTH - 1), (0, WIDTH)):
        assert dict(cache.get({key_of(1): n_tokens}, width)) == {}
    assert (cache.hits, cache.misses) == (0, 4)


def test_what_it_gives_cannot_change_it():
    cache = Cache(2**20)
    fill(cache, [1])
    get(cache, 1)[:] = 7
    assert found(cache, [1]) == [1]


def test_threads_may_share_it():
    cache = Cache(2**22)
    wrong = []

    def work(offset):
        for number in range(offset, offset + 300):
            fill(cache, [number])
            if not np.array_equal(get(cache, number), rows_of(number)):
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


def test_cache_that_is_off_gives_but_does_not_take():
    cache = Cache(2**20)
    fill(cache, [1])
    cache.is_on = False
    fill(cache, [2])
    assert found(cache, [1, 2]) == [1]


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
        threading.Timer(10, os._exit, [1]).start()  # a lock that stays held must not block the tests
        memory.open("rows", 1, {"of": lambda: "rows"})
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    may_end.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0


# When there is a cache


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


def test_file_without_sqlite3_is_one_clear_error(path, monkeypatch):
    monkeypatch.delitem(sys.modules, "spacy_elmo.pipeline.cache_file", raising=False)
    monkeypatch.setitem(sys.modules, "sqlite3", None)
    with pytest.raises(ElmoError, match="cache_path needs Python's sqlite3"):
        Cache(0, path=path)


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
