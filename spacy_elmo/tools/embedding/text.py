"""Reads a text file as lines and tokens, or in windows of several lines."""

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import spacy
from spacy.language import Language
from spacy.tokens import Doc

from spacy_elmo.errors import CorpusError
from spacy_elmo.support.paths import path_of
from spacy_elmo.support.text import PathLike, read_lines

_ZONE = 1000  # lines per memory zone of the tokenizer, so that memory does not grow with new words
_SHOWN = 5
MOST_TOKENS = 1_000_000  # of a line, which is processed as a whole


@dataclass(frozen=True)
class Survey:
    """What a first pass finds: the number of lines, how many are blank, and SHA-256 digests.

    digest: of all lines; tokens: of what a pipeline makes of them, None without one.
    """

    n_lines: int
    n_blank: int
    digest: str
    tokens: str | None


@dataclass(frozen=True)
class Text:
    """A text file, one sentence per line, numbered from 0. White space at both ends of a line is stripped.

    nlp: tokenizes the lines; None: they are already tokenized, and white space separates the tokens.
    """

    path: Path
    nlp: Language | None = None

    @classmethod
    def of(cls, path: PathLike, pipeline: str | None = None) -> "Text":
        """Open a text file with a tokenizer: that of a pipeline (package or directory), or of a language (`en`).

        Raises:
            CorpusError: there is no such file or no such pipeline.
        """
        path = path_of(path, "text", CorpusError)
        if not path.is_file():
            raise CorpusError(f"{path}: no such text file; expected one sentence per line")
        nlp = None if pipeline is None else _load(pipeline)
        if nlp is not None:
            nlp.max_length = sys.maxsize  # this limit is for parsers, and no parser runs here
        return cls(path, nlp)

    def survey(self) -> Survey:
        """Read all lines once.

        Raises:
            CorpusError: the file cannot be read (see `read_lines`) or has no line.
        """
        n_lines, n_blank, sha, sha_of_tokens = 0, 0, hashlib.sha256(), hashlib.sha256()
        for line, tokens in self.sentences():
            _add(sha, line)
            n_lines += 1
            n_blank += not line
            if self.nlp is not None:
                _add(sha_of_tokens, "\t".join(tokens))
        if not n_lines:
            raise CorpusError(f"{self.path}: the text is empty; expected one sentence per line")
        return Survey(n_lines, n_blank, sha.hexdigest(), None if self.nlp is None else sha_of_tokens.hexdigest())

    def check(self, survey: Survey) -> None:
        """Raise a CorpusError if the lines are no longer those of the survey."""
        sha = hashlib.sha256()
        for line in self.lines():
            _add(sha, line)
        if sha.hexdigest() != survey.digest:
            raise changed(self.path)

    def where_blank(self) -> str:
        """Name the first blank lines, counted from 1 as editors do."""
        found = list(islice((number for number, line in enumerate(self.lines(), 1) if not line), _SHOWN + 1))
        return ", ".join(map(str, found[:_SHOWN])) + (", ..." if len(found) > _SHOWN else "")

    def lines(self) -> Iterator[str]:
        """Yield the lines."""
        return (line.strip() for line in read_lines(self.path))

    def sentences(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each line and its tokens, without white space tokens."""
        if self.nlp is None:
            yield from ((line, line.split()) for line in self.lines())
            return
        lines = self.lines()
        while some := list(islice(lines, _ZONE)):
            with self.nlp.memory_zone():
                split = [[token.text for token in self.nlp.make_doc(line) if not token.is_space] for line in some]
            yield from zip(some, split, strict=True)

    def docs(self) -> Iterator[Doc]:
        """Yield each line as a Doc, with white space tokens."""
        nlp = self.nlp or spacy.blank("xx")
        for line in self.lines():
            yield nlp.make_doc(line) if self.nlp else Doc(nlp.vocab, words=line.split())


def changed(path: Path) -> CorpusError:
    """Return the error for a text that was changed while vectors were made of it."""
    return CorpusError(f"{path}: the text was changed during the run; run it again with --force")


def _add(sha: "hashlib._Hash", line: str) -> None:
    sha.update(line.encode() + b"\n")


def line_hash(line: str) -> bytes:
    """Return 16 bytes that stand for a line, to keep many lines in memory."""
    return hashlib.blake2b(line.encode(), digest_size=16).digest()


def _load(pipeline: str) -> Language:
    try:
        if Path(pipeline).exists() or spacy.util.is_package(pipeline):
            return spacy.load(pipeline)
        return spacy.blank(pipeline)
    except (ImportError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CorpusError(
            f"{pipeline}: not an installed pipeline, not the directory of one, and not a language of spaCy ({reason})"
        ) from None


@dataclass(frozen=True)
class Window:
    """Consecutive sentences that are encoded together: the number of the first, and their tokens."""

    first: int
    sentences: list[list[str]]


def windows(text: Text, batch_size: int, max_tokens: float) -> Iterator[Window]:
    """Cut a text into windows of at most `batch_size` lines and `max_tokens` tokens. A longer line is alone.

    Raises:
        CorpusError: a line has more than MOST_TOKENS tokens.
    """
    first, sentences, n_tokens = 0, list[list[str]](), 0
    for number, (_, tokens) in enumerate(text.sentences(), 1):
        if len(tokens) > MOST_TOKENS:
            raise CorpusError(
                f"{text.path}, line {number}: {len(tokens):,} tokens, more than the {MOST_TOKENS:,} that fit into "
                "memory; put one sentence per line"
            )
        if sentences and (len(sentences) == batch_size or n_tokens + len(tokens) > max_tokens):
            yield Window(first, sentences)
            first, sentences, n_tokens = first + len(sentences), [], 0
        sentences.append(tokens)
        n_tokens += len(tokens)
    if sentences:
        yield Window(first, sentences)
