"""Read the variables of a TensorFlow "tensor bundle": `NAME.index` and `NAME.data-00000-of-00001`, ...

The index is a LevelDB table whose values are messages from TensorFlow's core/protobuf/tensor_bundle.proto. A bundle may
come from anyone. So every size, offset, shape and checksum is checked before memory is allocated, the names of the
shards are made here, and every refusal is one WeightsError.
"""

import itertools
import math
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from spacy_elmo.errors import WeightsError
from spacy_elmo.formats.archive import File, read_whole, reading, size_of
from spacy_elmo.formats.tensorflow import table
from spacy_elmo.formats.tensorflow.crc32c import crc32c
from spacy_elmo.formats.tensorflow.protobuf import MalformedError, Reader, as_bytes, as_number, as_text, signed, varint
from spacy_elmo.support.messages import quoted, reason, shown

Array = npt.NDArray[Any]

SUFFIX = ".index"

_MOST_INDEX = 2**22  # bytes; a biLM's index has a few thousand
_MOST_FIELDS = 2**20  # of all its messages
_MOST_DIMENSIONS, _MOST_LENGTH = 8, 2**40
_MOST_SHARDS = 10**5  # their names have five digits
_MOST_TEXT = 2**26  # bytes of a string variable

# TensorFlow's type numbers, from core/framework/types.proto.
_FLOATS: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 2: np.dtype("<f8"), 19: np.dtype("<f2")}
_STRING = 7
_OTHERS = {3: "int32", _STRING: "strings", 9: "int64", 10: "bool", 14: "bfloat16"}

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


@dataclass(frozen=True)
class Variable:
    """What the index says about a variable: its type and shape, and where its bytes are.

    checksum: masked CRC-32C of the bytes.
    is_partitioned: whether they are stored in pieces. The index entry does not say where.
    """

    name: str
    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int
    is_partitioned: bool


class Bundle:
    """A bundle whose index has been read and checked.

    index: the `.index` file.
    variables: by name. TensorFlow 2 saves objects under its own keys; their variables also have their graph names here.

    Raises:
        WeightsError: the index is missing, cut off, damaged, hostile, or of a kind that cannot be read.
    """

    def __init__(self, index: File) -> None:
        self.index = index
        content = memoryview(_read_index(index))
        with self._naming_damage():
            reader, entries = Reader(_MOST_FIELDS), table.entries(content)
            key, header = next(entries, (None, content))
            if key != b"":
                raise MalformedError("its first entry is not the header")
            self._n_shards = _parse_header(reader, header)
            found = [_parse_variable(reader, as_text(memoryview(key)), value) for key, value in entries]
            _check_places(found, self._n_shards)
            self.variables = {variable.name: variable for variable in found}
            if _OBJECT_GRAPH in self.variables:
                self.variables.update(self._read_object_graph(reader))

    def find(self, name: str) -> Variable:
        """Return what the index says about a variable that holds floating-point numbers in one piece.

        Raises:
            WeightsError: there is no such variable, or it has another kind.
        """
        variable = self.variables.get(name)
        if variable is None:
            raise WeightsError(f"{self.index}: there is no variable {quoted(name)}")
        if variable.is_partitioned:
            raise WeightsError(
                f"{self.index}: {shown(name)} is partitioned (saved in pieces), which cannot be read; save the model "
                "again without a partitioner"
            )
        if variable.dtype not in _FLOATS:
            found = _OTHERS.get(variable.dtype, f"TensorFlow's type {variable.dtype}")
            raise WeightsError(f"{self.index}: {shown(name)} holds {found}, expected float16, float32 or float64")
        return variable

    def arrays(self, names: Iterable[str]) -> Iterator[tuple[str, Array]]:
        """Yield variables as arrays of their own type, in the order of the shards.

        Raises:
            WeightsError: see `find`; or a shard is missing or too short, or its bytes have changed.
        """
        wanted = sorted(((name, self.find(name)) for name in names), key=lambda item: (item[1].shard, item[1].offset))
        for shard, items in itertools.groupby(wanted, key=lambda item: item[1].shard):
            with self._open_shard(shard) as file:
                for name, variable in items:
                    array = np.frombuffer(self._read(file, variable), _FLOATS[variable.dtype])
                    yield name, array.reshape(variable.shape)

    @property
    def n_bytes(self) -> int:
        """Size of its files. Missing shards do not count."""
        files = [self.index, *(self._shard(number) for number in range(self._n_shards))]
        return sum(size_of(file) for file in files if file.is_file())

    def _read_object_graph(self, reader: Reader) -> dict[str, Variable]:
        """Return the variables by their names in the graph.

        TrackableObjectGraph: 1 nodes; node: 2 attributes; attribute: 2 full_name, 3 checkpoint_key.
        """
        found = {}
        for node in reader.all(self._read_string(self.variables[_OBJECT_GRAPH]), 1):
            for attribute in reader.all(node, 2):
                fields = reader.single(attribute)
                if 2 in fields and 3 in fields and (variable := self.variables.get(as_text(fields[3]))):
                    found[as_text(fields[2])] = variable
        return found

    def _read_string(self, variable: Variable) -> memoryview:
        """Read one string: its length as a varint, four bytes of checksum, its bytes.

        The checksum of the whole uses the length as four bytes.
        """
        if variable.dtype != _STRING or variable.shape or variable.is_partitioned or variable.size > _MOST_TEXT:
            raise MalformedError(f"{variable.name} is not one string")
        with self._open_shard(variable.shard) as file:
            content = memoryview(self._read(file, variable, is_checked=False))
        length, at = varint(content, 0)
        if length != len(content) - at - 4:
            raise MalformedError(f"{variable.name} is not as long as it says")
        self._check(crc32c(length.to_bytes(4, "little") + content[at:]), variable)
        return content[at + 4 :]

    def _read(self, file: BinaryIO, variable: Variable, is_checked: bool = True) -> bytearray:
        """Read the bytes of a variable. No memory is allocated for missing bytes."""
        path = self._shard(variable.shard)
        is_there = variable.offset + variable.size <= size_of(path)
        content = bytearray(variable.size if is_there else 0)
        file.seek(variable.offset if is_there else 0)
        if file.readinto(content) < variable.size:  # type: ignore[attr-defined]
            raise WeightsError(f"{path}: cut off, it ends within {shown(variable.name)}; copy the file again")
        if is_checked:
            self._check(crc32c(content), variable)
        return content

    def _check(self, checksum: int, variable: Variable) -> None:
        if table.mask(checksum) != variable.checksum:
            raise WeightsError(
                f"{self._shard(variable.shard)}: the checksum of {shown(variable.name)} is wrong; the file is damaged, "
                "or belongs to another step than its index"
            )

    @contextmanager
    def _open_shard(self, number: int) -> Iterator[BinaryIO]:
        path = self._shard(number)
        if not path.is_file():
            raise WeightsError(f"{path}: no such file; a model needs all .data files that its .index lists")
        with reading(path) as file:
            yield file

    def _shard(self, number: int) -> File:
        return self.index.with_name(f"{prefix_of(self.index)}.data-{number:05d}-of-{self._n_shards:05d}")

    @contextmanager
    def _naming_damage(self) -> Iterator[None]:
        try:
            yield
        except MalformedError as error:
            raise WeightsError(f"{self.index}: not a TensorFlow index, or a damaged one ({reason(error)})") from None


