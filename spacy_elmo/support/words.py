"""A vocabulary file in, its words out, and back: one word per line, as in bilm-tf."""

import io
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from spacy_elmo.errors import CorpusError, ElmoError

# The largest published vocabularies have about 1,400,000 words and 20 MB.
_MOST_TEXT = 2**27  # bytes, unpacked
_MOST_WORDS = 2**23
_MARK = "\ufeff"  # byte order mark, which some editors put in front


class WordFile(Protocol):
    """A file on disk or in an archive."""

    @property
    def name(self) -> str:
        """Last part of its name; `.gz` at its end means that it is packed."""

    def read_bytes(self) -> bytes:
        """Its content."""


def read_words(file: WordFile, error: type[ElmoError] = CorpusError) -> list[str]:
    """Return the words in order, from a plain or `.gz` file; white space around each is removed, as in bilm-tf.

    Raises:
        `error`: the file cannot be read, is damaged, too long or not UTF-8.
    """
    try:
        if isinstance(file, Path) and file.stat().st_size > _MOST_TEXT:
            raise _too_long(file, error)
        content = file.read_bytes()
    except OSError as cause:
        raise error(f"{file}: no such vocabulary ({cause})") from None
    if file.name.endswith(".gz"):
        content = _gunzip(content, f"{file}", error)
    if len(content) > _MOST_TEXT or content.count(b"\n") > _MOST_WORDS:
        raise _too_long(file, error)
    words: list[str] = []
    try:
        # Decoded as a whole, the text may take four times the memory.
        for line in io.BytesIO(content.removeprefix(_MARK.encode())):
            words.append(line.decode().strip())
    except UnicodeDecodeError as cause:
        raise error(f"{file}: line {len(words) + 1} of the vocabulary is not UTF-8 ({cause})") from None
    return words


def text_of(words: Iterable[str]) -> str:
    """Return a text that `read_words` reads as these words."""
    text = "".join(word + "\n" for word in words)
    return f"{_MARK}{text}" if text.startswith(_MARK) else text  # a reader takes the first mark for the file's


def _too_long(file: WordFile, error: type[ElmoError]) -> ElmoError:
    return error(f"{file}: expected a vocabulary of at most {_MOST_WORDS:,} words and {_MOST_TEXT:,} bytes")


def _gunzip(content: bytes, source: str, error: type[ElmoError]) -> bytes:
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        unpacked = unpacker.decompress(content, _MOST_TEXT)
    except zlib.error as cause:
        raise error(f"{source}: not gzip, or damaged ({cause})") from None
    if not unpacker.eof:
        raise error(f"{source}: cut off, or more than {_MOST_TEXT:,} bytes unpacked")
    return unpacked
