"""Freed arrays in, free memory for the system out."""

import ctypes
import sys

_BYTES = 16 * 2**20  # of layers: to compute so many takes so long that tidying up behind them is no matter


class FreedMemory:
    """Gives back to the system what the C library keeps of freed arrays, where it can be asked to (glibc).

    It keeps them between what is still used, and holes of many sizes seldom fit the next array: with batches of tens of
    megabytes, a fifth of a process came to lie idle in them.
    """

    def __init__(self) -> None:
        self._freed = 0  # bytes since the last time; threads may lose some of each other's, which is no matter

    def add(self, n_bytes: int) -> None:
        """Call after so many bytes of layers, and what it took to compute them, have been freed."""
        self._freed += n_bytes
        if self._freed >= _BYTES:
            self._freed = 0
            if _TRIM is not None:
                _TRIM(0)


_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
