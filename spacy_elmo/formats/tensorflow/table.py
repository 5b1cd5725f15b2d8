"""Read the entries of a LevelDB table, the format of a TensorFlow checkpoint's index.

The layout is described in LevelDB's doc/table_format.md, but TensorFlow does not compress. Each block's checksum is
verified before the block is parsed. All entries together are no longer than the table allows.
"""

import io
from collections.abc import Iterator
from typing import BinaryIO

from spacy_elmo.formats.tensorflow.crc32c import crc32c
from spacy_elmo.formats.tensorflow.protobuf import MalformedError, varint

_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER, _TRAILER = 48, 5
_SNAPPY = 1
# Most bytes of one key and of all keys. Keys share prefixes, so a short table could spell out very long ones.
_MOST_KEY, _MOST_KEYS = 2**10, 2**24


def is_table(file: BinaryIO) -> bool:
    """Whether an open file ends like a table."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - len(_MAGIC)))
    return file.read() == _MAGIC


def entries(table: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield keys, in ascending order, and values.

    Raises:
        MalformedError: it is not a table, is cut off, damaged or compressed, or its keys do not ascend.
    """
    if len(table) < _FOOTER or table[-len(_MAGIC) :] != _MAGIC:
        raise MalformedError("it does not end like a table")
    _, at = _handle(table, len(table) - _FOOTER)  # of the metaindex, which TensorFlow leaves empty
    index, _ = _handle(table, at)
    last, end, spelled = None, 0, 0
    for _, handle in _block_entries(_block(table, index)):
        where, _ = _handle(handle, 0)
        if where[0] < end:  # otherwise a block could be named, and its checksum computed, any number of times
            raise MalformedError("its blocks are not in order")
        end = sum(where)
        for key, value in _block_entries(_block(table, where)):
            if last is not None and key <= last:
                raise MalformedError("its keys do not ascend")
            last, spelled = key, spelled + len(key)
            if spelled > _MOST_KEYS:
                raise MalformedError("its names are longer than any model's")
            yield key, value


def mask(checksum: int) -> int:
    """Return a checksum in the form that LevelDB stores."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _handle(data: memoryview, at: int) -> tuple[tuple[int, int], int]:
    """Return the offset and size of a block, and where the handle ends."""
    offset, at = varint(data, at)
    size, at = varint(data, at)
    return (offset, size), at


def _block(table: memoryview, handle: tuple[int, int]) -> memoryview:
    """Return the content of a block, without its compression byte and checksum."""
    offset, size = handle
    end = offset + size
    if end + _TRAILER > len(table) - _FOOTER:
        raise MalformedError("a block extends beyond its end")
    if table[end] == _SNAPPY:
        raise MalformedError(
            "it is compressed with snappy, which TensorFlow has not used since 1.2; save the model again"
        )
    if table[end]:
        raise MalformedError(f"a block has the unknown compression {table[end]}")
    if mask(crc32c(table[offset : end + 1])) != int.from_bytes(table[end + 1 : end + _TRAILER], "little"):
        raise MalformedError("the checksum of a block is wrong")
    return table[offset:end]


def _block_entries(block: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield keys and values. A key is a prefix of the key before it, plus new bytes."""
    n_restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * n_restarts
    if len(block) < 4 or end < 0:
        raise MalformedError("a block is too short")
    key, at = b"", 0
    while at < end:
        shared, at = varint(block, at)
        fresh, at = varint(block, at)
        length, at = varint(block, at)
        if shared > len(key) or at + fresh + length > end:
            raise MalformedError("an entry extends beyond its block")
        if shared + fresh > _MOST_KEY:
            raise MalformedError(f"a name has {shared + fresh:,} bytes")
        key = key[:shared] + bytes(block[at : at + fresh])
        at += fresh
        yield key, block[at : at + length]
        at += length
