"""Turns tokens into character ids: UTF-8 bytes between markers, as in bilm-tf (`data.py`) and AllenNLP
(`elmo_indexer.py`), shifted by one so that 0 can mean "no token"."""

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
    """How a character CNN numbers the characters of a token. `len` is the number of ids."""

    @property
    def padding(self) -> int:
        """The id that pads short tokens."""

    def __len__(self) -> int: ...

    def token_ids(self, token: str, max_characters: int) -> list[int]:
        """Return the ids of one token with its borders, without padding; at most `max_characters`."""


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
    """Return the tokens of sentences; see `tokens_of`.

    Raises:
        ElmoError: the sentences are one string or no iterable, or `tokens_of` raises for one.
    """
    if isinstance(sentences, str) or not isinstance(sentences, Iterable):
        raise ElmoError(f"expected sentences, each a list of tokens, got {_shown(sentences)}")
    return [tokens_of(sentence) for sentence in sentences]


def tokens_of(sentence: Tokens) -> list[str]:
    """Return the tokens of a sentence: a list, an array, a column, a generator of strings, or a Doc or Span of spaCy.

    Raises:
        ElmoError: the sentence is a string or no iterable, or one of its items is neither a string nor has a `text`.
    """
    if isinstance(sentence, str):
        raise ElmoError(f"a sentence is a list of tokens, got {_shown(sentence)}; split it first")
    if not isinstance(sentence, Iterable):
        raise ElmoError(f"a sentence is a list of tokens, got {_shown(sentence)}")
    return [token if isinstance(token, str) else _text_of(token) for token in sentence]


def _text_of(token: Any) -> str:
    text = getattr(token, "text", None)  # of a spaCy token
    if not isinstance(text, str):
        raise ElmoError(f"a token is a string, got {_shown(token)}")
    return text


def _shown(value: object) -> str:
    return f"the string {value[:40]!r}" if isinstance(value, str) else f"{reprlib.repr(value)} ({type(value).__name__})"


def token_ids(token: str, max_characters: int) -> list[int]:
    """Return the character ids of one token, without padding: begin of word, at most `max_characters - 2` bytes, end
    of word.

    A long token is cut after a byte, even within a code point. Lone surrogates have no bytes. `<S>` and `</S>` are the
    sentence borders, also if they occur in the text, as in bilm-tf and AllenNLP.
    """
    if token in _SENTENCE_MARKERS:
        return [BEGIN_WORD, _SENTENCE_MARKERS[token], END_WORD]
    text = token.encode("utf-8", "ignore")[: max_characters - 2]
    return [BEGIN_WORD, *(byte + 1 for byte in text), END_WORD]


def pad(ids: Sequence[Sequence[int]], width: int, padding: int = PADDING) -> npt.NDArray[np.int64]:
    """Return the character ids of several tokens as `[len(ids), width]` int64, padded with `padding`."""
    padded = np.full((len(ids), width), padding, dtype=np.int64)
    for row, token in zip(padded, ids, strict=True):
        row[: len(token)] = token
    return padded
