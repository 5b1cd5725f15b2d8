"""Write arrays to an HDF5 file, safely even if the disk becomes full, and read HDF5 files that come from anyone."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal, TypeVar

import h5py
import numpy as np
import numpy.typing as npt

from spacy_elmo.errors import ElmoError, WeightsError
from spacy_elmo.formats.archive import File, opened
from spacy_elmo.support.messages import reason, shown

Array = npt.NDArray[Any]
StoredDtype = Literal["float32", "float16", "lossless"]

_MOST_LINKS = 50_000  # A model of a thousand layers has 10,000.
_DEEPEST = 16  # Nesting of groups. HDF5 looks up each name from the top.
_MOST_CHUNK = 2**24  # Bytes of a chunk beyond the size of its array.
_MOST_RATIO = 100  # Size of all arrays to size of the file, beyond those bytes.
_MOST_COMPRESSED = 1100  # Deflate's best ratio: if an array takes less space in the file, its values are missing.

T = TypeVar("T")


class _Forgiving:
    """A file for HDF5 on which no call fails.

    HDF5 cannot close a file whose last writes fail: the process crashes. So the first error is kept here. Later calls
    succeed and do nothing.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file: Any = file
        self.error: BaseException | None = None  # of any kind: Ctrl-C may also come during a write

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

    def read(self, size: int = -1) -> bytes:  # h5py requires it of a file, but calls `readinto`
        return self._try(b"", self._file.read, size)

    def readinto(self, buffer: Any) -> int:
        count = self._try(-1, self._file.readinto, buffer)
        if count < 0:
            buffer[:] = bytes(len(buffer))  # HDF5 must not see the old content
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
        """Create a dataset. A slash in its name creates groups."""
        self._hdf5.create_dataset(name, data=data, dtype=dtype)
        if self._file.error is not None:
            raise self._file.error  # right away, not after all is written

    def note(self, name: str, value: str) -> None:
        """Set an ASCII attribute of the whole file. Readers ignore it unless they ask for it.

        It is stored at its full length. A string of variable length is in a heap, and libhdf5 may read a damaged heap
        forever.
        """
        self._hdf5.attrs[name] = np.bytes_(value.encode("ascii"))


@contextmanager
def new_hdf5(file: BinaryIO) -> Iterator[NewHDF5]:
    """Write HDF5 into a file that is open for writing and reading (`w+b`).

    Raises:
        OSError: the file cannot be written.
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


def write_arrays(
    named: Callable[[], Iterable[tuple[str, Array]]],
    file: BinaryIO,
    dtype: StoredDtype = "float32",
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write float32 arrays by name into an open file.

    named: yields them; it starts again each time it is called.
    notes: attributes of the whole file.

    Raises:
        WeightsError: a value is too large for float16.
    """
    if dtype == "lossless":
        dtype = "float16" if all(_fits_float16(array) for _, array in named()) else "float32"
    with new_hdf5(file) as stored:
        for name, note in (notes or {}).items():
            stored.note(name, note)
        for name, array in named():
            if dtype == "float16" and np.abs(array).max(initial=0) > np.finfo(np.float16).max:
                raise WeightsError(f"{name} has values too large for float16; write it as float32 or lossless")
            stored.add(name, array.astype(dtype, copy=False))


def _fits_float16(array: Array) -> bool:
    with np.errstate(over="ignore"):
        return bool((array.astype(np.float16) == array).all())


@contextmanager
def open_hdf5(file: File | BinaryIO, source: str) -> Iterator[h5py.File]:
    """Open an HDF5 file to read arrays of weights. source: its name in errors.

    Raises:
        WeightsError: it is not HDF5, truncated or damaged, even if this only shows while reading.
    """
    with opened(file) as content, naming_damage(source), h5py.File(content, "r") as hdf5:
        yield hdf5


@contextmanager
def naming_damage(source: str) -> Iterator[None]:
    """Turn the many kinds of errors that h5py raises for a damaged file into one that names the file."""
    try:
        yield
    except ElmoError:
        raise
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, ArithmeticError) as error:
        raise WeightsError(
            f"{source}: cannot be read as HDF5 weights; truncated, damaged or in another format ({reason(error)})"
        ) from None


def read_note(file: h5py.File, name: str) -> str | None:
    """Return what `NewHDF5.note` set, `""` if it has another type, and None if there is nothing.

    A string of variable length counts as nothing, because it is not read (see `NewHDF5.note`).
    """
    if name not in file.attrs:
        return None
    attribute = file.attrs.get_id(name)
    kind = attribute.get_type()
    if not isinstance(kind, h5py.h5t.TypeStringID) or attribute.get_space().get_simple_extent_type() != h5py.h5s.SCALAR:
        return ""
    if kind.is_variable_str():
        return None
    return bytes(file.attrs[name]).decode("ascii", "replace")


