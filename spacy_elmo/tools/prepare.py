"""Turns raw text into a corpus for pretraining: tokenized sentences, a held-out part, and a vocabulary."""

import hashlib
import random
import re
import signal
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from itertools import groupby, islice
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, NamedTuple, TextIO, cast

from spacy_elmo.errors import CorpusError
from spacy_elmo.pretraining.corpus import PREPARED
from spacy_elmo.pretraining.vocabulary import SPECIAL, Vocabulary, misfit
from spacy_elmo.support.files import recover, replacing
from spacy_elmo.support.paths import place_of
from spacy_elmo.support.progress import progress_bar
from spacy_elmo.support.text import PathLike, find_files, read_lines
from spacy_elmo.support.workers import end_with_parent
from spacy_elmo.tools import language

_SUFFIXES = re.compile(r"(\.txt)?(\.(gz|bz2|xz|zst))?$")
_COMPRESSED = re.compile(r"\.(gz|bz2|xz|zst)$")
_BATCH = 400_000  # characters per call of the tokenizer
_REMEMBERED = 10_000_000  # characters whose words the tokenizer caches to the end; it drops later ones soon


@dataclass
class Part:
    """How much text the training part or the held-out part has."""

    documents: int = 0
    sentences: int = 0
    tokens: int = 0


@dataclass
class PrepareReport:
    """What `prepare` wrote.

    duplicates: number of paragraphs dropped because they were repeated; vocabulary: number of entries, with the special
        ones; coverage: share of the training tokens that are in the vocabulary.
    """

    train: Part = field(default_factory=Part)
    heldout: Part = field(default_factory=Part)
    duplicates: int = 0
    vocabulary: int = 0
    coverage: float = 0.0


def prepare(
    raw: PathLike,
    out: PathLike,
    *,
    lang: str = "en",
    held_out: float = 0.01,
    min_tokens: int = 1,
    min_count: int = 3,
    max_size: int | None = None,
    dedupe: bool = False,
    shuffle: bool = False,
    seed: int = 0,
    n_process: int = 1,
    progress: bool = False,
) -> PrepareReport:
    """Tokenize raw text and write `out/train/*.txt`, `out/heldout/*.txt` and `out/vocab.txt`, all of it or nothing.

    raw: a file, directory or glob pattern; UTF-8, one paragraph per line, a blank line between documents. A file
        without blank lines between its paragraphs is one document.
    lang: language of the spaCy tokenizer.
    held_out: the share of the documents to hold out: one in k = round(1 / held_out) of each file, those with number
        n % k == k // 2. If a file is one document, its paragraphs count instead.
    min_tokens: shorter sentences are dropped.
    min_count, max_size: bounds of the vocabulary, which is counted on the training part.
    dedupe: drop repeated paragraphs, across all files; documents keep their numbers.
    shuffle, seed: put the training sentences of each file in random order, without documents.
    n_process: number of processes that tokenize; it does not change the result.
    progress: show a progress bar on stderr.

    Memory does not grow with the length of the text. It grows with each distinct word, with each paragraph if `dedupe`
    (about 100 bytes), and with each sentence of the largest file if `shuffle` (8 bytes).

    Raises:
        CorpusError: the text is missing or cannot be read, two files would have the same name in `out`, a setting is
            wrong, spaCy has no such language, `out` already has results or cannot be written, or no sentence is left
            to train on.
    """
    out = place_of(out, "out", CorpusError)
    every = _one_in(held_out)
    if max_size is not None and max_size <= len(SPECIAL):
        raise CorpusError(f"max_size: {max_size} leaves no room for words in addition to {' '.join(SPECIAL)}")
    report = PrepareReport()
    try:
        recover(out, PREPARED)
        _refuse_results(out)
        files = _by_stem(find_files(raw))
        splitter = _Splitter(lang, min_tokens)
        with replacing(out, PREPARED) as directory:
            with progress_bar(progress, "prepare", _size(files), unit="B") as bar:
                paragraphs = _read(files, every, bar.update)
                if dedupe:
                    paragraphs = _without_duplicates(paragraphs, report)
                counts = _write(_split(paragraphs, splitter, n_process), directory, report)
            if not counts:
                raise CorpusError(
                    f"{raw}: no sentence to train on; is it empty, or is min_tokens or held_out too high?"
                )
            if shuffle:
                for path in (directory / "train").iterdir():
                    _shuffle(path, seed)
            vocabulary = Vocabulary.from_counts(counts, min_count, max_size)
            (directory / "vocab.txt").write_text(vocabulary.text(), encoding="utf-8", newline="\n")
    except OSError as error:
        raise CorpusError(f"{out}: the corpus cannot be written ({error})") from error
    report.vocabulary = len(vocabulary)
    report.coverage = sum(counts[word] for word in vocabulary.words) / report.train.tokens
    return report


