"""Encode text files once as memory-mapped ids; the corpus may be larger than memory."""

import json
import os
import zlib
from array import array
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from spacy_elmo.bilm import characters
from spacy_elmo.bilm.characters import BOS, EOS
from spacy_elmo.errors import CorpusError
from spacy_elmo.pretraining.vocabulary import Vocabulary
from spacy_elmo.support.files import clear_abandoned, replacing, settled
from spacy_elmo.support.progress import progress_bar
from spacy_elmo.support.text import read_sentences

Ids = npt.NDArray[np.int64]
Table = npt.NDArray[np.uint16]

PREPARED = ("vocab.txt", "heldout", "train")  # what `prepare` writes, in this order: if train is there, all is
_FILES = ("words.int32", "sentences.int64", "documents.int64", "characters.npy", "corpus.json")
_BUFFERED = 2**20  # ids kept in memory before they are written
_FINGERPRINTED = 2**16  # bytes at each end of a file that identify its content


class Corpus:
    """A corpus encoded in a directory.

    A *word* here is an entry of the lexicon: first the vocabulary's words, in its order, then all others that occur.
    (These are read by their characters, but predicted as `<UNK>`.) A sentence of n words takes n + 1 *positions*:
    one for each prediction of a direction. The first position holds `<S>`.

    words: `[n_positions]` int32, `<S> w1 ... wn` sentence by sentence.
    sentences: `[n_sentences + 1]` int64, first position of each sentence, and the end.
    documents: `[n_documents + 1]` int64, first position of each document, and the end.
    characters: `[n_words, max_characters]` uint16, padded character ids of each word.

    Raises:
        CorpusError: a file is missing, damaged, or does not fit the others.
    """

    def __init__(self, directory: Path, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        try:
            self.words = np.memmap(directory / "words.int32", np.int32, "r")
            self.sentences = np.memmap(directory / "sentences.int64", np.int64, "r")
            self.documents = np.memmap(directory / "documents.int64", np.int64, "r")
            self.characters: Table = np.lib.format.open_memmap(directory / "characters.npy", mode="r")
        except Exception as error:  # with the header of a damaged .npy numpy can raise anything
            raise _damaged(directory, str(error)) from None
        if fault := self._fault():
            raise _damaged(directory, fault)
        self._first, self._last = vocabulary.ids[BOS], vocabulary.ids[EOS]

    def _fault(self) -> str | None:
        """Return what in these files would make training fail, if anything. Reads all of them once."""
        table, n_words = self.characters, len(self.words)
        if table.dtype != np.uint16 or table.ndim != 2:
            return "characters.npy is not a table of character ids"
        if len(table) < len(self.vocabulary) or not _are_within(table, characters.PADDING + 1):
            return "characters.npy belongs to another vocabulary"
        if not _are_within(self.words, len(table)):
            return "words.int32 has words that are not in characters.npy"
        for name, borders in (("sentences", self.sentences), ("documents", self.documents)):
            if borders[0] != 0 or borders[-1] != n_words or not _are_rising(borders):
                return f"{name}.int64 does not divide words.int32"
        if not np.array_equal(self.sentences[np.searchsorted(self.sentences, self.documents)], self.documents):
            return "documents.int64 does not divide sentences.int64"
        return None

    @property
    def n_positions(self) -> int:
        """Number of predictions of one direction in one pass: words and sentence ends."""
        return len(self.words)

    @property
    def n_tokens(self) -> int:
        """Number of words of the text."""
        return len(self.words) - len(self.sentences) + 1

    def counts(self) -> Ids:
        """Count how often each vocabulary entry is predicted (forward), `[len(vocabulary)]`."""
        counts = np.zeros(len(self.characters), dtype=np.int64)
        for start in range(0, len(self.words), _BUFFERED):
            counts += np.bincount(self.words[start : start + _BUFFERED], minlength=len(counts))
        known = counts[: len(self.vocabulary)]
        known[self._last] += known[self._first]  # one end per sentence: `<S>` is stored where the end is predicted
        known[self._first] = 0
        known[self.vocabulary.unknown] += counts[len(known) :].sum()
        return known

    def read(self, positions: Ids) -> tuple[Ids, Ids, npt.NDArray[np.bool_]]:
        """Return what both directions read and predict at these positions (any shape).

        The backward direction reads each sentence reversed, in the same positions.

        Returns words to read `[2, *shape]`, vocabulary ids to predict `[2, *shape]`, and whether a sentence starts.
        """
        sentence = np.searchsorted(self.sentences, positions, side="right") - 1
        start, end = self.sentences[sentence], self.sentences[sentence + 1]
        mirrored = start + end - positions  # one after the position that mirrors this one
        forward = self.words[positions]
        following = np.where(positions + 1 < end, self.words[np.minimum(positions + 1, end - 1)], self._last)
        backward = np.where(positions > start, self.words[np.minimum(mirrored, end - 1)], self._last)
        preceding = self.words[mirrored - 1]
        read = np.stack([forward, backward]).astype(np.int64)
        targets = np.stack([following, preceding]).astype(np.int64)
        targets[targets >= len(self.vocabulary)] = self.vocabulary.unknown
        return read, targets, positions == start


def encode(
    files: Sequence[Path], vocabulary: Vocabulary, max_characters: int, directory: Path, show_progress: bool = False
) -> Corpus:
    """Encode text files into a directory, or open it if it already holds the same text.

    Raises:
        CorpusError: the text cannot be read or is empty, see `text.read_lines`; or the encoded corpus is damaged.
    """
    identity = {
        "files": [_fingerprint(path) for path in files],
        "vocabulary": vocabulary.digest,
        "max_characters": max_characters,
    }
    clear_abandoned(directory)
    record = settled(directory, _FILES) / "corpus.json"
    if not _is_of(record, identity):
        try:
            with replacing(directory, _FILES) as new:
                _write(files, vocabulary, max_characters, new, show_progress)
                (new / record.name).write_text(json.dumps(identity), encoding="utf-8")
        except OSError as error:
            raise CorpusError(f"{directory}: the encoded corpus cannot be written ({error})") from None
    return Corpus(settled(directory, _FILES), vocabulary)


def _is_of(record: Path, identity: dict[str, Any]) -> bool:
    """Return whether this text is encoded there."""
    try:
        return bool(json.loads(record.read_text(encoding="utf-8")) == identity)
    except (OSError, ValueError, RecursionError):
        return False


def _damaged(directory: Path, what: str) -> CorpusError:
    return CorpusError(f"{directory}: the encoded corpus is damaged ({what}); delete it, and it is encoded again")


def _are_within(ids: npt.NDArray[Any], end: int) -> bool:
    """Return whether all ids are at least 0 and below `end`."""
    parts = (ids[start : start + _BUFFERED] for start in range(0, len(ids), _BUFFERED))
    return all(part.min() >= 0 and part.max() < end for part in parts)


def _are_rising(borders: Ids) -> bool:
    parts = (borders[start : start + _BUFFERED + 1] for start in range(0, len(borders), _BUFFERED))
    return len(borders) > 1 and all(bool((np.diff(part) > 0).all()) for part in parts)


def _fingerprint(path: Path) -> list[Any]:
    """Identify a text file without reading all of it."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(_FINGERPRINTED)
        file.seek(max(0, size - _FINGERPRINTED))
        return [path.name, size, path.stat().st_mtime_ns, zlib.crc32(file.read(), zlib.crc32(head))]


def _write(
    files: Sequence[Path], vocabulary: Vocabulary, max_characters: int, directory: Path, show_progress: bool
) -> None:
    lexicon = dict(vocabulary.ids)
    first, position = vocabulary.ids[BOS], 0
    with (
        _IdFile(directory / "words.int32", "i") as words,
        _IdFile(directory / "sentences.int64", "q") as sentences,
        _IdFile(directory / "documents.int64", "q") as documents,
        progress_bar(show_progress, "encoding", unit=" words") as bar,
    ):
        for sentence, begins in read_sentences(files):
            sentences.append([position])
            if begins:
                documents.append([position])
            words.append([first])
            words.append([lexicon.setdefault(word, len(lexicon)) for word in sentence])
            position += len(sentence) + 1
            bar.update(len(sentence))
        if not position:
            raise CorpusError(f"{', '.join(map(str, files[:3]))}: no sentence in the text; expected one per line")
        sentences.append([position])
        documents.append([position])
    _write_characters(lexicon, max_characters, directory / "characters.npy")


def _write_characters(words: Collection[str], max_characters: int, path: Path) -> None:
    """Write the table row by row.

    A memory-mapped file would need less code, but if the disk is full, the system kills the process that writes to it.
    """
    header = {"descr": np.dtype(np.uint16).str, "fortran_order": False, "shape": (len(words), max_characters)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        row = np.empty(max_characters, np.uint16)
        for word in words:
            ids = characters.token_ids(word, max_characters)
            row[: len(ids)], row[len(ids) :] = ids, characters.PADDING
            file.write(row.tobytes())


class _IdFile:
    """A binary file of whole numbers, buffered: `append` takes a few at a time."""

    def __init__(self, path: Path, typecode: str) -> None:
        self._file: BinaryIO = path.open("wb")
        self._ids = array(typecode)

    def __enter__(self) -> "_IdFile":
        return self

    def append(self, ids: Sequence[int]) -> None:
        self._ids.extend(ids)
        if len(self._ids) >= _BUFFERED:
            self._ids.tofile(self._file)
            del self._ids[:]

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._ids.tofile(self._file)
