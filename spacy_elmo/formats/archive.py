"""Read the folders and files of an archive like those on disk. The NLPL repository publishes such archives.

An archive may come from anyone. Its directory is checked before any member is read, and reading stops at the declared
sizes. Nothing is ever written under a name that the archive chose. Every refusal is one WeightsError.
"""

import io
import stat
import tempfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from spacy_elmo.errors import OptionsError, WeightsError
from spacy_elmo.formats.bounded_zip import open_zip
from spacy_elmo.formats.tar import Entry, Tar, is_tar
from spacy_elmo.support.messages import quoted, reason

# The largest published archive is a few GB, with about ten members.
_MOST_MEMBERS = 1000
_LONGEST_NAME = 255  # characters
_MOST_BYTES = 16 * 2**30  # of all members, unpacked
_MOST_TEXT = 2**28  # of a member read into memory
_MOST_OPTIONS = 2**22  # of an options file
_MOST_DIRECTORY = 2**20  # of the list of members
_MOST_RATIO = 100  # beyond the first MB: weights hardly compress, text about five times
_CHUNK = 2**20

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError)


class Archive:
    """A zip or tar archive whose directory has been checked.

    kind: "zip archive" or "tar archive"; path: of the archive.
    sizes: unpacked bytes of its files, by name, without the files that macOS adds.

    Raises:
        WeightsError: the file is not an archive, is damaged, or has a directory that no real model has.
    """

    def __init__(self, path: Path) -> None:
        is_a_tar = is_tar(path)
        self.kind, self.path = "tar archive" if is_a_tar else "zip archive", path
        self._content = Tar(path, _MOST_BYTES, _MOST_RATIO, _MOST_MEMBERS) if is_a_tar else _Zip(path)
        entries = self._content.entries
        self._check_whole(entries)
        for entry in entries:
            if problem := _problem_of_name(entry) or entry.problem:
                raise WeightsError(f"{path}: the member {quoted(entry.name)} {problem}; refused")
        files = {PurePosixPath(entry.name): entry for entry in entries if not entry.is_folder}
        own = {str(name): files[name] for name in sorted(files) if name.parts[0] != "__MACOSX" and name.name[0] != "."}
        self.sizes = {name: entry.size for name, entry in own.items()}
        self._entries = own
        self._folders = _names_in_folders(own)

    def _check_whole(self, entries: list[Entry]) -> None:
        if len(entries) > _MOST_MEMBERS:
            raise WeightsError(f"{self.path}: {len(entries):,} members, a model has a few; refused")
        if len({str(PurePosixPath(entry.name)) for entry in entries}) < len(entries):
            raise WeightsError(f"{self.path}: several members have the same name; refused")
        if (total := sum(entry.size for entry in entries)) > _MOST_BYTES:
            raise WeightsError(f"{self.path}: {total:,} bytes unpacked, more than {_MOST_BYTES:,}; refused")

    @property
    def top(self) -> "Member":
        """The folder that contains everything."""
        return Member(self, PurePosixPath())

    def names_in(self, folder: PurePosixPath) -> list[str]:
        """Return the sorted names in a folder; empty if there is no such folder."""
        return sorted(self._folders.get(folder.parts, ()))

    def unpack(self, name: str, target: BinaryIO) -> None:
        """Write one of its files into an open file.

        Raises:
            WeightsError: it is damaged, or its size differs from the directory.
        """
        done, size = 0, self.sizes[name]
        for chunk in self._chunks(name):
            done += len(chunk)
            target.write(chunk)
            if done > size:
                break
        if done != size:
            raise WeightsError(
                f"{self.path}: {name}: its size differs from the archive's directory; damaged or hostile"
            )

    def _chunks(self, name: str) -> Iterator[bytes]:
        try:
            yield from self._content.chunks(self._entries[name])
        except _DAMAGE as error:
            raise WeightsError(
                f"{self.path}: {name}: cannot be unpacked ({reason(error)}); download the archive again?"
            ) from None


