"""What a forked process finds."""

import os
import subprocess
import sys
import threading

import pytest

from spacy_elmo.bilm.threads import ForkSafeLock


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_lock_that_another_thread_holds_is_open_in_a_forked_process():
    lock, is_held, may_end = ForkSafeLock(), threading.Event(), threading.Event()

    def hold():
        with lock:
            is_held.set()
            may_end.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    is_held.wait(30)
    child = os.fork()
    if child == 0:
        threading.Timer(10, os._exit, [1]).start()  # a lock that stays held must not hang the tests
        with lock, lock:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    may_end.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_lock_keeps_other_threads_out():
    lock, entered = ForkSafeLock(), threading.Event()

    def enter():
        with lock:
            entered.set()

    with lock:
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.2)
    assert entered.wait(30)
    thread.join()


FORKED_BESIDE_THREADS = """
import os, signal
import torch
from spacy_elmo.bilm.threads import keep_to_one_thread_after_fork

torch.set_num_threads(2)
torch.ones(2**18).mul_(2.0)
keep_to_one_thread_after_fork()
assert torch.get_num_threads() == 2
child = os.fork()
if child == 0:
    signal.alarm(20)
    for _ in range(2):
        torch.set_num_threads(2)
        keep_to_one_thread_after_fork()
        torch.ones(2**18).mul_(2.0)  # would wait for a thread that there is no more
    os._exit(torch.get_num_threads() != 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_keeps_to_one_thread():
    subprocess.run([sys.executable, "-c", FORKED_BESIDE_THREADS], check=True, timeout=120)
