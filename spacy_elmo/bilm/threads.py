"""How many threads a computation uses. torch's number of threads is changed for one call and then restored.

A forked process always uses one thread: the threads of torch's pool do not survive a fork, and waiting for them would
never end.
"""

import ctypes
import functools
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import torch

from spacy_elmo.bilm.cpus import usable_cpus
from spacy_elmo.errors import ElmoError

Threads = int | Literal["auto"]

_LEAST_SHARE = 0.85  # a thread that has a CPU for less of its time had to wait for one
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # seconds for which short calls use one thread after a wait


def check_threads(threads: object) -> None:
    """Raise an ElmoError if this is not a valid number of threads."""
    is_number = isinstance(threads, int) and not isinstance(threads, bool) and threads >= 1
    if not (is_number or (isinstance(threads, str) and threads == "auto")):
        raise ElmoError(f'threads is {threads!r}, expected "auto" or a whole number of at least 1')


def count_threads(threads: Threads) -> int:
    """Return how many threads a computation may use now: the given number, or torch's own for "auto". It is never more
    than `usable_cpus`, and 1 in a forked process."""
    if _is_forked:
        return 1
    return min(torch.get_num_threads() if threads == "auto" else threads, usable_cpus())


class ShortCalls:
    """Chooses the number of threads of short calls, which take some milliseconds, as for a single sentence.

    The steps of such a call are very short. On a busy machine, it would mostly wait for its other threads, which wait
    for a CPU. So a call measures how much of its time this thread had a CPU. If it had to wait, calls use one thread
    for a moment, and then the next one tries again. Each try that fails doubles the moment.
    """

    def __init__(self) -> None:
        self._alone_until = 0.0
        self._pause = _FIRST_PAUSE

    def count(self, n: int) -> int:
        """Return how many threads the next call uses, if a long call would use `n`."""
        return 1 if time.monotonic() < self._alone_until else n

    @contextmanager
    def measured(self, n: int) -> Iterator[None]:
        """Measure a call that uses `n` threads."""
        if sys.platform == "win32":  # its clock of thread time has steps of 16 ms
            yield
            return
        wall, cpu = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
            if n > 1 and cpu < _LEAST_SHARE * wall:
                self._alone_until = time.monotonic() + self._pause
                self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            elif n > 1:
                self._pause = _FIRST_PAUSE


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Context in which torch uses `n` threads for this Python thread. Afterwards it uses as many as before.

    Only the calling thread is affected, so several threads can have different numbers at once. With nested contexts in
    one thread, the innermost counts. After the last of them has ended, in whatever order, the thread has the number
    from before the first one. In a forked process the number is always 1.

    Do not keep it open across a `yield`: between two steps of a generator, the number is the caller's.
    """
    keep_to_one_thread_after_fork()
    if not _open.numbers:
        _open.found = torch.get_num_threads()
    scope = _scope()
    scope.begin(1 if _is_forked else n)
    _open.numbers[call := object()] = n
    try:
        yield
    finally:
        _open.numbers.pop(call, None)
        number = next(reversed(_open.numbers.values()), _open.found)
        scope.end(1 if _is_forked else number)


def keep_to_one_thread_after_fork() -> None:
    """Call this before any work with torch. It does nothing in a process that was not forked."""
    if _is_forked and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


class ForkSafeLock:
    """A reentrant lock that is open in a newly forked process, even if a thread of the parent held it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class _OpenCalls(threading.local):
    """The numbers of the open `torch_threads` contexts in this thread, the latest last. found: the number before the
    first."""

    def __init__(self) -> None:
        self.numbers: dict[object, int] = {}
        self.found = 1


class _Scope(Protocol):
    """How to change torch's number of threads at the beginning of a call and at its end."""

    def begin(self, n: int) -> None:
        """Change it to the number of the call."""

    def end(self, n: int) -> None:
        """Change it back."""


class _OneThread:
    """Changes the number of the calling thread only.

    `torch.set_num_threads` does more (aten/src/ATen/ParallelOpenMP.cpp). It changes the numbers of OpenMP and MKL,
    which each thread has for itself. But it also stores the number for all threads that have not used torch yet, and
    each of these adopts it for good at its first use. So a thread that starts during a call in another thread would
    keep the number of that call. Here, OpenMP and MKL are called directly.
    """

    def __init__(self) -> None:
        library = ctypes.PyDLL(torch._C.__file__)  # finds the libraries that torch itself is linked to
        self._set_openmp: Any = library.omp_set_num_threads
        self._set_openmp.restype = None
        self._set_mkl: Any = library.MKL_Set_Num_Threads_Local if torch.backends.mkl.is_available() else None
        found = torch.get_num_threads()
        self.begin(probe := 2 if found == 1 else 1)
        works = torch.get_num_threads() == probe
        self.end(found)
        if not works:
            raise OSError("this OpenMP is not torch's own")

    def begin(self, n: int) -> None:
        if torch.get_num_threads() == n:
            return
        self._set_openmp(n)
        if self._set_mkl is not None and self._set_mkl(n) == 0:
            self._set_mkl(0)  # it had no own number, and follows OpenMP's

    end = begin


class _WholeProcess:
    """Changes the number with `torch.set_num_threads`, if there is no other way (Windows).

    Threads that have used torch keep their own numbers. The first call saves the number for all other threads, and the
    last one restores it. A thread that first uses torch in between keeps the number that it finds.
    """

    def __init__(self) -> None:
        self._lock = ForkSafeLock()
        self._n_calls = 0
        self._found = 1

    def begin(self, n: int) -> None:
        with self._lock:
            if self._n_calls == 0:
                self._found = torch.get_num_threads()
            self._n_calls += 1
            self._set(n)

    def end(self, n: int) -> None:
        with self._lock:
            self._set(n)
            self._n_calls -= 1
            if self._n_calls == 0 and n != self._found and not _is_forked:
                # This thread has its own number. So a short-lived thread stores the number for the others.
                thread = threading.Thread(target=torch.set_num_threads, args=[self._found])
                thread.start()
                thread.join()

    def _set(self, n: int) -> None:
        if torch.get_num_threads() != n:
            torch.set_num_threads(n)


@functools.cache
def _scope() -> _Scope:
    try:
        return _OneThread()
    except (OSError, AttributeError):  # the library lacks the function
        return _whole_process


_locks: weakref.WeakSet[ForkSafeLock] = weakref.WeakSet()
_whole_process = _WholeProcess()
_open = _OpenCalls()
_is_forked = False


def _after_fork() -> None:
    global _is_forked
    _is_forked = True
    for lock in _locks:
        lock._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
