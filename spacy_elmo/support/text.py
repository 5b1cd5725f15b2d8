"""Paths in, sentences out: pre-tokenized text, one sentence per line, with a blank line between documents."""

import bz2
import glob
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from spacy_elmo.errors import CorpusError
from spacy_elmo.support.paths import path_of

PathLike = str | os.PathLike[str]
LONGEST_LINE = 16 * 2**20  # bytes: three times War and Peace; its words still fit into memory


_PACKED_AT_ONCE = 2**12  # bytes; zstandard can unpack these to 32,000 times as many


class _ZstFile(io.RawIOBase):
    """A zstandard file, frame by frame. The package's own readers stop at the end of the first frame, and take a cut
    for the end."""

    def __init__(self, file: BinaryIO, zstandard: ModuleType) -> None:
        self._damage = zstandard.ZstdError
        self._new_frame = zstandard.ZstdDecompressor().decompressobj
        self._file, self._frame, self._unread = file, self._new_frame(), b""
        self._begun = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._unread:
            packed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame, self._begun = self._new_frame(), False
            packed = packed or self._file.read(_PACKED_AT_ONCE)
            if not packed:
                if self._begun:
                    raise EOFError("it is cut off")
                return 0
            self._begun = True
            try:
                self._unread = self._frame.decompress(packed)
            except self._damage as error:
                raise OSError(str(error)) from None
        part = self._unread[: len(buffer)]
        buffer[: len(part)] = part
        self._unread = self._unread[len(part) :]
        return len(part)

    def close(self) -> None:
        self._file.close()
        super().close()


def _open_zst(path: Path) -> io.BufferedReader:
    try:
        import zstandard
    except ImportError:
        raise CorpusError(f"{path}: reading .zst needs the package zstandard (pip install zstandard)") from None
    return io.BufferedReader(_ZstFile(path.open("rb"), zstandard), 2**17)


_OPENERS: dict[str, Callable[[Path], AbstractContextManager[Any]]] = {
    ".bz2": bz2.open,
    ".gz": gzip.open,
    ".xz": lzma.open,
    ".zst": _open_zst,
}


def find_files(paths: PathLike | Iterable[PathLike]) -> list[Path]:
    """Return the files that `paths` mean, in order. Each is a file, a directory (its files, by name) or a glob pattern.

    A file may be named twice; then its text counts twice.

    Raises:
        CorpusError: nothing is found.
    """
    found: list[Path] = []
    for path in paths if isinstance(paths, Iterable) and not isinstance(paths, str | bytes) else [paths]:
        files = _files_of(path_of(path, "text", CorpusError))
        if not files:
            raise CorpusError(f"{path}: no such text; expected a file, a directory of files or a glob pattern")
        found += files
    return found


def _files_of(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    return sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())  # noqa: PTH207 (absolute patterns)


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file, plain or .gz, .bz2, .xz, .zst, without line ends (LF or CRLF).

    Raises:
        CorpusError: the file cannot be read or unpacked, is not UTF-8, or has NUL bytes or a line of more than
            LONGEST_LINE bytes.
    """
    number = 0
    try:
        with _OPENERS.get(path.suffix, _open_plain)(path) as file:
            for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE + 1), b""), start=1):
                if len(line) > LONGEST_LINE:
                    raise CorpusError(
                        f"{path}, line {number}: more than {LONGEST_LINE // 2**20} MiB in one line; put one sentence "
                        "or paragraph on each line"
                    )
                if b"\0" in line:
                    raise CorpusError(f"{path}, line {number}: a NUL byte; this is not plain text (is it UTF-16?)")
                yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}, line {number}: not UTF-8 ({error}); convert the text first") from None
    except (OSError, EOFError, MemoryError, lzma.LZMAError, zlib.error) as error:
        reason = str(error) or type(error).__name__
        raise CorpusError(f"{path}, after line {number}: cannot be read ({reason})") from None


def _open_plain(path: Path) -> BinaryIO:
    return path.open("rb")


def read_sentences(files: Iterable[Path]) -> Iterator[tuple[list[str], bool]]:
    """Yield the words of each sentence, and whether it begins a document: after a blank line and in a new file."""
    for path in files:
        begins = True
        for line in read_lines(path):
            words = line.split()
            if words:
                yield words, begins
            begins = not words
