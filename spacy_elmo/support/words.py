"""A vocabulary's file in, its words out, and back: one word a line, as bilm-tf keeps them."""

import zlib
from collections.abc import Iterable
from typing import Protocol

from spacy_elmo.errors import CorpusError, ElmoError

_MOST_TEXT = 2**28  # bytes, unpacked


class WordFile(Protocol):
    """A file on disk or in an archive."""

    @property
    def name(self) -> str:
        """Last part of its name; `.gz` at its end says that it is packed."""

    def read_bytes(self) -> bytes:
        """Its content."""


def read_words(file: WordFile, error: type[ElmoError] = CorpusError) -> list[str]:
    """Return the words in order, plain or `.gz`; each stripped of white space, as bilm-tf does.

    Raises:
        `error`: the file cannot be read, is damaged, too long or not UTF-8.
    """
    try:
        content = file.read_bytes()
    except OSError as cause:
        raise error(f"{file}: no such vocabulary ({cause})") from None
    if file.name.endswith(".gz"):
        content = _gunzip(content, f"{file}", error)
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as cause:
        raise error(f"{file}: the vocabulary is not UTF-8 ({cause})") from None
    return [line.strip() for line in (lines if lines[-1] else lines[:-1])]


def text_of(words: Iterable[str]) -> str:
    """What `read_words` reads these words from."""
    return "".join(word + "\n" for word in words)


def _gunzip(content: bytes, source: str, error: type[ElmoError]) -> bytes:
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        unpacked = unpacker.decompress(content, _MOST_TEXT)
    except zlib.error as cause:
        raise error(f"{source}: not gzip, or damaged ({cause})") from None
    if not unpacker.eof:
        raise error(f"{source}: cut off, or more than {_MOST_TEXT:,} bytes unpacked")
    return unpacked
