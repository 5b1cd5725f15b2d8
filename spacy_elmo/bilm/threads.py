"""What a forked process has to heed: the threads of torch's pool do not survive a fork, and waiting for them
would last for ever."""

import os
import threading
import weakref

import torch


class ForkSafeLock:
    """A lock, reentrant, that is open in a process newly forked, whoever held it in the parent at that moment."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def keep_to_one_thread_after_fork() -> None:
    """Call before any work with torch; does nothing in a process that was not forked."""
    if _is_forked and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


_locks: weakref.WeakSet[ForkSafeLock] = weakref.WeakSet()
_is_forked = False


def _after_fork() -> None:
    global _is_forked
    _is_forked = True
    for lock in _locks:
        lock._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
