"""Raw text in, corpus out: tokenized sentences for a biLM to learn from, some held out to test it, a vocabulary."""

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
from spacy_elmo.support.progress import progress_bar
from spacy_elmo.support.text import PathLike, find_files, read_lines
from spacy_elmo.support.workers import end_with_parent
from spacy_elmo.tools import language

_SUFFIXES = re.compile(r"(\.txt)?(\.(gz|bz2|xz|zst))?$")
_COMPRESSED = re.compile(r"\.(gz|bz2|xz|zst)$")
_BATCH = 400_000  # characters handed to the tokenizer at a time
_REMEMBERED = 10_000_000  # characters whose words the tokenizer remembers to the end; later ones it soon forgets


@dataclass
class Part:
    """How much text the training or the held-out part holds."""

    documents: int = 0
    sentences: int = 0
    tokens: int = 0


@dataclass
class PrepareReport:
    """What `prepare` wrote.

    duplicates: paragraphs dropped because they were seen before; vocabulary: its entries, the special ones included;
    coverage: the share of the training tokens that it holds.
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
    """Tokenize raw text and write `out/train/*.txt`, `out/heldout/*.txt` and `out/vocab.txt`; all of it or nothing.

    raw: a file, directory or glob pattern; UTF-8, one paragraph a line, a blank line between documents. A file without
        a blank line between two others is one document.
    lang: whose tokenizer spaCy takes.
    held_out: the share of the documents to hold out: one in k = round(1 / held_out) of each file, those with number
        n % k == k // 2. Of a file that is one document, paragraphs in place of documents.
    min_tokens: shorter sentences are dropped.
    min_count, max_size: bounds of the vocabulary, which counts the training part.
    dedupe: drop each paragraph that was there before, in any file; documents keep their numbers.
    shuffle, seed: put the training sentences of each file in random order; there are then no documents any more.
    n_process: processes that tokenize; the result is the same for any number.
    progress: show a bar on stderr.

    Memory does not grow with the text, but for each distinct word, each paragraph if `dedupe` (about 100 bytes), and
    each sentence of one file if `shuffle` (8 bytes).

    Raises:
        CorpusError: there is no such text or it cannot be read, two files would have the same name in `out`, a setting
            is wrong, spaCy has no such language, results are in `out` already or cannot be written, or no sentence is
            left to train on.
    """
    out = Path(out)
    every = _one_in(held_out)
    if max_size is not None and max_size <= len(SPECIAL):
        raise CorpusError(f"max_size: {max_size} leaves no room for words beside {' '.join(SPECIAL)}")
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
    """The report as lines for people."""
    lines = [
        f"{name:<12}{part.documents:,} documents, {part.sentences:,} sentences, {part.tokens:,} tokens"
        for name, part in (("train", report.train), ("held out", report.heldout))
    ]
    if report.duplicates:
        lines.append(f"{'dropped':<12}{report.duplicates:,} paragraphs seen before")
    lines.append(f"{'vocabulary':<12}{report.vocabulary:,} entries, {report.coverage:.2%} of the training tokens")
    return "\n".join(lines)


def warning(report: PrepareReport, held_out: float) -> str | None:
    """What is to be said of a text too short for the share that was to be held out, if it is."""
    every = _one_in(held_out)
    if not every or report.heldout.sentences:
        return None
    return (
        f"nothing is held out: it would have been document {every // 2 + 1} of each file and every {every}th from "
        "there (or paragraph, where a file is one document), but there is none of which anything is kept; give a "
        f"larger share than {held_out}, or fewer and larger files"
    )


def vocabulary_warning(report: PrepareReport) -> str | None:
    """What is to be said of a vocabulary that lacks many of the words, if it does."""
    return misfit(1 - report.coverage, "vocab.txt")


def _one_in(held_out: float) -> int:
    """How many documents one is held out of; 0 if none is."""
    if not 0 <= held_out <= 0.5:
        raise CorpusError(f"held_out: {held_out} is no share to hold out; expected 0 (nothing) to 0.5")
    return round(1 / held_out) if held_out else 0


def _by_stem(files: list[Path]) -> dict[str, Path]:
    """The files under the names that they shall have in the corpus."""
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
            raise CorpusError(f"{out / name}: is there already; delete it or choose another place for the corpus")


def _size(files: dict[str, Path]) -> int | None:
    """Bytes of text; None where they are not known without unpacking."""
    if any(_COMPRESSED.search(path.name) for path in files.values()):
        return None
    return sum(path.stat().st_size for path in files.values())


class _Paragraph(NamedTuple):
    text: str
    stem: str
    document: int  # its number in the file
    held_out: bool


def _read(files: dict[str, Path], every: int, advance: Callable[[int], object]) -> Iterator[_Paragraph]:
    """Yield the paragraphs of all files; `advance` is told of every byte of text."""
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
    """Whether no blank line stands between two others."""
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
    """Texts in; for each the sentences of at least `min_tokens` words out, as words joined by spaces.

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
        self._tokenizer.max_cache_size = _REMEMBERED  # more than there will be; spaCy's 10,000 are soon met

    def __call__(self, texts: list[str]) -> list[list[str]]:
        # Most time goes to words that the tokenizer does not remember, and in a memory zone, which frees all that a
        # batch brought, it remembers nothing new: open one only when the frequent words have been met.
        remembers = self._read < _REMEMBERED
        with nullcontext() if remembers else self._nlp.memory_zone():
            self._read += sum(map(len, texts))
            return [self._sentences(text) for text in texts]

    def _sentences(self, text: str) -> list[str]:
        doc = self._sentencizer(self._tokenizer(text))
        # What is read back is line.split(): split in the same way here, and words, counts and lengths are those that
        # the training will see. This drops white space tokens, and takes one apart that has white space inside.
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
                if len(waiting) > 2 * n_process:  # no more than keeps all busy: memory stays flat
                    yield from _done(*waiting.popleft())
            while waiting:
                yield from _done(*waiting.popleft())
        except BrokenProcessPool:
            raise CorpusError(
                "n_process: a process that tokenizes was killed (out of memory?); use fewer, and call prepare below "
                '`if __name__ == "__main__":` in a script'
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _splitter = _Splitter(lang, min_tokens)


def _split_in_worker(texts: list[str]) -> list[list[str]]:
    return _splitter(texts)


def _write(split: Iterable[tuple[_Paragraph, list[str]]], directory: Path, report: PrepareReport) -> Counter[str]:
    """Write and count both parts; return how often each word occurs in the training part."""
    counts: Counter[str] = Counter()
    with _Writer(directory / "train", report.train) as train, _Writer(directory / "heldout", report.heldout) as heldout:
        for paragraph, sentences in split:
            (heldout if paragraph.held_out else train).write(paragraph, sentences)
            if sentences and not paragraph.held_out:
                counts.update(" ".join(sentences).split(" "))
    return counts


class _Writer(ExitStack):
    """Writes a part of the corpus: a file for each raw file, a sentence a line, a blank line between documents."""

    def __init__(self, directory: Path, part: Part) -> None:
        super().__init__()
        self._directory = directory
        self._part = part
        self._file: TextIO
        self._stem: str | None = None
        self._document = -1

    def write(self, paragraph: _Paragraph, sentences: list[str]) -> None:
        """Write the sentences that `paragraph` was split into; one without any leaves no trace."""
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
    """Put the lines of a file in random order, without the blank ones; memory is taken for their places only."""
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