@dataclass(frozen=True)
class Member:
    """A folder or file in an archive, with the parts of Path's interface that a reader needs."""

    archive: Archive
    inner: PurePosixPath

    def __str__(self) -> str:
        return f"{self.archive.path}: {self.inner}" if self.inner.parts else str(self.archive.path)

    def __truediv__(self, name: str) -> "Member":
        return Member(self.archive, self.inner / name)

    @property
    def name(self) -> str:
        """Last part of its name."""
        return self.inner.name

    @property
    def stem(self) -> str:
        """Last part of its name, without the suffix."""
        return self.inner.stem

    @property
    def suffix(self) -> str:
        """Suffix of its name."""
        return self.inner.suffix

    @property
    def parent(self) -> "Member":
        """The folder that contains it."""
        return Member(self.archive, self.inner.parent)

    @property
    def size(self) -> int:
        """Size of a file in bytes, unpacked."""
        return self.archive.sizes[str(self.inner)]

    def with_name(self, name: str) -> "Member":
        """Return the member next to it with this name; it may not exist."""
        return Member(self.archive, self.inner.with_name(name))

    def iterdir(self) -> Iterator["Member"]:
        """Yield the entries of a folder, sorted by name."""
        return (self / name for name in self.archive.names_in(self.inner))

    def is_file(self) -> bool:
        """Whether it exists and is a file."""
        return str(self.inner) in self.archive.sizes

    def is_dir(self) -> bool:
        """Whether it exists and is a folder."""
        return not self.is_file() and bool(self.archive.names_in(self.inner))

    def read_bytes(self) -> bytes:
        """Return the content of a file. Use it for text that fits into memory.

        Raises:
            WeightsError: it is damaged or too long.
        """
        _refuse_long(self, _MOST_TEXT)
        content = io.BytesIO()
        self.archive.unpack(str(self.inner), content)
        return content.getvalue()

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Unpack a file into an unnamed temporary file, which can seek without unpacking again.

        Raises:
            WeightsError: it is damaged, or the temporary file cannot be written.
        """
        with ExitStack() as stack:
            try:
                file = stack.enter_context(tempfile.TemporaryFile())
                self.archive.unpack(str(self.inner), file)
            except OSError as error:
                raise WeightsError(
                    f"{self}: cannot be unpacked into the temporary directory ({error}); it needs {self.size:,} bytes "
                    "there; set TMPDIR to another directory, or unpack the archive and name the directory"
                ) from None
            file.seek(0)
            yield file


File = Path | Member
Folder = Path | Member


@contextmanager
def opened(file: File | BinaryIO) -> Iterator[Path | BinaryIO]:
    """Yield what h5py can open: a path as it is, a member unpacked, an open file, which is read from its start."""
    if isinstance(file, Member):
        with file.open() as unpacked:
            yield unpacked
    else:
        yield file


def size_of(file: File) -> int:
    """Size of a file in bytes; of a member, unpacked."""
    return file.size if isinstance(file, Member) else file.stat().st_size


def read_whole(file: File, most: int) -> bytes:
    """Return the content of a file of at most `most` bytes.

    Raises:
        WeightsError: it is missing, unreadable or longer.
    """
    if not file.is_file():
        raise WeightsError(f"{file}: no such file")
    try:
        _refuse_long(file, most)
        return file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error) from None


def read_options_of(file: File) -> bytes:
    """Return the content of an options file, undecoded.

    Raises:
        OptionsError: see `read_whole`.
    """
    try:
        return read_whole(file, _MOST_OPTIONS)
    except WeightsError as error:
        raise OptionsError(str(error)) from None


@contextmanager
def reading(file: File) -> Iterator[BinaryIO]:
    """Open a file on disk or in an archive.

    Raises:
        WeightsError: it is damaged or unreadable.
    """
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(file.open("rb") if isinstance(file, Path) else file.open())
        except OSError as error:
            raise _unreadable(file, error) from None
        yield opened


def _refuse_long(file: File, most: int) -> None:
    if (size := size_of(file)) > most:
        raise WeightsError(f"{file}: {size:,} bytes, too long for this file of a model; expected at most {most:,}")


def _unreadable(file: File, error: OSError) -> WeightsError:
    return WeightsError(f"{file}: cannot be read ({reason(error)})")


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or tar archive, or has the name of one.

    Raises:
        WeightsError: it cannot be read.
    """
    # If the suffix is enough, the file is not opened. torch writes a `.th` as a zip archive of its own kind.
    if path.suffix.lower() in (".zip", ".hdf5", ".th"):
        return path.suffix.lower() == ".zip"
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\3\4" or is_tar(path)
    except OSError as error:
        raise _unreadable(path, error) from None


class _Zip:
    """A zip archive whose directory has been read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with _open(path) as file:
                infos = file.infolist()
        except _DAMAGE as error:
            raise WeightsError(f"{path}: not a zip archive, or a damaged one ({reason(error)})") from None
        self.entries = [
            Entry(info.orig_filename, info.file_size, info.header_offset, _is_folder(info), _problem(info))
            for info in infos
        ]
        if sum(info.compress_size for info in infos) > path.stat().st_size:
            raise WeightsError(f"{path}: its members overlap; refused")

    def chunks(self, entry: Entry) -> Iterator[bytes]:
        """Yield the content of a member in chunks."""
        with _open(self._path) as file, file.open(entry.name) as source:
            while chunk := source.read(_CHUNK):
                yield chunk


@contextmanager
def _open(path: Path) -> Iterator[zipfile.ZipFile]:
    with path.open("rb") as file, open_zip(file, _MOST_DIRECTORY) as archive:
        yield archive


def _names_in_folders(files: Iterable[str]) -> dict[tuple[str, ...], set[str]]:
    found = defaultdict[tuple[str, ...], set[str]](set)
    for file in files:
        parts = PurePosixPath(file).parts
        for depth, part in enumerate(parts):
            found[parts[:depth]].add(part)
    return found


def _problem_of_name(entry: Entry) -> str | None:
    name = entry.name
    if name.startswith(("/", "\\")) or name[1:2] == ":" or ".." in name.replace("\\", "/").split("/"):
        return "leads out of the archive"
    if len(name) > _LONGEST_NAME:
        return f"has a name of {len(name):,} characters"
    if not name.isprintable() or "\\" in name or not (entry.is_folder or PurePosixPath(name).parts):
        return "has a name with odd characters"
    return None


def _is_folder(entry: zipfile.ZipInfo) -> bool:
    return entry.orig_filename.endswith("/")  # is_dir fails if the name starts with a null


def _problem(entry: zipfile.ZipInfo) -> str | None:
    """Return what is wrong with a zip member according to the directory; None if nothing."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if entry.flag_bits & 1:
        return "is encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is compressed by method {entry.compress_type}, not by deflate"
    if entry.file_size > _MOST_RATIO * entry.compress_size + 2**20:
        return f"would grow from {entry.compress_size:,} to {entry.file_size:,} bytes"
    return None
