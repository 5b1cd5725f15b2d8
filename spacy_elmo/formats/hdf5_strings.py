"""Read the first string of a dataset of strings in an HDF5 file, without libhdf5.

Strings are in a heap: a sequence of objects that record their own size. In a damaged heap, libhdf5 may read the same
object forever, or crash. So it is read here (HDF5 File Format Specification 3.0, section III.E "Global Heap").
"""

import struct
from pathlib import Path

import h5py

from spacy_elmo.errors import ElmoError

_REFERENCE = struct.Struct("<IQI")  # length, address of the heap, number of the object
_HEAP = struct.Struct("<4sB3xQ")  # signature, version, size with this header
_OBJECT = struct.Struct("<H6xQ")  # number (0: free space), size of the content


def read_first_string(dataset: h5py.Dataset, path: Path) -> bytes:
    """Return the first string of a dataset of strings that is stored in one piece.

    Raises:
        ElmoError: it is damaged or stored in another way.
    """
    kind = h5py.check_string_dtype(dataset.dtype)
    if kind is not None and kind.length is not None:  # all of one length, so not in a heap
        return bytes(dataset[0])
    offset = dataset.id.get_offset() if kind is not None else None
    if offset is None or dataset.file.id.get_create_plist().get_sizes() != (8, 8):
        raise ElmoError("not a string that is stored in one piece, as `embed` and AllenNLP store it")
    try:
        with path.open("rb") as file:
            file.seek(offset)
            length, heap, wanted = _REFERENCE.unpack(file.read(_REFERENCE.size))
            file.seek(heap)
            signature, version, size = _HEAP.unpack(file.read(_HEAP.size))
            at = _HEAP.size if (signature, version) == (b"GCOL", 1) else size
            while at + _OBJECT.size <= size:
                number, taken = _OBJECT.unpack(file.read(_OBJECT.size))
                if number == wanted and length <= taken <= size:
                    return file.read(length)
                if not number:  # free space, always at the end
                    break
                at += _OBJECT.size + (taken + 7) // 8 * 8
                file.seek(heap + at)
    except (OSError, OverflowError, ValueError, struct.error):
        pass
    raise ElmoError("the string is not where it should be")
