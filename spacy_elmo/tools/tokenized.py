"""Reads the sentences of a tokenized text. Warns if the text does not look tokenized."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from spacy_elmo.errors import CorpusError
from spacy_elmo.support.standard_input import rereadable
from spacy_elmo.support.text import find_files, read_sentences
from spacy_elmo.tools.untokenized import warn_of

T = TypeVar("T")


@contextmanager
def sentences_in(text: str) -> Iterator[Iterator[list[str]]]:
    """Context with the words of each sentence, read as a stream. text: see `find_files`; or `-`, or a pipe.

    Raises:
        CorpusError: the text cannot be read.
    """
    with rereadable(text) as source:
        files = find_files(source)
        warn_of(files)
        yield (words for words, _ in read_sentences(files))


def of_each(text: str, make: Callable[[Iterable[list[str]]], Iterator[T]]) -> Iterator[T]:
    """Yield the results of `make`, called with the sentences of a text.

    Raises:
        CorpusError: the text cannot be read, or has no sentence.
    """
    with sentences_in(text) as sentences:
        made = make(sentences)
        first = next(made, None)
        if first is None:
            raise CorpusError(f"{text}: contains no sentence; expected one per line")
        yield first
        yield from made