def prefix_of(index: File) -> str:
    """Return the common prefix of a bundle's file names, which is TensorFlow's name for a checkpoint."""
    return index.name.removesuffix(SUFFIX)


def _read_index(index: File) -> bytes:
    if not index.is_file():
        raise WeightsError(f"{index}: no such file; a checkpoint needs its .index and its .data files")
    if size_of(index) > _MOST_INDEX:
        raise WeightsError(f"{index}: {size_of(index):,} bytes are more than any model's index has; refused")
    return read_whole(index, _MOST_INDEX)


def _parse_header(reader: Reader, message: memoryview) -> int:
    """Return the number of shards.

    BundleHeaderProto: 1 num_shards, 2 endianness, 3 version; version: 2 the oldest reader that can read it.
    """
    header = reader.single(message)
    n_shards = as_number(header.get(1, 0))
    if not 1 <= n_shards < _MOST_SHARDS:
        raise MalformedError(f"it declares {n_shards:,} shards")
    if header.get(2, 0) != 0:
        raise MalformedError("it comes from a big-endian machine, which cannot be read")
    version = reader.single(as_bytes(header.get(3, memoryview(b""))))
    if as_number(version.get(2, 0)) > 1:
        raise MalformedError("it needs a newer TensorFlow than can be read here")
    return n_shards


def _parse_variable(reader: Reader, name: str, message: memoryview) -> Variable:
    """BundleEntryProto: 1 dtype, 2 shape, 3 shard_id, 4 offset, 5 size, 6 crc32c, 7 slices; zeros are left out."""
    entry = reader.single(message)
    dtype, shard, offset, size = (as_number(entry.get(number, 0)) for number in (1, 3, 4, 5))
    shape = _parse_shape(reader, as_bytes(entry.get(2, memoryview(b""))))
    checksum = int.from_bytes(as_bytes(entry.get(6, memoryview(b""))), "little")
    variable = Variable(name, dtype, shape, shard, offset, size, checksum, is_partitioned=7 in entry)
    if dtype in _FLOATS and not variable.is_partitioned and math.prod(shape) * _FLOATS[dtype].itemsize != size:
        raise MalformedError(f"{name} has {size:,} bytes, which does not match shape {list(shape)}")
    return variable


def _parse_shape(reader: Reader, message: memoryview) -> tuple[int, ...]:
    """TensorShapeProto: 2 dimensions, 3 unknown_rank; dimension: 1 size."""
    shape: list[int] = []
    for number, value in reader.fields(message):
        if number == 2:
            shape.append(signed(as_number(reader.single(as_bytes(value)).get(1, 0))))
    if len(shape) > _MOST_DIMENSIONS or any(not 0 <= length <= _MOST_LENGTH for length in shape):
        raise MalformedError(f"a variable has the shape {shape[: _MOST_DIMENSIONS + 1]}")
    return tuple(shape)


def _check_places(variables: Collection[Variable], n_shards: int) -> None:
    """Check that no two variables share bytes. Then no more can be read than the file has."""
    ordered = sorted(variables, key=lambda variable: (variable.shard, variable.offset, variable.size))
    for variable in ordered:
        if variable.shard >= n_shards:
            raise MalformedError(f"{variable.name} lies in shard {variable.shard} of {n_shards}")
    for one, other in itertools.pairwise(ordered):
        if one.shard == other.shard and one.offset + one.size > other.offset:
            raise MalformedError(f"{one.name} and {other.name} overlap")
