"""A dataset of strings in an HDF5 file in, whether libhdf5 can read its first one out.

Strings lie in a heap, a row of objects that say how large they are. Where a damaged size is 0, or wraps to it, libhdf5
reads the same one for ever; so the heap is walked here first (HDF5 File Format Specification 3.0, III.E "Global Heap").
"""

import struct
from pathlib import Path

import h5py

_REFERENCE = struct.Struct("<IQI")  # length, address of the heap, number of the object
_HEAP = struct.Struct("<4sB3xQ")  # signature, version, size with this header
_OBJECT = struct.Struct("<H6xQ")  # number (0: free space), size: of the content, of free space with this header


def has_sound_heap(dataset: h5py.Dataset, path: Path) -> bool:
    """Whether the heap that the first string of a dataset lies in can be walked; True where it lies in none.

    False, too, where the dataset is stored in pieces: `embed` and AllenNLP write it as a whole.
    """
    if dataset.dtype != object:
        return True
    offset = dataset.id.get_offset()
    if offset is None or dataset.file.id.get_create_plist().get_sizes() != (8, 8):
        return False
    try:
        with path.open("rb") as file:
            file.seek(offset)
            _, heap, _ = _REFERENCE.unpack(file.read(_REFERENCE.size))
            file.seek(heap)
            signature, version, size = _HEAP.unpack(file.read(_HEAP.size))
            if (signature, version) != (b"GCOL", 1):
                return False
            at = _HEAP.size
            while at + _OBJECT.size <= size:
                file.seek(heap + at)
                number, content = _OBJECT.unpack(file.read(_OBJECT.size))
                taken = _OBJECT.size + (content + 7) // 8 * 8 if number else content
                if taken < _OBJECT.size or at + taken > size:
                    return False
                at += taken
    except (OSError, OverflowError, ValueError, struct.error):
        return False
    return True