def summary(report: PrepareReport) -> str:
    """Return the report as readable lines."""
    lines = [
        f"{name:<12}{part.documents:,} documents, {part.sentences:,} sentences, {part.tokens:,} tokens"
        for name, part in (("train", report.train), ("held out", report.heldout))
    ]
    if report.duplicates:
        lines.append(f"{'dropped':<12}{report.duplicates:,} paragraphs seen before")
    lines.append(f"{'vocabulary':<12}{report.vocabulary:,} entries, {report.coverage:.2%} of the training tokens")
    return "\n".join(lines)


def warning(report: PrepareReport, held_out: float) -> str | None:
    """Return a warning if the text is too short for the share to hold out; None otherwise."""
    every = _one_in(held_out)
    if not every or report.heldout.sentences:
        return None
    return (
        f"nothing is held out: document {every // 2 + 1} of each file and every {every}th after it should be, but none "
        "of them exists and has sentences to keep. (If a file is one document, its paragraphs count instead.) Use a "
        f"larger share than {held_out}, or fewer and larger files"
    )


def vocabulary_warning(report: PrepareReport) -> str | None:
    """Return a warning if the vocabulary lacks many of the words; None otherwise."""
    return misfit(1 - report.coverage, "vocab.txt")


def _one_in(held_out: float) -> int:
    """Return k, where one in k documents is held out; 0 if none is."""
    if not 0 <= held_out <= 0.5:
        raise CorpusError(f"held_out: is {held_out}, expected a share from 0 (nothing) to 0.5")
    return round(1 / held_out) if held_out else 0


def _by_stem(files: list[Path]) -> dict[str, Path]:
    """Return the files by their names in the corpus."""
    named: dict[str, Path] = {}
    kept: dict[str, Path] = {}
    for path in files:
        stem = _SUFFIXES.sub("", path.name) or path.name
        if (other := kept.setdefault(stem.casefold(), path)) is not path:  # on macOS and Windows, A.txt is a.txt
            raise CorpusError(f"{other} and {path}: both would become {stem}.txt; rename one of them")
        named[stem] = path
    return named


def _refuse_results(out: Path) -> None:
    for name in PREPARED:
        if (out / name).exists():
            raise CorpusError(f"{out / name}: already exists; delete it, or choose another place for the corpus")


def _size(files: dict[str, Path]) -> int | None:
    """Return the number of bytes of text; None if it is not known without unpacking."""
    if any(_COMPRESSED.search(path.name) for path in files.values()):
        return None
    return sum(path.stat().st_size for path in files.values())


class _Paragraph(NamedTuple):
    text: str
    stem: str
    document: int  # its number in the file
    held_out: bool


