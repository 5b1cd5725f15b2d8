"""Content in, files and folders out that appear whole or not at all, also where a process is killed meanwhile.

All is written aside, in a hidden file or folder `.NAME.NUMBER.part` beside its place, and forced to the disk before it
takes that place: else a power cut could leave an empty file of the new name when the old one is gone. A file takes its
place by a rename; so does a folder where none is, or an empty one. A folder that is there is exchanged in one step,
where the system can (see `exchange.py`) and nothing lies in it that has to stay. Otherwise:

1. The new folder, whole, is renamed to `.incoming` in the old one. From here on the new state holds: who reads, reads
   `.incoming` while it is there (`settled`, `read_whole`).
2. Its files are put in place one by one, as second names of the same content; old ones without a successor are removed.
3. `.incoming` is renamed to a name of the other kind, and removed.

A process that is killed between 1 and 3 leaves `.incoming`; the next one that reads or writes there does 2 and 3 again.
"""

import errno
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from spacy_elmo.support.exchange import exchange
from spacy_elmo.support.locks import abandoned, locked

INCOMING = ".incoming"

_READINGS = 5  # attempts to read a folder without a lock, if it is replaced each time
_PATIENCE, _PAUSE = 2.0, 0.05  # seconds for which `patiently` tries again, and between attempts

T = TypeVar("T")


def at_home(path: str | os.PathLike[str]) -> Path:
    """The path, with the user's home in the place of a `~` in front, as a shell does: a config knows no shell."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user
        return Path(path)


def write_whole(path: Path, write_to: Callable[[BinaryIO], object]) -> None:
    """Let `write_to` fill a file, which replaces the one that is there once it is whole.

    Raises:
        OSError: it cannot be written; the one that was there is still there.
    """
    clear_abandoned(path)
    with _aside(path, Path.touch) as temporary:
        with temporary.open("w+b") as file:
            write_to(file)
            file.flush()
            os.fsync(file.fileno())
        patiently(temporary.replace, path)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with the line ends that it has; see `write_whole`."""
    write_whole(path, lambda file: file.write(text.encode()))


@contextmanager
def replacing(folder: Path, names: Collection[str]) -> Iterator[Path]:
    """Give a new folder, to be filled; then its content takes the place of `names` in `folder`, all of it or nothing.

    names: of all files and folders that belong together there, whether the new state has them or not. Where they cannot
        be put in place in one step, that is done in this order. What else lies in `folder` stays; a folder of such a
        name is replaced by a folder only.

    Of several threads or processes that replace the same, the last one wins.

    Raises:
        OSError: it cannot be written. What was there is still there, or, if only the last part failed, what is new.
    """
    folder = Path(os.path.realpath(folder))  # a link stays one
    if not folder.parent.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
    clear_abandoned(folder)
    place = folder / INCOMING if _is_mount(folder) else folder  # beside it, unless that is another file system
    with _aside(place, Path.mkdir) as new:
        if folder.is_dir():
            shutil.copymode(folder, new)
        yield new
        sync(new)
        _put_in_place(new, folder, names)
        sync_folder(folder.parent)  # before the old one is removed


def settled(folder: Path, names: Collection[str]) -> Path:
    """Where to read what `replacing` wrote: `folder`, or `.incoming` in it. What a killed process left is finished
    where that can be done at once; names: as of `replacing`."""
    if not _has_incoming(folder):
        return folder
    with suppress(OSError), locked(folder, wait=False):  # not ours to write, or another is at it
        _finish(folder, names)
    return folder / INCOMING if _has_incoming(folder) else folder


def recover(folder: Path, names: Collection[str]) -> None:
    """Finish what a killed process has left of replacing these, and remove what it has left of writing them."""
    with suppress(OSError), locked(folder):
        clear_abandoned(folder / INCOMING)
        _finish(folder, names)


def read_whole(folder: Path, names: Collection[str], read: Callable[[Path], T]) -> T:
    """Let `read` read several files of a folder; again, if they were replaced meanwhile, so that all are of one state.

    read: is given the place to read from, see `settled`. What it raises is raised, unless they were replaced meanwhile.
    """
    for _ in range(_READINGS):
        before = state_of(folder, names)
        try:
            found = read(settled(folder, names))
        except Exception:
            if state_of(folder, names) == before:
                raise
        else:
            if state_of(folder, names) == before:
                return found
    with locked(folder):  # replaced again and again: keep the others waiting
        return read(folder / INCOMING if _has_incoming(folder) else folder)


def state_of(folder: Path, names: Collection[str]) -> list[tuple[int, int, int] | None]:
    """What changes whenever one of these is replaced, or what takes their place is put into the folder."""
    return [_stamp(folder / name) for name in (INCOMING, *names)]


def patiently(rename: Callable[[Path], object], target: Path) -> None:
    """Call `rename` with `target`. On Windows nothing can be renamed or replaced while anybody has it open (a reader, a
    virus scanner): there it is tried again for a moment.

    Raises:
        OSError: what `rename` raises; on Windows, the file stays in use.
    """
    end = time.monotonic() + (_PATIENCE if sys.platform == "win32" else 0.0)
    while True:
        try:
            rename(target)
            return
        except PermissionError:
            if time.monotonic() >= end:
                raise
        time.sleep(_PAUSE)


def link_or_copy(source: Path, target: Path) -> None:
    """Have the content of a file under a second name: at no cost, where the file system can. A link stays a link."""
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copyfile(source, target, follow_symlinks=False)


