"""Arrays in, an HDF5 file out, also where the disk fills while it is written."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeVar

import h5py

T = TypeVar("T")


class _Forgiving:
    """A file as HDF5 sees it: nothing it does fails.

    HDF5 cannot close a file whose last writes fail; the process dies of that. So the first error is kept here, and from
    then on all goes well, and nowhere.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file: Any = file
        self.error: BaseException | None = None  # of any kind: Ctrl-C too may come within a write

    def _try(self, otherwise: T, call: Callable[..., T], *args: Any) -> T:
        if self.error is None:
            try:
                return call(*args)
            except BaseException as error:
                self.error = error
        return otherwise

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._try(offset, self._file.seek, offset, whence)

    def tell(self) -> int:
        return self._try(0, self._file.tell)

    def read(self, size: int = -1) -> bytes:  # h5py knows a file by it, and calls `readinto`
        return self._try(b"", self._file.read, size)

    def readinto(self, buffer: Any) -> int:
        count = self._try(-1, self._file.readinto, buffer)
        if count < 0:
            buffer[:] = bytes(len(buffer))  # what it held is not for HDF5
        return len(buffer) if count < 0 else count

    def write(self, data: Any) -> int:
        return self._try(len(data), self._file.write, data)

    def truncate(self, size: int | None = None) -> int:
        return self._try(size or 0, self._file.truncate, size)

    def flush(self) -> None:
        self._try(None, self._file.flush)


class NewHDF5:
    """An HDF5 file that is being written, see `new_hdf5`."""

    def __init__(self, hdf5: h5py.File, file: _Forgiving) -> None:
        self._hdf5, self._file = hdf5, file

    def __contains__(self, name: str) -> bool:
        return name in self._hdf5

    def add(self, name: str, data: Any, dtype: Any = None) -> None:
        """Make a dataset; a slash in its name makes groups."""
        self._hdf5.create_dataset(name, data=data, dtype=dtype)
        if self._file.error is not None:
            raise self._file.error  # at once, not when all is written


@contextmanager
def new_hdf5(file: BinaryIO) -> Iterator[NewHDF5]:
    """Write HDF5 into a file open for writing and reading (`w+b`).

    Raises:
        OSError: it cannot be written.
    """
    forgiving = _Forgiving(file)
    try:
        with h5py.File(forgiving, "w") as hdf5:
            yield NewHDF5(hdf5, forgiving)
    except BaseException:
        if forgiving.error is None:
            raise
    if forgiving.error is not None:
        raise forgiving.error
