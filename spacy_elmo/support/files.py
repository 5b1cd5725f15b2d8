"""Content in, complete files and folders out: they appear whole or not at all, even if a process is killed meanwhile.

Everything is first written to a hidden file or folder `.NAME.NUMBER.part` next to its place. It is forced to the disk
before it is moved into place. Otherwise a power cut could leave an empty new file when the old one is already gone. A
file is renamed into place. So is a folder, if there is none or an empty one. An existing folder is exchanged in one
step, if the system can (see `exchange.py`) and the folder holds nothing that has to stay. Otherwise:

1. The complete new folder is renamed to `.incoming` in the old one. From here on the new state is valid: readers use
   `.incoming` while it exists (`settled`, `read_whole`).
2. Its files are put in place one by one, as second names of the same content. Old files that it lacks are removed.
3. `.incoming` is renamed to a `.part` name, and removed.

If a process is killed between 1 and 3, `.incoming` remains. The next process that reads or writes there does 2 and 3
again.
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

_READINGS = 5  # attempts to read a folder without a lock, if it is replaced during each
_PATIENCE, _PAUSE = 2.0, 0.05  # seconds for which `patiently` retries, and seconds between attempts

T = TypeVar("T")


def at_home(path: str | os.PathLike[str]) -> Path:
    """Return the path, with a leading `~` replaced by the user's home. A shell does this; a config has no shell."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user
        return Path(path)


def behind_link(path: Path) -> Path:
    """Return the place of a file to write: what a symbolic link names, whether it exists or not, or the path itself.

    Raises:
        OSError: the link leads back to itself.
    """
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


def write_whole(path: Path, write_to: Callable[[BinaryIO], object]) -> None:
    """Let `write_to` fill a file. Once it is complete, it replaces the existing one. A link stays a link.

    Raises:
        OSError: it cannot be written; the old file is still there.
    """
    path = behind_link(path)
    clear_abandoned(path)
    with _aside(path, Path.touch) as temporary:
        with temporary.open("w+b") as file:
            write_to(file)
            file.flush()
            os.fsync(file.fileno())
        patiently(temporary.replace, path)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with unchanged line ends; see `write_whole`."""
    write_whole(path, lambda file: file.write(text.encode()))


@contextmanager
def replacing(folder: Path, names: Collection[str]) -> Iterator[Path]:
    """Give a new folder, to be filled. Then its content replaces `names` in `folder`, all or nothing.

    names: all files and folders that belong together there, whether the new state has them or not. If they cannot be
        put in place in one step, they are put there in this order. Everything else in `folder` stays. A folder of such
        a name is only replaced by a folder.

    If several threads or processes replace the same names, the last one wins.

    Raises:
        OSError: it cannot be written. The old content is still there, or, if only the last part failed, the new
            content.
    """
    folder = Path(os.path.realpath(folder))  # keep a link a link
    if not folder.parent.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
    clear_abandoned(folder)
    place = folder / INCOMING if _is_mount(folder) else folder  # next to it, unless that is another file system
    with _aside(place, Path.mkdir) as new:
        if folder.is_dir():
            shutil.copymode(folder, new)
        yield new
        sync(new)
        _put_in_place(new, folder, names)
        sync_folder(folder.parent)  # before the old one is removed


def settled(folder: Path, names: Collection[str]) -> Path:
    """Return where to read what `replacing` wrote: `folder`, or `.incoming` in it. If a killed process left work
    unfinished and it can be finished at once, finish it; names: as in `replacing`."""
    if not _has_incoming(folder):
        return folder
    with suppress(OSError), locked(folder, wait=False):  # no permission to write, or another process is doing it
        _finish(folder, names)
    return folder / INCOMING if _has_incoming(folder) else folder


def recover(folder: Path, names: Collection[str]) -> None:
    """Finish what a killed process left unfinished when it replaced these, and remove its temporary files."""
    with suppress(OSError), locked(folder):
        clear_abandoned(folder / INCOMING)
        _finish(folder, names)


def read_whole(folder: Path, names: Collection[str], read: Callable[[Path], T]) -> T:
    """Let `read` read several files of a folder. If they were replaced meanwhile, read again, so that all are of one
    state.

    read: gets the place to read from, see `settled`. Its exceptions are raised unless the files were replaced
        meanwhile.
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
    with locked(folder):  # replaced again and again: make the others wait
        return read(folder / INCOMING if _has_incoming(folder) else folder)


