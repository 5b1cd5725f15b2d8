"""Reads sentences and their vectors from an HDF5 file in the layout of `allennlp elmo` and `embed`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from spacy_elmo.errors import ElmoError
from spacy_elmo.formats.hdf5_file import has_values
from spacy_elmo.formats.hdf5_strings import read_first_string
from spacy_elmo.support.paths import path_of
from spacy_elmo.tools.embedding.files import INDEX
from spacy_elmo.tools.embedding.text import Text
from spacy_elmo.tools.layers import Array, pick

_LARGEST = 1e15  # float32 can hold the sum of a million squares of it
_FLOATS = (np.float16, np.float32, np.float64)
# What h5py and numpy raise on damaged files.
_DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)


class EmbeddedCorpus:
    """An open file of vectors. Iterating gives lines and their words, in order.

    Dataset "i" holds the vectors of line i, counted from 0: `[n_tokens, width]`, or `[n_layers + 1, n_tokens, width]`
    for all layers. `sentence_to_index` is one JSON string, from sentence to number. If a sentence is repeated, it only
    has the last line.

    text: the text that was embedded, for files without `sentence_to_index`; it is read as a stream.
    pipeline: what split the lines of that text into words (see `Text.of`); None: white space.
    layers: which to use if the file has all: "mean" (the default), "top" or a number.

    Raises:
        ElmoError: the file is missing, damaged, has another layout or refers to other files, or has no sentences.
    """

    def __init__(
        self,
        path: str | Path,
        text: str | Path | None = None,
        pipeline: str | None = None,
        layers: str | None = None,
    ) -> None:
        self.path = path_of(path, "corpus")
        if not self.path.is_file():
            raise ElmoError(f"{path}: no such file; expected a corpus from `python -m spacy elmo embed` (HDF5)")
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise ElmoError(f"{path}: cannot be read as HDF5; expected a .hdf5 file from `embed` ({error})") from None
        self._text = None if text is None else Text.of(text, pipeline)
        self._sentences = {} if self._text else self._read_index()
        line, _ = next(iter(self), (None, []))
        if line is None:
            raise ElmoError(f"{text or path}: contains no sentence")
        shape = self._dataset(line).shape
        self.has_layers, self.width = len(shape) == 3, int(shape[-1])
        if layers is not None and not self.has_layers:
            raise ElmoError(f"{path}: has one vector per token, so there are no layers to choose from ({layers!r})")
        self.layers = layers or "mean"

    def __enter__(self) -> "EmbeddedCorpus":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        if self._text is None:
            split = ((line, sentence.split()) for line, sentence in self._sentences.items())
            yield from ((line, words) for line, words in split if words)
        else:
            yield from ((line, words) for line, (_, words) in enumerate(self._text.sentences()) if words)

    def words(self, line: int) -> list[str]:
        """Return the words of a line.

        Raises:
            ElmoError: there is no such line.
        """
        for number, words in self:
            if number == line:
                return words
        raise ElmoError(
            f"{self.path}: line {line} has no sentence (lines count from 0; a repeated sentence only has its last "
            "line, unless you add the text with --text)"
        )

    def vectors(self, line: int, n_tokens: int) -> Array:
        """Return the vectors of the tokens of a line, `[n_tokens, width]` float32.

        Raises:
            ElmoError: the vectors are missing, have another number or shape, or are not numbers.
        """
        dataset = self._dataset(line)
        shape = dataset.shape
        if (len(shape) == 3) != self.has_layers or shape[-1] != self.width:
            raise ElmoError(f"{self.path}: line {line} has the shape {list(shape)}, unlike the lines before it")
        if shape[-2] != n_tokens:
            raise ElmoError(
                f"{self.path}: line {line} has vectors for {shape[-2]} tokens, but its sentence has {n_tokens}; "
                "does this text belong to this file? If it was made with --pipeline, add --text and --pipeline"
            )
        with self._reading(f"line {line}"):
            array: Array = dataset[()].astype(np.float32)
        if not (np.abs(array) < _LARGEST).all():
            raise ElmoError(f"{self.path}: line {line} has NaN, infinite or absurdly large values")
        return pick(array, self.layers) if self.has_layers else array

    def _dataset(self, line: int) -> Any:
        dataset = self._own(str(line))
        if dataset is None:
            raise ElmoError(
                f"{self.path}: no vectors for line {line}; was `embed` interrupted, or is the file of another text?"
            )
        with self._reading(f"line {line}"):
            dtype, shape = dataset.dtype, list(dataset.shape or ())
            is_there = has_values(dataset)
        if dtype not in _FLOATS or len(shape) not in (2, 3) or not shape[-1] or (len(shape) == 3 and not shape[0]):
            raise ElmoError(
                f"{self.path}: line {line} has {dtype} of shape {shape}, expected floating point numbers "
                "[n_tokens, width] or [n_layers + 1, n_tokens, width]"
            )
        if not is_there:
            raise ElmoError(f"{self.path}: line {line} is declared but has no values; the file is damaged")
        return dataset

    def _own(self, name: str) -> Any:
        """Return a dataset that is in this file itself, so that it cannot make us read another; None if missing."""
        with self._reading(repr(name)):
            link = self._file.get(name, getlink=True)
            if link is None:
                return None
            node = self._file[name] if isinstance(link, h5py.HardLink) else None
            is_own = isinstance(node, h5py.Dataset) and not node.is_virtual and not node.external
        if not is_own:
            raise ElmoError(f"{self.path}: {name!r} is not a dataset in this file itself; it is not read")
        return node

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Context that turns what h5py and numpy raise on damaged files into an ElmoError."""
        try:
            yield
        except _DAMAGE as error:
            raise ElmoError(f"{self.path}: {what} cannot be read; the file is damaged ({error})") from None

    def _read_index(self) -> dict[int, str]:
        """Return line number and sentence, in order of lines."""
        dataset = self._own(INDEX)
        if dataset is None:
            raise ElmoError(
                f"{self.path}: has no sentences (no {INDEX}: made with --forget-sentences or --use-sentence-keys); "
                "add the text it was made from with --text"
            )
        try:
            text = read_first_string(dataset, self.path)
            index = {int(number): sentence for sentence, number in json.loads(text).items()}
            "".join(index.values()).encode()  # raises on lone surrogates, which JSON can contain
        except _DAMAGE as error:
            raise ElmoError(
                f"{self.path}: {INDEX} is not a JSON object of sentences and line numbers ({error})"
            ) from None
        return dict(sorted(index.items()))
