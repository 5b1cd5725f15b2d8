"""Averages the vectors of each word over a corpus (behind `python -m spacy elmo static`)."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import spacy
import torch
from torch import Tensor

from spacy_elmo import formats
from spacy_elmo.bilm import BiLM
from spacy_elmo.bilm.characters import BOS, EOS
from spacy_elmo.errors import CorpusError, ElmoError
from spacy_elmo.support.device import choose_device
from spacy_elmo.support.files import replacing, write_whole
from spacy_elmo.support.layers import Choice
from spacy_elmo.support.paths import path_of, place_of
from spacy_elmo.support.progress import progress_bar
from spacy_elmo.support.standard_input import rereadable
from spacy_elmo.support.text import PathLike, find_files
from spacy_elmo.tools import language
from spacy_elmo.tools.embedding.spool import directory_of
from spacy_elmo.tools.embedding.text import Text, windows
from spacy_elmo.tools.layers import parse_one
from spacy_elmo.tools.untokenized import warn_of

VECTORS = "vectors.txt"
_LAYOUT = (VECTORS, "config.cfg", "meta.json", "tokenizer", "vocab")  # our file, and those of the pipeline
_WINDOW = 2048, 32_768  # most sentences and tokens to read together
_SAVE_EVERY = 60.0  # seconds


@dataclass(frozen=True)
class StaticReport:
    """What `average_words` wrote. words: number with a vector; rarer: number without one; tokens: uses of both; width:
    of a vector."""

    words: int
    rarer: int
    tokens: int
    width: int


def average_words(
    corpus: PathLike,
    out: PathLike,
    model: str = formats.BUNDLED,
    *,
    layers: str | int = "mean",
    pipeline: str | None = None,
    lang: str | None = None,
    min_count: int = 5,
    device: str = "auto",
    force: bool = False,
    resume: bool = False,
    show_progress: bool = False,
) -> StaticReport:
    """Average the vectors of each word over a corpus, and write them to a folder: a blank spaCy pipeline with the table
    of vectors, and `vectors.txt` in word2vec's format. The most frequent words come first.

    corpus: tokenized text, one sentence per line: a file, a directory of files (if `prepare` wrote it, its `train/`), a
        glob pattern, `-` or a pipe. With `pipeline`, raw lines.
    layers: "mean" of all, "top", or the number of a layer ("0" is the token embedding).
    pipeline: a spaCy pipeline or a language, whose tokenizer splits the lines.
    lang: language of the written pipeline, which must be that of the pipelines that will use the vectors. None: that of
        `pipeline`, otherwise that of the model, otherwise "xx".
    min_count: rarer words have no vector.
    device: see `choose_device`.
    force: replace what is in `out`, and drop what an interrupted run left. resume: continue an interrupted run.

    A run that was stopped after more than a minute leaves its sums in `OUT.part`, at most a minute old. The memory is
    that of the distinct words, and of two vectors for each word that is not rare.

    Raises:
        ElmoError: the corpus or the model cannot be read, `out` already exists or cannot be written, a setting is
            wrong, or the interrupted run had another corpus, model or setting.
    """
    out, chosen = place_of(out, "out"), choose_device(device)
    if min_count < 1:
        raise ElmoError(f"min_count is {min_count}, expected at least 1 use")
    sums_file = path_of(directory_of(out), "out")  # its name is longer than that of OUT
    _check_free(out, sums_file, force, resume)
    if lang is not None:
        lang = language.blank(lang).lang
    with rereadable(corpus) as source:
        texts = _texts(source, pipeline)
        opened = formats.open_model(model)
        choice = parse_one(layers, opened.options.n_outputs)
        counts, digest = _count(texts, show_progress)
        words = sorted((word for word in counts if counts[word] >= min_count), key=lambda word: (-counts[word], word))
        if not words:
            raise CorpusError(
                f"{corpus}: no word occurs {min_count} times or more; use a smaller --min-count or a larger corpus"
            )
        job = {"corpus": digest, "model": opened.digest, "layers": str(choice), "min_count": min_count}
        sums = _Sums(words, opened.options.width, job, sums_file)
        if resume and sums_file.exists():
            sums.load()
        try:
            sums.add(texts, opened.bilm().to(chosen), choice, counts.total(), show_progress)
            with replacing(out, _LAYOUT) as new:
                _write(new, words, sums.means(), lang or language.of_model(opened, texts[0].nlp))
        except OSError as error:
            raise ElmoError(f"{out}: cannot be written ({error})") from None
        sums_file.unlink(missing_ok=True)
    return StaticReport(len(words), len(counts) - len(words), counts.total(), opened.options.width)


def summary(out: PathLike, report: StaticReport) -> str:
    """Return the report as a readable line."""
    return (
        f"✔ {out}: vectors of {report.words:,} words, {report.width} wide, from {report.tokens:,} tokens "
        f"({report.rarer:,} rarer words left out); {Path(out) / VECTORS} has the same vectors as text"
    )


def interrupted(out: PathLike) -> str:
    """Return the line to show when somebody stops a run."""
    part = directory_of(Path(out))
    return f"{out}: stopped" + (f"; finished work is kept in {part}: continue with --resume" if part.is_file() else "")


def _check_free(out: Path, part: Path, force: bool, resume: bool) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not force):
        raise ElmoError(f"{out}: already exists; name another folder, or add --force to replace it")
    if part.exists() and not force and not resume:
        raise ElmoError(f"{part}: left by an interrupted run; add --resume to continue, or --force to start again")


def _texts(corpus: PathLike, pipeline: str | None) -> list[Text]:
    """Return the files of a corpus, all with the same tokenizer."""
    train = Path(corpus) / "train"  # if `prepare` wrote it
    files = find_files(train if train.is_dir() else corpus)
    if pipeline is None:
        warn_of(files, "let --pipeline (in Python: pipeline=...) split it: a language such as en, or a spaCy pipeline")
    first = Text.of(files[0], pipeline)
    return [Text(file, first.nlp) for file in files]


def _sentences(texts: Sequence[Text]) -> Iterator[list[str]]:
    for text in texts:
        for _, tokens in text.sentences():
            if tokens:
                yield tokens


def _count(texts: Sequence[Text], show_progress: bool) -> tuple[Counter[str], str]:
    """Return how often each word occurs, and a digest of the corpus."""
    counts, digest = Counter[str](), hashlib.sha256()
    with progress_bar(show_progress, "counting", unit=" words") as bar:
        for tokens in _sentences(texts):
            counts.update(tokens)
            digest.update(" ".join(tokens).encode("utf-8", "surrogatepass") + b"\n")
            bar.update(len(tokens))
    return counts, digest.hexdigest()


class _Sums:
    """The sum and number of each word's vectors, and how many windows of the corpus they include.

    job: what must be the same to resume from the file.
    """

    def __init__(self, words: Sequence[str], width: int, job: dict[str, Any], file: Path) -> None:
        self._rows = {word: row for row, word in enumerate(words)}
        self._sums = torch.zeros(len(words), width, dtype=torch.float64)
        self._uses = torch.zeros(len(words), dtype=torch.int64)
        self._n_windows = 0
        self._job, self._file = json.dumps(job), file

    def load(self) -> None:
        """Load what was saved.

        Raises:
            ElmoError: the file is damaged, or belongs to another job.
        """
        try:
            with np.load(self._file, allow_pickle=False) as saved:
                job, self._n_windows = str(saved["job"]), int(saved["n_windows"])
                sums, uses = torch.from_numpy(saved["sums"]), torch.from_numpy(saved["uses"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise ElmoError(f"{self._file}: damaged ({error}); start again with --force, without --resume") from None
        if job != self._job or sums.shape != self._sums.shape:
            raise ElmoError(
                f"{self._file}: the interrupted run had another corpus, model, --layers or --min-count; use the same, "
                "or start again with --force, without --resume"
            )
        self._sums, self._uses = sums, uses

    def add(self, texts: Sequence[Text], bilm: BiLM, layers: Choice, n_tokens: int, show_progress: bool) -> None:
        """Add the windows that are not included yet, and save from time to time."""
        saved = time.monotonic()
        with progress_bar(show_progress, "averaging", n_tokens, unit=" words") as bar:
            for number, sentences in enumerate(_windows(texts)):
                if number >= self._n_windows:
                    self._add_window(sentences, bilm, layers)
                    self._n_windows += 1
                    if time.monotonic() - saved >= _SAVE_EVERY:
                        self._save()
                        saved = time.monotonic()
                bar.update(sum(map(len, sentences)))

    def means(self) -> Tensor:
        """Return the mean of each word, `[n_words, width]` float32."""
        return (self._sums / self._uses[:, None]).float()

    def _add_window(self, sentences: Sequence[Sequence[str]], bilm: BiLM, layers: Choice) -> None:
        for batch in bilm.stream(sentences):
            rows = [self._rows.get(word, -1) for n in batch.numbers for word in (BOS, *sentences[n], EOS)]
            ids = torch.tensor(rows)
            places = (ids >= 0).nonzero().squeeze(1)
            vectors = _pick(batch.layers, layers)[places.to(batch.layers.device)]
            self._sums.index_add_(0, ids[places], vectors.cpu().double())
            self._uses += ids[places].bincount(minlength=len(self._rows))

    def _save(self) -> None:
        parts: dict[str, Any] = {"sums": self._sums.numpy(), "uses": self._uses.numpy()}
        write_whole(self._file, lambda file: np.savez(file, job=self._job, n_windows=self._n_windows, **parts))


def _windows(texts: Sequence[Text]) -> Iterator[list[list[str]]]:
    for text in texts:
        for window in windows(text, *_WINDOW):
            yield [tokens for tokens in window.sentences if tokens]


def _pick(layers: Tensor, how: Choice) -> Tensor:
    """Reduce `[n_layers + 1, n_tokens, width]` to `[n_tokens, width]`."""
    return layers.mean(dim=0) if how == "mean" else layers[-1 if how == "top" else int(how)]


def _write(folder: Path, words: Sequence[str], means: Tensor, lang: str) -> None:
    nlp, table = spacy.blank(lang), means.numpy()
    nlp.vocab.reset_vectors(shape=table.shape)  # type: ignore[arg-type] # the stub says int, but it takes a shape
    nlp.vocab.vectors.name = "elmo_static"
    for word, vector in zip(words, table, strict=True):
        nlp.vocab.vectors.add(nlp.vocab.strings.add(word), vector=vector)
    nlp.to_disk(folder)
    with (folder / VECTORS).open("w", encoding="utf-8", newline="\n") as file:
        file.write(f"{len(words)} {table.shape[1]}\n")
        for word, vector in zip(words, table, strict=True):
            file.write(f"{word} {' '.join(f'{value:.6g}' for value in vector)}\n")