def state_of(folder: Path, names: Collection[str]) -> list[tuple[int, int, int] | None]:
    """Return values that change whenever one of these is replaced, or when their replacement is put into the folder."""
    return [_stamp(folder / name) for name in (INCOMING, *names)]


def patiently(rename: Callable[[Path], object], target: Path) -> None:
    """Call `rename` with `target`. On Windows, a file that is open anywhere (in a reader, a virus scanner) cannot be
    renamed or replaced, so there this retries for a moment.

    Raises:
        OSError: what `rename` raises; on Windows, if the file stays in use.
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
    """Give the content of a file a second name, at no cost if the file system can. A link stays a link."""
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copyfile(source, target, follow_symlinks=False)


def sync(path: Path) -> None:
    """Force a file, or a folder and everything in it, to the disk."""
    if path.is_dir():
        for entry in path.iterdir():
            sync(entry)
        sync_folder(path)
        return
    if path.is_file() and not path.is_symlink():
        with path.open("r+b" if sys.platform == "win32" else "rb") as file:
            os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk, if the system can."""
    if sys.platform == "win32":
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def clear_abandoned(path: Path) -> None:
    """Remove the temporary files that killed processes left when they wrote `path`."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{12}}\.part")
    with suppress(OSError):
        for left in [entry for entry in path.parent.iterdir() if pattern.fullmatch(entry.name)]:
            with abandoned(left) as is_abandoned:
                if is_abandoned:
                    _try_remove(left)


@contextmanager
def _aside(path: Path, make: Callable[[Path], object]) -> Iterator[Path]:
    """Make something new next to `path`, which will replace it. It is locked, so others see that it is in use. What
    still has the temporary name in the end is removed."""
    with ExitStack() as stack:
        while True:
            temporary = _name_aside(path)
            stack.callback(_try_remove, temporary)
            make(temporary)
            if sys.platform == "win32":  # an open file could not be renamed there
                break
            # Another process may remove it as abandoned before it is locked.
            with suppress(FileNotFoundError):
                stack.enter_context(locked(temporary))
                break
        yield temporary


def _name_aside(path: Path) -> Path:
    """Return a name that no other process uses."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")


def _is_mount(folder: Path) -> bool:
    """Whether a folder and its parent are on two file systems, so that nothing can be renamed from one to the other."""
    return folder.is_dir() and folder.stat().st_dev != folder.parent.stat().st_dev


def _put_in_place(new: Path, folder: Path, names: Collection[str]) -> None:
    if not folder.is_dir() or _is_free(folder):
        try:
            patiently(new.rename, folder)
        except OSError:  # another process made or filled it meanwhile; or, on Windows, it is empty
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
    """Refuse to replace a folder with a file, or to remove it: it is probably not ours."""
    for name in names:
        if (folder / name).is_dir() and not (new / name).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(folder / name))


def _is_free(folder: Path) -> bool:
    return not any(folder.iterdir()) and not _is_working_directory(folder)


def _is_replaceable(folder: Path, names: Collection[str]) -> bool:
    """Whether everything in it is to be replaced."""
    return {entry.name for entry in folder.iterdir()} <= set(names) and not _is_working_directory(folder)


def _is_working_directory(folder: Path) -> bool:
    """Whether it is our working directory. Most likely it is then a shell's, too, which would stay in the removed
    folder."""
    with suppress(OSError):
        return folder.samefile(Path.cwd())
    return False


def _has_incoming(folder: Path) -> bool:
    incoming = os.fspath(folder / INCOMING)  # os.path accepts any text; pathlib may raise
    return os.path.isdir(incoming) and not os.path.islink(incoming)  # noqa: PTH112, PTH114


def _move(source: Path, target: Path) -> None:
    """Rename a folder. If the target is on another file system, first copy it to a temporary name there."""
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
    """Put the content of `.incoming`, which is the complete new state, in place. The caller holds the lock on the
    folder.

    Part of this may have been done before.
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
        return  # without locks, another process may have done it
    _try_remove(discarded)


def _put(source: Path, target: Path) -> None:
    """Give a file, or all files of a folder, a second name at `target`, replacing what is there."""
    if target.exists() and source.samefile(target):
        return
    temporary, old = (_name_aside(source.parent) for _ in range(2))  # only `_put_in_place` clears these names
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
    except (OSError, ValueError):  # the latter for an impossible name
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
