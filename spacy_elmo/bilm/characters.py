"""Tokens in, character ids out: UTF-8 bytes between markers, as bilm-tf (`data.py`) and AllenNLP
(`elmo_indexer.py`) number them, shifted by one so that 0 can mean "no token"."""

from collections.abc import Sequence
from typing import Protocol

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


def check_sentence(sentence: Sequence[str]) -> None:
    """Raise an ElmoError where a sentence is a string instead of a list of tokens."""
    if isinstance(sentence, str):
        raise ElmoError(f"a sentence is a list of tokens, got the string {sentence[:40]!r}; split it first")


def check_token(token: object) -> None:
    """Raise an ElmoError where a token is no string."""
    if not isinstance(token, str):
        raise ElmoError(f"a token is a string, got {token!r}")


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
