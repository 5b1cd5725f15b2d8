"""What a forked process finds."""

import os
import threading

import pytest
import torch

from spacy_elmo.bilm.threads import ForkSafeLock, keep_to_one_thread_after_fork


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("asked", [None, 3])
def test_a_forked_process_begins_with_one_thread_and_may_ask_for_more(asked):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        keep_to_one_thread_after_fork()
        assert torch.get_num_threads() == 2
        child = os.fork()
        if child == 0:
            keep_to_one_thread_after_fork()
            found = [torch.get_num_threads()]
            if asked:
                torch.set_num_threads(asked)
            keep_to_one_thread_after_fork()
            os._exit(found != [1] or torch.get_num_threads() != (asked or 1))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        torch.set_num_threads(before)
