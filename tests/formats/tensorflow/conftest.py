"""A writer of TensorFlow's bundles, from the formats' descriptions only, without the reader's code."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.crc32c import bit_by_bit

TYPES = {"float32": 1, "float64": 2, "int32": 3, "float16": 19}
MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")


def varint(number):
    number &= (1 << 64) - 1  # int64 as two's complement
    low = []
    while number > 0x7F:
        low.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*low, number])


def field(number, value):
    """Return one field of a message: a number as a varint, bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def checksum(content):
    """Return the CRC-32C, masked as LevelDB does."""
    crc = bit_by_bit(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def block(entries, compression=0):
    """Return a block that stores every key in full, with its compression and its checksum."""
    content = b"".join(varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in entries)
    content += bytes(4) + (1).to_bytes(4, "little")
    end = bytes([compression])
    return content + end, content + end + checksum(content + end).to_bytes(4, "little")


def table(entries, compression=0, in_block=16):
    """Return a LevelDB table with a data block for every few entries."""
    content, index = b"", []
    for start in range(0, len(entries), in_block):
        plain, whole = block(entries[start : start + in_block], compression)
        index.append((entries[start : start + in_block][-1][0], varint(len(content)) + varint(len(plain) - 1)))
        content += whole
    handles = b""
    for part in ([], index):
        plain, whole = block(part)
        handles += varint(len(content)) + varint(len(plain) - 1)
        content += whole
    return content + handles.ljust(40, b"\0") + MAGIC


def header(n_shards=1, **others):
    """Return a BundleHeaderProto."""
    content = field(1, n_shards) + field(3, field(1, 1))
    return content + b"".join(field(number, value) for number, value in others.get("fields", ()))


def entry(dtype=1, shape=(), shard=0, offset=0, size=0, crc=0, more=b""):
    """Return a BundleEntryProto. It omits zeros, as protocol buffers do."""
    dims = b"".join(field(2, field(1, length) if length else b"") for length in shape)
    content = b"".join(field(number, value) for number, value in ((1, dtype), (2, dims)) if value or number == 2)
    content += b"".join(field(number, value) for number, value in ((3, shard), (4, offset), (5, size)) if value)
    return content + varint(6 << 3 | 5) + crc.to_bytes(4, "little") + more


class Writer:
    """Writes arrays as a bundle. You can change entries before it writes the index."""

    def __init__(self, prefix, n_shards=1):
        self.prefix, self.n_shards = prefix, n_shards
        self.header = header(n_shards)
        self.entries = {}
        self.shards = [b""] * n_shards

    def add(self, name, array, where=0, **changes):
        array = np.asarray(array)
        content = array.tobytes()
        facts = {
            "dtype": TYPES[str(array.dtype)],
            "shape": array.shape,
            "shard": where,
            "offset": len(self.shards[where]),
            "size": len(content),
            "crc": checksum(content),
        }
        self.shards[where] += content
        self.entries[name] = entry(**{**facts, **changes})

    def write(self, compression=0):
        """Write all files and return the index."""
        self.prefix.parent.mkdir(parents=True, exist_ok=True)
        for number, content in enumerate(self.shards):
            Path(f"{self.prefix}.data-{number:05d}-of-{self.n_shards:05d}").write_bytes(content)
        entries = [(b"", self.header), *sorted((name.encode(), value) for name, value in self.entries.items())]
        index = Path(f"{self.prefix}.index")
        index.write_bytes(table(entries, compression))
        return index


@pytest.fixture
def writer():
    """Give a writer of a bundle: `writer(prefix, n_shards)`."""
    return Writer


@pytest.fixture
def copy_of(tensorflow_models, tmp_path):
    """Return a function that copies a folder of TensorFlow's models, so that you can change it:
    `copy_of("trained_words")`."""

    def copy(name):
        return Path(shutil.copytree(tensorflow_models / name, tmp_path / name))

    return copy


@pytest.fixture(scope="session")
def raw_table():
    """Return a function that makes a table of one given data block, listed `times` times: `raw_table(entries,
    times)`."""

    def make(content, times=1):
        content += bytes(4) + (1).to_bytes(4, "little") + b"\0"
        whole = content + checksum(content).to_bytes(4, "little")
        plain, index = block(
            [(bytes([255] * number), varint(0) + varint(len(content) - 1)) for number in range(1, times + 1)]
        )
        handles = varint(len(whole)) + varint(0) + varint(len(whole)) + varint(len(plain) - 1)
        return whole + index + handles.ljust(40, b"\0") + MAGIC

    return make


@pytest.fixture(scope="session")
def make_table():
    """Return a function that makes the bytes of a table: `make_table([(key, value), ...])`."""
    return table


def read_varint(content, at):
    number = shift = 0
    while content[at] > 0x7F:
        number |= (content[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
    return number | content[at] << shift, at + 1


@pytest.fixture(scope="session")
def mender():
    """Return a function that corrects the checksums after a change: `mender(table)(changed)`, for a table of one data
    block."""

    def find(table):
        handles, at = [], len(table) - 48
        for _ in range(2):
            offset, at = read_varint(table, at)
            size, at = read_varint(table, at)
            handles.append((offset, size))
        _, at = read_varint(table, handles[1][0])
        fresh, at = read_varint(table, at)
        _, at = read_varint(table, at)
        offset, at = read_varint(table, at + fresh)
        size, _ = read_varint(table, at)
        return [(offset, size), *handles]

    def make(table):
        blocks = find(table)

        def mend(content):
            for offset, size in blocks:
                end = offset + size + 1
                content[end : end + 4] = checksum(content[offset:end]).to_bytes(4, "little")
            return content

        return mend

    return make


@pytest.fixture(scope="session")
def message():
    """Return a function that makes one field of a protocol buffer: `message(number, value)`."""
    return field