def sync(path: Path) -> None:
    """Force a file, or a folder and all in it, to the disk."""
    if path.is_dir():
        for entry in path.iterdir():
            sync(entry)
        sync_folder(path)
        return
    if path.is_file() and not path.is_symlink():
        with path.open("r+b" if sys.platform == "win32" else "rb") as file:
            os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk, where the system can."""
    if sys.platform == "win32":
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def clear_abandoned(path: Path) -> None:
    """Remove what killed processes left of the writing of what was to become `path`."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{12}}\.part")
    with suppress(OSError):
        for left in [entry for entry in path.parent.iterdir() if pattern.fullmatch(entry.name)]:
            with abandoned(left) as is_abandoned:
                if is_abandoned:
                    _try_remove(left)


@contextmanager
def _aside(path: Path, make: Callable[[Path], object]) -> Iterator[Path]:
    """Make something new beside `path`, to take its place. It is locked, so that others see that it is not abandoned.
    What has its name in the end is removed."""
    with ExitStack() as stack:
        while True:
            temporary = _name_aside(path)
            stack.callback(_try_remove, temporary)
            make(temporary)
            if sys.platform == "win32":  # where it could not be renamed while it is open
                break
            with suppress(FileNotFoundError):  # taken for abandoned, and removed, before it was locked
                stack.enter_context(locked(temporary))
                break
        yield temporary


def _name_aside(path: Path) -> Path:
    """A name that nobody else takes."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")


def _is_mount(folder: Path) -> bool:
    """Whether a folder and its parent are of two file systems, so that nothing can be renamed from one to the other."""
    return folder.is_dir() and folder.stat().st_dev != folder.parent.stat().st_dev


def _put_in_place(new: Path, folder: Path, names: Collection[str]) -> None:
    if not folder.is_dir() or _is_free(folder):
        try:
            patiently(new.rename, folder)
        except OSError:  # made or filled meanwhile; or it is empty, on Windows
            if not folder.is_dir():
                raise
        else:
            return
    with locked(folder):
        clear_abandoned(folder / INCOMING)
        _finish(folder, names)
        _keep_folders(new, folder, names)
        if _is_replaceable(folder, names) and exchange(new, folder):
            return
        _move(new, folder / INCOMING)
        sync_folder(folder)
        _finish(folder, names)


def _keep_folders(new: Path, folder: Path, names: Collection[str]) -> None:
    """Refuse to remove a folder for a file, or for nothing: it is hardly one of ours."""
    for name in names:
        if (folder / name).is_dir() and not (new / name).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(folder / name))


def _is_free(folder: Path) -> bool:
    return not any(folder.iterdir()) and not _is_working_directory(folder)


def _is_replaceable(folder: Path, names: Collection[str]) -> bool:
    """Whether all that is in it is to be replaced."""
    return {entry.name for entry in folder.iterdir()} <= set(names) and not _is_working_directory(folder)


def _is_working_directory(folder: Path) -> bool:
    """Whether it is ours, and so most likely that of a shell, which would stay in the folder that is removed."""
    with suppress(OSError):
        return folder.samefile(Path.cwd())
    return False


def _has_incoming(folder: Path) -> bool:
    incoming = os.fspath(folder / INCOMING)  # any text: os.path never raises, as pathlib does
    return os.path.isdir(incoming) and not os.path.islink(incoming)  # noqa: PTH112, PTH114


def _move(source: Path, target: Path) -> None:
    """Rename a folder, or copy it to a name aside first, where the target is of another file system."""
    try:
        patiently(source.rename, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        temporary = _name_aside(target)
        try:
            shutil.copytree(source, temporary)
            sync(temporary)
            patiently(temporary.rename, target)
        finally:
            _try_remove(temporary)


def _finish(folder: Path, names: Collection[str]) -> None:
    """Put what is in `.incoming` in place, of which it is the whole new state; the lock on the folder is held.

    It may have been done in part before.
    """
    if not _has_incoming(folder):
        return
    incoming = folder / INCOMING
    try:
        others = [entry.name for entry in incoming.iterdir() if entry.name not in names]
        for name in (*others, *names):
            if (incoming / name).exists():
                _put(incoming / name, folder / name)
            elif not (folder / name).is_dir():
                (folder / name).unlink(missing_ok=True)
        sync_folder(folder)
        discarded = _name_aside(incoming)
        patiently(incoming.rename, discarded)
    except FileNotFoundError:
        if _has_incoming(folder):
            raise
        return  # where there are no locks, another has done it
    _try_remove(discarded)


def _put(source: Path, target: Path) -> None:
    """Give a file, or all files of a folder, a second name at `target`, in the place of what is there."""
    if target.exists() and source.samefile(target):
        return
    temporary, old = (_name_aside(source.parent) for _ in range(2))  # names that only `_put_in_place` clears
    try:
        if source.is_dir():
            shutil.copytree(source, temporary, symlinks=True, copy_function=link_or_copy)  # type: ignore[arg-type]
        else:
            link_or_copy(source, temporary)
        sync(temporary)
        if source.is_dir():
            with suppress(FileNotFoundError):
                patiently(target.rename, old)
        patiently(temporary.replace, target)
    finally:
        _try_remove(temporary)
        _try_remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _try_remove(path: Path) -> None:
    with suppress(OSError):
        _remove(path)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except (OSError, ValueError):  # a name that cannot be one, too
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
