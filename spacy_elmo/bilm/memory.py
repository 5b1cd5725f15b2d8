"""Freed arrays in, free memory for the system out."""

import ctypes
import sys


def return_freed_memory() -> None:
    """Give back to the system what the C library keeps of freed arrays, where it can be asked to (glibc).

    It keeps them between what is still used, and holes of many sizes seldom fit the next array: with batches of tens of
    megabytes, a fifth of a process came to lie idle in them.
    """
    if _TRIM is not None:
        _TRIM(0)


_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