def find_dataset(file: h5py.File, names: Sequence[str], shape: tuple[int, ...], source: str) -> h5py.Dataset:
    """Return the dataset that has one of these names, checked. Its values are not read yet.

    Raises:
        WeightsError: there is none, or it has another shape or type, or is stored elsewhere.
    """
    for name in names:
        dataset = _walk(file, name, source)
        if dataset is not None:
            break
    else:
        raise WeightsError(f"{source}: no array {names[0]!r}, which the options expect; do both belong together?")
    if dataset.shape != shape:
        raise WeightsError(
            f"{source}: {name} has shape {list(dataset.shape or ())}, but the options expect {list(shape)}; "
            "do both belong together?"
        )
    if dataset.dtype not in (np.float16, np.float32, np.float64):
        raise WeightsError(f"{source}: {name} holds {shown(str(dataset.dtype))}, expected float16, float32 or float64")
    if dataset.chunks and math.prod(dataset.chunks) * dataset.dtype.itemsize > dataset.nbytes + _MOST_CHUNK:
        raise WeightsError(f"{source}: {name} is stored in chunks much larger than itself; damaged or hostile")
    if not has_values(dataset):
        raise WeightsError(f"{source}: {name} is declared, but its values are missing; the file is damaged")
    return dataset


def has_values(dataset: h5py.Dataset) -> bool:
    """Whether the file is large enough to hold what the dataset declares. A file can declare any size."""
    return bool(_stored_bytes(dataset) * _MOST_COMPRESSED >= dataset.nbytes)


def refuse_bomb(file: h5py.File, datasets: Iterable[h5py.Dataset], source: str) -> None:
    """Refuse arrays that need far more memory in total than the file's size. Weights hardly compress.

    Raises:
        WeightsError: they do.
    """
    size, needed = file.id.get_filesize(), sum(dataset.nbytes for dataset in datasets)
    if needed > _MOST_RATIO * size + _MOST_CHUNK:
        raise WeightsError(f"{source}: its arrays would grow from {size:,} to {needed:,} bytes; damaged or hostile")


def _stored_bytes(dataset: h5py.Dataset) -> int:
    """Count the bytes of its chunks in the file, until they are enough or there are more chunks than possible.

    HDF5 would add up all of them. If a 20 kB index names itself, that can take practically forever.
    """
    if dataset.chunks is None or not hasattr(dataset.id, "chunk_iter"):  # HDF5 has it since 1.10.10
        return int(dataset.id.get_storage_size())
    left, stored = math.prod(map(math.ceil, np.divide(dataset.shape, dataset.chunks))), 0

    def add(chunk: Any) -> bool | None:
        nonlocal left, stored
        left, stored = left - 1, stored + chunk.size
        return True if left <= 0 or stored * _MOST_COMPRESSED >= dataset.nbytes else None

    dataset.id.chunk_iter(add)
    return stored


def _walk(file: h5py.File, name: str, source: str) -> h5py.Dataset | None:
    """Follow a path over hard links only, so that a file cannot make us read another file."""
    node: Any = file
    for part in name.split("/"):
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise WeightsError(f"{source}: {name} is a link to elsewhere; weights files must contain their own arrays")
        node = node[part]
    if not isinstance(node, h5py.Dataset):
        return None
    if node.is_virtual or node.external:
        raise WeightsError(f"{source}: {name} is stored in another file; weights files must contain their own arrays")
    return node


def dataset_names(file: h5py.File, beginnings: tuple[str, ...], source: str) -> list[str]:
    """Return the names of datasets that start with one of these and are reached by hard links.

    Raises:
        WeightsError: groups are nested deeper, or hold more links, than in any model's file.
    """
    found, left = list[str](), _MOST_LINKS

    def look_into(group: h5py.Group, path: str, depth: int) -> None:
        nonlocal left
        if depth > _DEEPEST:
            raise WeightsError(f"{source}: groups are nested more than {_DEEPEST} deep; damaged or hostile")
        names = _link_names(group, left)
        left -= len(names)
        if left <= 0:
            raise WeightsError(f"{source}: more than {_MOST_LINKS:,} links, a model has a few; damaged or hostile")
        for name in names:
            whole_name = path + name.decode(errors="backslashreplace")
            if whole_name.startswith(beginnings) and isinstance(group.get(name, getlink=True), h5py.HardLink):
                if isinstance(node := group[name], h5py.Group):
                    look_into(node, f"{whole_name}/", depth + 1)
                elif isinstance(node, h5py.Dataset):
                    found.append(whole_name)

    with naming_damage(source):
        look_into(file, "", 1)
    return found


def _link_names(group: h5py.Group, most: int) -> list[bytes]:
    """Return up to `most` link names of a group, in stored order. Any other order first builds a table of all names."""
    names: list[bytes] = []

    def take(name: bytes) -> bool | None:
        names.append(name)
        return True if len(names) >= most else None

    group.id.links.iterate(take, order=h5py.h5.ITER_NATIVE)
    return names


def read_array(dataset: h5py.Dataset, source: str) -> Array:
    """Return its values as float32. NaN and infinite values are an error."""
    return as_float32(dataset[...], f"{source}: {dataset.name}")


def as_float32(array: Array, name: str) -> Array:
    """Return an array of floating-point numbers as float32. NaN and infinite values are an error that says `name`."""
    with np.errstate(over="ignore"):  # a float64 that is too large becomes infinite, and is then refused
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise WeightsError(f"{name} contains NaN or infinite values, so the model is unusable")
    return array
