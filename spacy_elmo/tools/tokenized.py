"""A tokenized text in, its sentences out, and what is made of each; a warning where it does not look like one."""

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
    """Give the words of each sentence, read as a stream. text: see `find_files`; or `-`, or a pipe.

    Raises:
        CorpusError: the text cannot be read.
    """
    with rereadable(text) as source:
        files = find_files(source)
        warn_of(files)
        yield (words for words, _ in read_sentences(files))


def of_each(text: str, make: Callable[[Iterable[list[str]]], Iterator[T]]) -> Iterator[T]:
    """Yield what `make` makes of the sentences of a text.

    Raises:
        CorpusError: the text cannot be read, or holds no sentence.
    """
    with sentences_in(text) as sentences:
        made = make(sentences)
        first = next(made, None)
        if first is None:
            raise CorpusError(f"{text}: there is no sentence in it; expected one a line")
        yield first
        yield from made
