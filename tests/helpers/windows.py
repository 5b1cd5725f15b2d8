"""An imitation of Windows for a separate process. It lacks what Windows lacks, and a file that anyone has open, or
mapped into memory, cannot be renamed, replaced or removed. Paths and line ends stay those of the system."""

import ctypes
import functools
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MISSING = (
    *("fork", "forkpty", "register_at_fork", "sched_getaffinity", "sysconf", "uname", "statvfs"),
    *("getuid", "geteuid", "getpgid", "killpg", "setsid", "mkfifo", "chown"),
)

refused = threading.Event()  # set if a file in use could not be renamed or removed


def imitate() -> None:
    """Call this before you import spacy_elmo. Other packages see the real system."""
    import filelock  # noqa: F401
    import h5py  # noqa: F401
    import pooch  # noqa: F401
    import spacy  # noqa: F401
    import torch  # noqa: F401

    for name in _MISSING:
        if hasattr(os, name):
            delattr(os, name)
    if hasattr(os, "process_cpu_count"):  # Python 3.13; without sched_getaffinity it is the other function
        os.process_cpu_count = os.cpu_count
    for name in ("fcntl", "resource", "pwd", "grp"):
        sys.modules[name] = None  # type: ignore[assignment] # importing it fails from now on
    sys.platform = "win32"
    ctypes.CDLL = functools.partial(_load, ctypes.CDLL)  # type: ignore[assignment, misc]
    shutil._use_fd_functions = False  # type: ignore[attr-defined] # use paths, which can be checked
    for owner, names in ((os, ("rename", "replace", "remove", "unlink")), (Path, ("rename", "replace", "unlink"))):
        for name in names:
            setattr(owner, name, _unless_in_use(getattr(owner, name)))


def _load(load: Callable[..., Any], name: object, *args: Any, **kwargs: Any) -> Any:
    if name is None:
        raise TypeError("Windows has no library that stands for the whole process")
    return load(name, *args, **kwargs)


def _unless_in_use(change: Callable[..., Any]) -> Callable[..., Any]:
    def changed(*paths: Any, **kwargs: Any) -> Any:
        for path in paths:
            if _is_in_use(path):
                refused.set()
                raise PermissionError(13, "in use by a process", str(path))
        return change(*paths, **kwargs)

    return changed


def _is_in_use(path: Any) -> bool:
    """Return whether this process has this file open or mapped, or a file in this folder."""
    real = os.path.realpath(path)
    maps = Path("/proc/self/maps").read_text().splitlines()
    used = {line.split(maxsplit=5)[5] for line in maps if "/" in line}
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            used.add(str(descriptor.readlink()))
        except OSError:  # that of the listing itself
            continue
    return any(name == real or name.startswith(f"{real}/") for name in used)
