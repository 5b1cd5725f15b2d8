"""Locks work between threads and between processes, and end with their process."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from spacy_elmo.support import locks
from spacy_elmo.support.locks import abandoned, claimed, locked

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows locks by a file elsewhere")


def is_abandoned(path):
    with abandoned(path) as found:
        return found


HOLD = """
import sys, time
from pathlib import Path
from spacy_elmo.support.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_keeps_other_threads_waiting(tmp_path):
    order = []

    def second():
        with locked(tmp_path):
            order.append("second")

    with locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.1)
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]


def test_who_does_not_wait_is_told(tmp_path):
    with locked(tmp_path):
        assert not is_abandoned(tmp_path)
        with pytest.raises(BlockingIOError), locked(tmp_path, wait=False):
            pass
    assert is_abandoned(tmp_path)
    with locked(tmp_path, wait=False):
        pass


def test_a_killed_process_leaves_no_lock(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(BlockingIOError), locked(tmp_path, wait=False):
        pass
    process.kill()
    process.communicate()
    with locked(tmp_path, wait=False):
        pass


def test_a_forked_process_does_not_hold_the_lock_on(tmp_path):
    with locked(tmp_path):
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
    try:
        with locked(tmp_path, wait=False):
            pass
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_who_waited_has_the_lock_on_what_lies_there_now(tmp_path):
    place, got = tmp_path / "place", []
    place.mkdir()

    def second():
        with locked(place):
            got.append(place.stat().st_ino)

    with locked(place):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.1)
        place.rename(tmp_path / "old")
        place.mkdir()
    thread.join(60)
    assert got == [place.stat().st_ino]


def test_where_there_are_no_locks_what_is_a_day_old_is_abandoned(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    (tmp_path / "file").touch()
    with locked(tmp_path):
        assert not is_abandoned(tmp_path)
    day_before = time.time() - 25 * 3600
    os.utime(tmp_path, (day_before, day_before))
    assert not is_abandoned(tmp_path)
    os.utime(tmp_path / "file", (day_before, day_before))
    assert is_abandoned(tmp_path)


def test_nobody_begins_on_what_is_being_cleared_away(tmp_path):
    with abandoned(tmp_path) as found, pytest.raises(BlockingIOError), locked(tmp_path, wait=False):
        pass
    assert found


def test_what_is_gone_is_not_abandoned(tmp_path):
    assert not is_abandoned(tmp_path / "gone")


def test_what_is_claimed_is_refused_to_others_until_it_is_free_and_may_be_removed_meanwhile(tmp_path):
    place, refusal = tmp_path / "claimed", ValueError("in use")
    for _ in range(2):
        with claimed(place, Path.touch, refusal):
            with pytest.raises(ValueError, match="in use"), claimed(place, Path.touch, refusal):
                pass
            place.unlink()


def test_what_is_removed_before_it_is_locked_is_made_again(tmp_path):
    place, made = tmp_path / "claimed", []

    def make(path):
        made.append(path)
        if len(made) > 1:
            path.touch()

    with claimed(place, make, ValueError()):
        assert made == [place, place]
        assert place.exists()
