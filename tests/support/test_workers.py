"""Workers end when their parent does, however they were started and whatever they wait for."""

import multiprocessing
import subprocess
import sys
import threading

import pytest

from spacy_elmo.support.workers import end_with_parent, when_started

PARENT = """
import multiprocessing, sys, time
from concurrent.futures import ProcessPoolExecutor
from spacy_elmo.support.workers import end_with_parent

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    pool = ProcessPoolExecutor(2, mp_context=context, initializer=end_with_parent)
    list(pool.map(time.sleep, [0.1] * 4))
    print("working", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_idle_workers_end_when_their_parent_is_killed(tmp_path, method):
    (tmp_path / "parent.py").write_text(PARENT)
    process = subprocess.Popen([sys.executable, tmp_path / "parent.py", method], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"working\n"
    process.kill()
    process.communicate(timeout=60)  # their shared output ends when all have exited


def test_a_process_that_is_no_worker_goes_on():
    end_with_parent()


def test_nothing_is_done_where_no_process_is_being_spawned():
    before = threading.active_count()
    when_started(lambda: pytest.fail("done"))
    assert threading.active_count() == before
