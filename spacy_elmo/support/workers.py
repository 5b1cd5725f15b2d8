"""Ends a worker process when the process that started it is gone, however that ended."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait

_INTERVAL = 0.5  # seconds


def end_with_parent() -> None:
    """End this process when its parent ends. Call this first in a process that `multiprocessing` started; elsewhere it
    does nothing.

    If the parent is killed, a worker that waits for work would wait forever, because other forked workers hold copies
    of the other end of its pipe. Linux could send a signal (PR_SET_PDEATHSIG), but at the end of the thread that
    started the worker, which may be long before the end of the parent.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        arguments = (parent.sentinel, parent.pid if os.getppid() == parent.pid else None)
        threading.Thread(target=_watch, args=arguments, name="end_with_parent", daemon=True).start()


def when_started(work: Callable[[], object]) -> None:
    """Call `work` in a thread once a process that is being spawned knows its parent and its task. Call this where an
    object is unpickled; if the process is not being spawned, it does nothing."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        threading.Thread(target=_wait_and_do, args=(work,), name="when_started", daemon=True).start()


def _wait_and_do(work: Callable[[], object]) -> None:
    while multiprocessing.parent_process() is None:
        time.sleep(_INTERVAL)
    work()


def _watch(sentinel: int, pid: int | None) -> None:
    """End when the parent closes its end of the pipe, or when another process (init) has replaced it.

    pid: of the parent; None if workers are started by a server between the two.
    """
    while not wait([sentinel], _INTERVAL):
        if pid is not None and os.getppid() != pid:
            break
    os._exit(1)
