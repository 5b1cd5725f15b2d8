"""Read the members of a tar archive: plain, or compressed with gzip, bzip2 or xz.

The headers are read here instead of by Python's `tarfile`. That follows links, recurses, and on some versions never
finishes on a hostile archive. A compressed archive is unpacked once, into an unnamed temporary file.
"""

import bz2
import gzip
import lzma
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, Protocol

from spacy_elmo.errors import WeightsError

_BLOCK = 512
_CHUNK = 2**20
_MOST_HEADER = 2**16  # bytes of a name or of other facts about a member
_MOST_HEADERS, _MOST_SAID = 10_000, 1000  # headers of an archive, and facts about one member in headers of their own
_MOST_MEMORY = 2**28  # for xz, whose archives may ask for gigabytes
_ENDINGS = (".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")
_SIGNATURES = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")
_FILES, _FOLDER = (b"0", b"\0", b"7"), b"5"
_LINKS_AND_DEVICES = (b"1", b"2", b"3", b"4", b"6")
_DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class Entry:
    """What a header says about a member.

    start: offset of its content; problem: what is wrong with it, or None.
    """

    name: str
    size: int
    start: int
    is_folder: bool
    problem: str | None


class Tar:
    """A tar archive whose headers have been read.

    most_bytes: its maximum size, unpacked.
    most_ratio: its maximum unpacked size, as a multiple of its own size.
    most_members: its maximum number of members.

    Raises:
        WeightsError: it is not a tar archive, is damaged, grows too large, or has too many members.
    """

    def __init__(self, path: Path, most_bytes: int, most_ratio: int, most_members: int) -> None:
        self._path, self._lock = path, Lock()
        try:
            self._file, self._size = self._open(most_bytes, most_ratio)
        except OSError as error:
            raise WeightsError(f"{path}: cannot be read as a tar archive ({error})") from None
        weakref.finalize(self, self._file.close)
        self.entries: list[Entry] = []
        for entry in self._read_entries():
            self.entries.append(entry)
            if len(self.entries) > most_members:
                raise WeightsError(f"{path}: more than {most_members:,} members, a model has a few; refused")
            if entry.problem is not None:
                break  # it will be refused; after a sparse member, offsets differ
        if not self.entries:
            raise WeightsError(f"{path}: not a tar archive, or an empty one")

    def chunks(self, entry: Entry) -> Iterator[bytes]:
        """Yield the content of a member in chunks."""
        for start in range(0, entry.size, _CHUNK):
            yield self._read(entry.start + start, min(_CHUNK, entry.size - start))

    def _read(self, start: int, size: int) -> bytes:
        with self._lock:
            self._file.seek(start)
            return self._file.read(size)

    def _open(self, most_bytes: int, most_ratio: int) -> tuple[BinaryIO, int]:
        """Return the archive, uncompressed, and its size in bytes."""
        file: BinaryIO = self._path.open("rb")
        size = file.seek(0, 2)
        file.seek(0)
        source = _uncompressing(file)
        if source is None:
            return file, size
        with file:
            return _unpack(source, self._path, min(most_bytes, most_ratio * size + 2**20))

    def _read_entries(self) -> Iterator[Entry]:
        position, said, left = 0, dict[str, str](), _MOST_HEADERS
        while position + _BLOCK <= self._size:
            left -= 1
            if left < 0 or len(said) > _MOST_SAID:
                raise WeightsError(f"{self._path}: declares more about its members than any model needs; refused")
            header = _Header.of(self._read(position, _BLOCK), self._path)
            if header is None:
                return
            start = position + _BLOCK
            size = _whole_number(said["size"], self._path) if "size" in said else header.size
            content = 0 if header.kind == _FOLDER else size
            position = start + content + -content % _BLOCK
            if start + content > self._size:
                raise WeightsError(f"{self._path}: ends inside a member; cut off?")
            if header.kind in (b"x", b"g", b"L", b"K"):
                said |= self._read_more(header.kind, start, size)
                continue
            name = said.get("path", header.name)
            yield Entry(name, content, start, header.kind == _FOLDER or name.endswith("/"), _problem(header.kind, said))
            said = {}

    def _read_more(self, kind: bytes, start: int, size: int) -> Mapping[str, str]:
        """Return what a header of its own says about the next member."""
        if size > _MOST_HEADER:
            raise WeightsError(f"{self._path}: declares {size:,} bytes about a member, too many for a model; refused")
        content = self._read(start, size)
        if kind in (b"L", b"K"):
            return {"path": _text(content)} if kind == b"L" else {}
        records = dict(_records(content, self._path))
        if kind == b"g" and records.keys() & {"path", "size"}:
            raise WeightsError(f"{self._path}: gives all its members one name or size; refused")
        return records


