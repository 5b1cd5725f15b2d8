"""Two paths in; their files or folders are exchanged in one step, if the system can."""

import ctypes
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

_FROM_HERE = -100  # AT_FDCWD: relative paths start at the working directory
_EXCHANGE = 2  # RENAME_EXCHANGE, see renameat2(2)


def exchange(one: Path, other: Path) -> bool:
    """Exchange what two paths name, so that neither is ever missing. Return False if nothing was done, because the
    system or the file system of these paths cannot do it (overlay and network file systems often cannot)."""
    rename = _renameat2()
    return rename is not None and rename(_FROM_HERE, os.fsencode(one), _FROM_HERE, os.fsencode(other), _EXCHANGE) == 0


@cache
def _renameat2() -> Any:
    """Return the function of Linux's C library (glibc since 2.28); None if it is missing."""
    return getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
