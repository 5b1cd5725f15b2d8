"""Tokens in, character ids out: UTF-8 bytes between markers, as bilm-tf (`data.py`) and AllenNLP
(`elmo_indexer.py`) number them, shifted by one so that 0 can mean "no token"."""

import reprlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from spacy_elmo.errors import ElmoError

N_CHARACTERS = 262  # 256 bytes, five markers, and id 0
BEGIN_SENTENCE = 257
END_SENTENCE = 258
BEGIN_WORD = 259
END_WORD = 260
PADDING = 261

BOS = "<S>"
EOS = "</S>"

_SENTENCE_MARKERS = {BOS: BEGIN_SENTENCE, EOS: END_SENTENCE}


class Alphabet(Protocol):
    """How a character CNN numbers the characters of a token; `len` counts the numbers there are."""

    @property
    def padding(self) -> int:
        """What the ids of a short token are filled up with."""

    def __len__(self) -> int: ...

    def token_ids(self, token: str, max_characters: int) -> list[int]:
        """Ids of one token with its borders, without padding; at most `max_characters`."""


class Bytes:
    """The alphabet of bilm-tf and AllenNLP."""

    padding = PADDING

    def __len__(self) -> int:
        return N_CHARACTERS

    def token_ids(self, token: str, max_characters: int) -> list[int]:
        """See the function of this name."""
        return token_ids(token, max_characters)


Tokens = Iterable[Any]  # strings, or tokens of spaCy


def sentences_of(sentences: Iterable[Tokens]) -> list[list[str]]:
    """The tokens of sentences; see `tokens_of`.

    Raises:
        ElmoError: they are one string, or cannot be iterated over; and as `tokens_of`.
    """
    if isinstance(sentences, str) or not isinstance(sentences, Iterable):
        raise ElmoError(f"expected sentences, each a list of tokens, got {_shown(sentences)}")
    return [tokens_of(sentence) for sentence in sentences]


def tokens_of(sentence: Tokens) -> list[str]:
    """The tokens of a sentence: a list, an array, a column, a generator of strings, or a Doc or Span of spaCy.

    Raises:
        ElmoError: it is a string, it cannot be iterated over, or something in it is neither a string nor has a `text`.
    """
    if isinstance(sentence, str):
        raise ElmoError(f"a sentence is a list of tokens, got {_shown(sentence)}; split it first")
    if not isinstance(sentence, Iterable):
        raise ElmoError(f"a sentence is a list of tokens, got {_shown(sentence)}")
    return [token if isinstance(token, str) else _text_of(token) for token in sentence]


def _text_of(token: Any) -> str:
    text = getattr(token, "text", None)  # as tokens of spaCy have it
    if not isinstance(text, str):
        raise ElmoError(f"a token is a string, got {_shown(token)}")
    return text


def _shown(value: object) -> str:
    return f"the string {value[:40]!r}" if isinstance(value, str) else f"{reprlib.repr(value)} ({type(value).__name__})"


def token_ids(token: str, max_characters: int) -> list[int]:
    """Character ids of one token, without padding: begin of word, at most `max_characters - 2` bytes, end of word.

    A token is cut at a byte, wherever in a code point that is; lone surrogates have no bytes. `<S>` and
    `</S>` are the sentence borders, also when they stand in the text, as both references have it.
    """
    if token in _SENTENCE_MARKERS:
        return [BEGIN_WORD, _SENTENCE_MARKERS[token], END_WORD]
    text = token.encode("utf-8", "ignore")[: max_characters - 2]
    return [BEGIN_WORD, *(byte + 1 for byte in text), END_WORD]


def pad(ids: Sequence[Sequence[int]], width: int, padding: int = PADDING) -> npt.NDArray[np.int64]:
    """Character ids of several tokens as `[len(ids), width]` int64, filled up with `padding`."""
    padded = np.full((len(ids), width), padding, dtype=np.int64)
    for row, token in zip(padded, ids, strict=True):
        row[: len(token)] = token
    return padded
