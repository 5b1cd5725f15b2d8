"""A file or folder in, a lock on it out. The operating system frees the lock when its process ends, however it ends."""

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_ABANDONED = 24 * 3600.0  # without locks, a file is abandoned after this many seconds without a change


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock on the file or folder at `path`, against other threads and processes. This makes no lock file, and
    a process that is forked meanwhile does not hold the lock.

    If a file system has no locks (some network file systems don't), this does not wait: what is done under the lock has
    to be safe without it, too. On Windows the lock only holds on one machine.

    Raises:
        BlockingIOError: `wait` is False, and another process or thread holds the lock.
        OSError: nothing is there, or it cannot be opened.
    """
    if sys.platform == "win32":
        with _locked_by_name(path, wait):
            yield
        return
    descriptor = _open_locked(path, wait)
    try:
        yield
    finally:
        if descriptor in _held:  # in a process that was forked meanwhile, it is already closed
            _held.remove(descriptor)
            _unlock(descriptor)


@contextmanager
def claimed(path: Path, make: Callable[[Path], object], refusal: Exception) -> Iterator[None]:
    """Let `make` make a file or folder if none exists, and hold the lock on it. Inside the block, it may be removed. If
    another process or thread holds the lock, `refusal` is raised.

    Raises:
        OSError: it cannot be made or opened.
    """
    with ExitStack() as stack:
        while True:
            make(path)
            try:
                stack.enter_context(locked(path, wait=False))
                break
            except BlockingIOError:
                raise refusal from None
            except FileNotFoundError:  # the last holder ended and removed it
                continue
        yield


@contextmanager
def abandoned(path: Path) -> Iterator[bool]:
    """Whether no process uses a file or folder that is locked while in use. No process can start to use it inside the
    block.

    Without locks, it counts as abandoned a day after its last change.
    """
    if sys.platform == "win32":
        yield _is_old(path)
        return
    try:
        descriptor = _open(path)
    except OSError:  # gone, or no permission to open it
        yield False
        return
    try:
        yield _try_flock(descriptor, path)
    finally:
        os.close(descriptor)


def _is_old(path: Path) -> bool:
    """Whether the last change of a file, or of anything in a folder, was long ago."""
    try:
        return time.time() - max(file.stat().st_mtime for file in (path, *path.rglob("*"))) > _ABANDONED
    except OSError:
        return False


if sys.platform == "win32":

    @contextmanager
    def _locked_by_name(path: Path, wait: bool) -> Iterator[None]:
        """Windows locks no folders, so lock a file that represents this folder.

        As on other systems, it is an error if nothing is there: the last holder may have removed it.
        """
        from filelock import FileLock, Timeout

        name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
        try:
            with FileLock(Path(tempfile.gettempdir()) / f"spacy-elmo-{name}.lock", timeout=-1 if wait else 0):
                path.stat()
                yield
        except Timeout:
            raise BlockingIOError(f"{path}: in use") from None

else:
    # Descriptors. If a process is killed, its locks last as long as another process has copies of these.
    _held: set[int] = set()

    def _close_held() -> None:
        while _held:
            os.close(_held.pop())

    os.register_at_fork(after_in_child=_close_held)

    def _open_locked(path: Path, wait: bool) -> int:
        """Lock what is at the path once the lock is ours: another process may have put something new there
        meanwhile."""
        while True:
            descriptor = _open(path)
            try:
                _flock(descriptor, wait)
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    _held.add(descriptor)
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _open(path: Path) -> int:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # otherwise a named pipe would wait for a writer

    def _flock(descriptor: int, wait: bool) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:  # this file system has no locks
            return

    def _unlock(descriptor: int) -> None:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)

    def _try_flock(descriptor: int, path: Path) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return _is_old(path)
        return True