@dataclass(frozen=True)
class _Header:
    name: str
    size: int
    kind: bytes

    @classmethod
    def of(cls, block: bytes, path: Path) -> "_Header | None":
        """Parse a header; None for a block of zeros, which ends an archive."""
        if not any(block):
            return None
        sums = sum(block[:148]) + sum(block[156:]) + 8 * ord(" ")
        signed = sums - 256 * sum(byte > 127 for byte in block[:148] + block[156:])  # as some old programs compute it
        if _octal(block[148:156], path) not in (sums, signed):
            raise WeightsError(f"{path}: not a tar archive, or a damaged one (the checksum of a header is wrong)")
        name = _text(block[:100])
        if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
            name = f"{prefix}/{name}"
        return cls(name, _octal(block[124:136], path), block[156:157])


def is_tar(path: Path) -> bool:
    """Whether a file is a tar archive, has the name of one, or is compressed as one may be."""
    if path.name.lower().endswith(_ENDINGS):
        return True
    with path.open("rb") as file:
        block = file.read(_BLOCK)
    return block.startswith(_SIGNATURES) or block[257:262] == b"ustar"


def _problem(kind: bytes, said: Mapping[str, str]) -> str | None:
    if kind == b"S" or any(key.startswith("GNU.sparse") for key in said):
        return "is sparse: part of its content is missing"
    if kind in _LINKS_AND_DEVICES:
        return "is a link or a device"
    return None if kind in (*_FILES, _FOLDER) else "is of a type that no model has"


def _records(content: bytes, path: Path) -> Iterator[tuple[str, str]]:
    """Parse POSIX records: a length in bytes, a space, a key, `=`, a value, a line feed."""
    content, start = content.rstrip(b"\0"), 0
    while start < len(content):
        length, space, _ = content[start : start + 6].partition(b" ")
        if not (space and length.isdigit() and len(length) + 1 < int(length) <= len(content) - start):
            raise WeightsError(f"{path}: a damaged tar archive (a fact about a member has no length)")
        record = content[start + len(length) + 1 : start + int(length)]
        key, _, value = record.removesuffix(b"\n").partition(b"=")
        yield _text(key), _text(value)
        start += int(length)


def _octal(field: bytes, path: Path) -> int:
    """Parse a number in octal digits, or in binary if the first bit is set."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not all(byte in b"01234567" for byte in digits):
        raise WeightsError(f"{path}: not a tar archive, or a damaged one (a number in a header is invalid)")
    return int(digits or b"0", 8)


def _whole_number(text: str, path: Path) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise WeightsError(f"{path}: a damaged tar archive (a size is {text[:20]!r})")
    return int(text)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _uncompressing(file: BinaryIO) -> _Source | None:
    """Return a reader of a compressed file; None if it is not compressed."""
    first = file.read(6)
    file.seek(0)
    kinds: tuple[Callable[[Any], _Source], ...] = (lambda file: gzip.GzipFile(fileobj=file), bz2.BZ2File, _XZFile)
    for signature, make in zip(_SIGNATURES, kinds, strict=True):
        if first.startswith(signature):
            return make(file)
    return None


class _XZFile:
    """Like `lzma.LZMAFile`, which does not limit the memory that an archive may ask for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._given = file, b""
        self._decompressor = lzma.LZMADecompressor(memlimit=_MOST_MEMORY)

    def read(self, size: int, /) -> bytes:
        while True:
            if self._decompressor.eof:  # another stream may follow after zeros
                rest = (self._decompressor.unused_data or self._file.read(_CHUNK)).lstrip(b"\0")
                if not rest and not (rest := self._file.read(_CHUNK).lstrip(b"\0")):
                    return b""
                self._decompressor, self._given = lzma.LZMADecompressor(memlimit=_MOST_MEMORY), rest
            elif self._decompressor.needs_input and not self._given:
                if not (given := self._file.read(_CHUNK)):
                    raise EOFError("it ends early")
                self._given = given
            content = self._decompressor.decompress(self._given, size)
            self._given = b""
            if content:
                return content


def _unpack(source: _Source, path: Path, most: int) -> tuple[BinaryIO, int]:
    """Unpack into an unnamed temporary file; return the file and its size."""
    try:
        target = tempfile.TemporaryFile()  # noqa: SIM115 (it is returned)
    except OSError as error:
        raise _no_room(path, error) from None
    done = 0
    try:
        while chunk := _read_chunk(source, path):
            done += len(chunk)
            if done > most:
                raise WeightsError(f"{path}: would grow to more than {most:,} bytes; refused")
            try:
                target.write(chunk)
            except OSError as error:
                raise _no_room(path, error) from None
    except BaseException:
        target.close()
        raise
    return target, done


def _read_chunk(source: _Source, path: Path) -> bytes:
    try:
        return source.read(_CHUNK)
    except _DAMAGE as error:
        raise WeightsError(f"{path}: cannot be unpacked ({error}); cut off or damaged, download it again?") from None


def _no_room(path: Path, error: OSError) -> WeightsError:
    return WeightsError(
        f"{path}: cannot be unpacked into the temporary directory ({error}); set TMPDIR to another directory, or "
        "unpack the archive and name the directory"
    )