def _read(files: dict[str, Path], every: int, advance: Callable[[int], object]) -> Iterator[_Paragraph]:
    """Yield the paragraphs of all files. `advance` is called with every number of bytes read."""
    for stem, path in files.items():
        by_paragraph = _is_one_document(path)
        document = number = -1
        begins = True
        for line in read_lines(path):
            advance(len(line.encode()) + 1)
            text = line.strip()
            if text:
                document += begins
                number += 1
                unit = number if by_paragraph else document
                yield _Paragraph(text, stem, document, bool(every) and unit % every == every // 2)
            begins = not text


def _is_one_document(path: Path) -> bool:
    """Whether no blank line is between two filled lines."""
    runs = (filled for filled, _ in groupby(read_lines(path), key=lambda line: bool(line.strip())) if filled)
    return len(list(islice(runs, 2))) < 2


def _without_duplicates(paragraphs: Iterable[_Paragraph], report: PrepareReport) -> Iterator[_Paragraph]:
    seen: set[bytes] = set()
    for paragraph in paragraphs:
        digest = hashlib.blake2b(paragraph.text.encode(), digest_size=16).digest()
        if digest in seen:
            report.duplicates += 1
        else:
            seen.add(digest)
            yield paragraph


class _Splitter:
    """Splits each text into sentences of at least `min_tokens` words, joined by spaces.

    Raises:
        CorpusError: spaCy has no such language.
    """

    def __init__(self, lang: str, min_tokens: int) -> None:
        self.settings = (lang, min_tokens)
        self._min_tokens = min_tokens
        self._read = 0
        self._nlp = language.blank(lang)
        self._sentencizer = self._nlp.add_pipe("sentencizer")
        self._tokenizer = cast("Any", self._nlp.tokenizer)
        self._tokenizer.max_cache_size = _REMEMBERED  # effectively no limit; spaCy's limit of 10,000 is soon reached

    def __call__(self, texts: list[str]) -> list[list[str]]:
        # Words that are not in the tokenizer's cache take most of the time. In a memory zone, which frees what a batch
        # has added, the cache learns nothing new. So open zones only after the frequent words have been cached.
        remembers = self._read < _REMEMBERED
        with nullcontext() if remembers else self._nlp.memory_zone():
            self._read += sum(map(len, texts))
            return [self._sentences(text) for text in texts]

    def _sentences(self, text: str) -> list[str]:
        doc = self._sentencizer(self._tokenizer(text))
        # Training reads line.split(). Splitting in the same way here gives the words, counts and lengths that training
        # sees. It drops white space tokens, and splits tokens that contain white space.
        sentences = (" ".join([token.text for token in sentence]).split() for sentence in doc.sents)
        return [" ".join(words) for words in sentences if len(words) >= self._min_tokens]


def _split(
    paragraphs: Iterable[_Paragraph], splitter: _Splitter, n_process: int
) -> Iterator[tuple[_Paragraph, list[str]]]:
    """Yield each paragraph, in order, with its sentences."""
    batches = _batches(paragraphs)
    if n_process <= 1:
        for batch in batches:
            yield from zip(batch, splitter(_texts(batch)), strict=True)
        return
    with ProcessPoolExecutor(n_process, initializer=_start_worker, initargs=splitter.settings) as pool:
        waiting: deque[tuple[list[_Paragraph], Future[list[list[str]]]]] = deque()
        try:
            for batch in batches:
                waiting.append((batch, pool.submit(_split_in_worker, _texts(batch))))
                if len(waiting) > 2 * n_process:  # just enough to keep all busy, so that memory stays flat
                    yield from _done(*waiting.popleft())
            while waiting:
                yield from _done(*waiting.popleft())
        except BrokenProcessPool:
            raise CorpusError(
                "n_process: a process that tokenizes was killed (out of memory?); use fewer processes, and in a script "
                'call prepare below `if __name__ == "__main__":`'
            ) from None


def _done(batch: list[_Paragraph], result: Future[list[list[str]]]) -> Iterator[tuple[_Paragraph, list[str]]]:
    return zip(batch, result.result(), strict=True)


def _batches(paragraphs: Iterable[_Paragraph]) -> Iterator[list[_Paragraph]]:
    batch: list[_Paragraph] = []
    characters = 0
    for paragraph in paragraphs:
        batch.append(paragraph)
        characters += len(paragraph.text)
        if characters >= _BATCH:
            yield batch
            batch, characters = [], 0
    yield batch


def _texts(batch: list[_Paragraph]) -> list[str]:
    return [paragraph.text for paragraph in batch]


_splitter: _Splitter  # of a worker process


def _start_worker(lang: str, min_tokens: int) -> None:
    global _splitter
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    _splitter = _Splitter(lang, min_tokens)


def _split_in_worker(texts: list[str]) -> list[list[str]]:
    return _splitter(texts)


def _write(split: Iterable[tuple[_Paragraph, list[str]]], directory: Path, report: PrepareReport) -> Counter[str]:
    """Write and count both parts. Return how often each word occurs in the training part."""
    counts: Counter[str] = Counter()
    with _Writer(directory / "train", report.train) as train, _Writer(directory / "heldout", report.heldout) as heldout:
        for paragraph, sentences in split:
            (heldout if paragraph.held_out else train).write(paragraph, sentences)
            if sentences and not paragraph.held_out:
                counts.update(" ".join(sentences).split(" "))
    return counts


class _Writer(ExitStack):
    """Writes a part of the corpus: one file per raw file, one sentence per line, a blank line between documents."""

    def __init__(self, directory: Path, part: Part) -> None:
        super().__init__()
        self._directory = directory
        self._part = part
        self._file: TextIO
        self._stem: str | None = None
        self._document = -1

    def write(self, paragraph: _Paragraph, sentences: list[str]) -> None:
        """Write the sentences of `paragraph`. A paragraph without sentences adds nothing."""
        if not sentences:
            return
        if paragraph.stem != self._stem:
            self._open(paragraph.stem)
            self._part.documents += 1
        elif paragraph.document != self._document:
            self._file.write("\n")
            self._part.documents += 1
        self._stem, self._document = paragraph.stem, paragraph.document
        self._file.writelines(sentence + "\n" for sentence in sentences)
        self._part.sentences += len(sentences)
        self._part.tokens += sum(sentence.count(" ") + 1 for sentence in sentences)

    def _open(self, stem: str) -> None:
        self.close()
        self._directory.mkdir(exist_ok=True)
        path = self._directory / f"{stem}.txt"
        self._file = self.enter_context(path.open("w", encoding="utf-8", newline="\n"))


def _shuffle(path: Path, seed: int) -> None:
    """Put the lines of a file in random order, without blank lines. Only their positions are kept in memory."""
    shuffled = path.with_suffix(".part")
    places = array("Q")
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as text, shuffled.open("wb") as target:
        place = 0
        for line in file:
            if line != b"\n":
                places.append(place)
            place += len(line)
        random.Random(f"{seed} {path.name}").shuffle(places)
        for place in places:
            text.seek(place)
            target.write(text.readline())
    shuffled.replace(path)
