"""Returns freed memory to the system."""

import ctypes
import sys

_BYTES = 16 * 2**20  # of layers: computing this many takes so long that trimming the memory costs little


class FreedMemory:
    """Returns to the system what the C library keeps of freed arrays, if the library supports this (glibc).

    The library keeps freed arrays between those still in use, and the next array seldom fits into such a hole. With
    batches of tens of megabytes, a fifth of a process was unused memory.
    """

    def __init__(self) -> None:
        self._freed = 0  # bytes since the last trim; a race between threads may lose some, which does not matter

    def add(self, n_bytes: int) -> None:
        """Call this after `n_bytes` of layers, and the memory it took to compute them, have been freed."""
        self._freed += n_bytes
        if self._freed >= _BYTES:
            self._freed = 0
            return_freed_memory()


def return_freed_memory() -> None:
    """Return to the system what the C library keeps of freed arrays, if the library supports this."""
    if _TRIM is not None:
        _TRIM(0)


_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
