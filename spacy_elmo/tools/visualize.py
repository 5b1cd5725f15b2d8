"""Draws the contextual vectors of words in a text (behind `python -m spacy elmo visualize`)."""

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import spacy

from spacy_elmo import formats
from spacy_elmo.bilm import BiLM
from spacy_elmo.errors import CorpusError, ElmoError
from spacy_elmo.pretraining.evaluation import blocks
from spacy_elmo.support.device import choose_device
from spacy_elmo.support.files import write_whole
from spacy_elmo.support.layers import Choice
from spacy_elmo.support.paths import path_of
from spacy_elmo.support.progress import progress_bar
from spacy_elmo.support.standard_input import rereadable
from spacy_elmo.tools import language, pictures
from spacy_elmo.tools.embedding.text import Text
from spacy_elmo.tools.layers import Array, parse_one, pick
from spacy_elmo.tools.projection import Method, project
from spacy_elmo.tools.untokenized import warn_of

Color = Literal["word", "pos", "label"]


@dataclass(frozen=True)
class Sentence:
    """The words of a line, with a tag for each word and a label for the line, if known."""

    words: list[str]
    tags: list[str] | None = None
    label: str = ""


@dataclass(frozen=True)
class Point:
    """A point to draw: a word in its sentence or, without a position, the whole sentence."""

    words: tuple[str, ...]
    position: int | None
    category: str


def visualize(
    text: str,
    out: str,
    model: str = formats.BUNDLED,
    words: Collection[str] | None = None,
    color: Color = "word",
    method: Method = "pca",
    layers: str | int = "mean",
    pipeline: str | None = None,
    max_points: int = 1000,
    seed: int = 0,
    title: str | None = None,
    device: str = "auto",
    force: bool = False,
    show_progress: bool = False,
    all_words: bool = False,
) -> dict[str, int]:
    """Draw contextual vectors in two dimensions. The result is the same each time.

    text: one tokenized sentence per line, or raw lines for the `pipeline`. With color "label": `label<TAB>sentence`.
        With color "pos" and no pipeline: one `word<TAB>tag` per line, with a blank line between sentences.
    out: a .png, a .html that is interactive and needs no other file, or a name without suffix for both.
    words: the words to draw, spelled as in the text. None: with color "word" all except punctuation and function words,
        with "pos" all, with "label" one point per sentence (the mean of its words).
    all_words: with color "word", also draw punctuation and function words. Function words are spaCy's stop words of the
        language of the pipeline, otherwise of the model.
    color: what the colour of a point shows.
    layers: "mean" of all, "top", or the number of a layer ("0" is the token embedding).
    pipeline: a spaCy pipeline that splits each line and tags its words, or a language, whose tokenizer splits it. Each
        line is read as one sentence.
    device: see `choose_device`.
    max_points: if there are more points, this many are drawn, chosen at random.

    Returns how many points each category has, in the order of the legend.

    Raises:
        ElmoError: a file cannot be read or already exists, a word does not occur, there are fewer than three points,
            or a package or the device is missing.
    """
    files, chosen = files_of(out), choose_device(device)
    _check_free(files, force)
    pictures.check_packages(files, method)
    opened = formats.open_model(model)
    with rereadable(text) as path:
        source = Text.of(path, pipeline)
        if source.nlp is None and color == "word":
            warn_of([source.path], "let --pipeline split it: a language such as en, or a spaCy pipeline")
        wanted = _Wanted.of(words, color, None if all_words else language.of_model(opened, source.nlp))
        points = _sample(_read(source, color), wanted, max_points, seed)
    if len(points) < 3:
        raise CorpusError(f"{text}: has {len(points)} points to draw; a picture needs at least 3")
    bilm = opened.bilm().to(chosen)
    chosen_layers = parse_one(layers, bilm.options.n_outputs)  # fails now instead of after the first sentence
    name = opened.card.get("name", opened.name)
    place, axes = project(_embed(bilm, points, chosen_layers, show_progress), method, seed)
    picture = pictures.Picture(
        title or _title(words, color, name, chosen_layers),
        axes,
        place,
        [point.category for point in points],
        [point.words for point in points],
        [point.position for point in points],
        "part of speech" if color == "pos" else color,
    )
    for path in files:
        content = picture.png() if path.suffix == ".png" else picture.html()
        try:
            write_whole(path, lambda file, content=content: file.write(content))  # type: ignore[misc]
        except OSError as error:
            raise ElmoError(f"{path}: cannot be written ({error.strerror})") from None
    return dict(pictures.by_frequency(picture.categories))


def files_of(out: str) -> list[Path]:
    """Return the files that a name stands for.

    Raises:
        ElmoError: the name is a directory, or has another suffix.
    """
    path = path_of(out, "out")
    if path.is_dir():
        raise ElmoError(f"{out}: is a directory; name a file")
    if path.suffix not in ("", ".png", ".html"):
        raise ElmoError(f"{out}: expected .png, .html, or a name without suffix for both; not {path.suffix}")
    return [path] if path.suffix else [path.with_suffix(".png"), path.with_suffix(".html")]


def _check_free(files: Sequence[Path], force: bool) -> None:
    for file in files:
        if not file.parent.is_dir():
            raise ElmoError(f"{file.parent}: no such directory; create it first")
        if file.exists() and not force:
            raise ElmoError(f"{file}: already exists; choose another name, or add --force to overwrite it")


def _title(words: Collection[str] | None, color: Color, model: str, layers: Choice) -> str:
    drawn = ", ".join(words) if words else {"word": "words", "pos": "all words", "label": "sentences"}[color]
    layer = {"mean": "average of all layers", "top": "top layer"}.get(str(layers), f"layer {layers}")
    by = {"word": "", "pos": " by part of speech", "label": " by label"}[color]
    return f"{drawn}{by}: {model}, {layer}"


# Reading


def _read(source: Text, color: Color) -> Iterator[Sentence]:
    if color == "pos" and source.nlp is None:
        yield from _read_tagged(source)
        return
    for number, line in enumerate(source.lines(), start=1):
        if not line:
            continue
        label, tab, sentence = line.partition("\t") if color == "label" else ("", "\t", line)
        if not tab:
            raise CorpusError(f"{source.path}, line {number}: expected label<TAB>sentence, got {line[:60]!r}")
        if source.nlp is None:
            yield Sentence(sentence.split(), label=label)
            continue
        tokens = [token for token in source.nlp(sentence.strip()) if not token.is_space]
        tags = [token.pos_ or token.tag_ for token in tokens]
        if color == "pos" and not all(tags):
            raise ElmoError(
                f"{source.path}, line {number}: the pipeline sets no parts of speech; use one with a tagger"
            )
        yield Sentence([token.text for token in tokens], tags, label)


def _read_tagged(source: Text) -> Iterator[Sentence]:
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate(source.lines(), start=1):
        if line:
            word, tab, tag = line.partition("\t")
            if not tab or "\t" in tag:
                raise CorpusError(
                    f"{source.path}, line {number}: expected word<TAB>tag, got {line[:60]!r}; for plain text, add a "
                    "--pipeline that tags it"
                )
            words.append(word.strip())
            tags.append(tag.strip())
        elif words:
            yield Sentence(words, tags)
            words, tags = [], []
    if words:
        yield Sentence(words, tags)


# Choosing


@dataclass(frozen=True)
class _Wanted:
    """What to draw of a sentence.

    words: draw these. None: draw all except punctuation and `function_words`, or all if `function_words` is None. With
        color "label", None draws the sentence itself.
    """

    words: Collection[str] | None
    color: Color
    function_words: Collection[str] | None = None

    @classmethod
    def of(cls, words: Collection[str] | None, color: Color, lang: str | None) -> "_Wanted":
        """Choose the function words to leave out, if the colours show words and no words are named.

        lang: language of the function words; None: leave out none.
        """
        if words is not None or color != "word" or lang is None:
            return cls(words, color)
        return cls(words, color, spacy.util.get_lang_class(lang).Defaults.stop_words)

    def points(self, sentence: Sentence) -> Iterator[Point]:
        """Yield the points in order."""
        content = tuple(sentence.words)
        if self.color == "label" and self.words is None:
            yield Point(content, None, sentence.label)
            return
        for position, word in enumerate(content):
            if self._wants(word):
                by = {"word": word, "label": sentence.label, "pos": sentence.tags[position] if sentence.tags else ""}
                yield Point(content, position, by[self.color])

    def _wants(self, word: str) -> bool:
        if self.words is not None:
            return word in self.words
        if self.function_words is None:
            return True
        return word.lower() not in self.function_words and any(map(str.isalnum, word))


def _sample(sentences: Iterator[Sentence], wanted: _Wanted, max_points: int, seed: int) -> list[Point]:
    """Return at most `max_points`, each with the same chance, in the order of the text (reservoir sampling)."""
    pick_number, seen = random.Random(seed), 0
    kept: dict[int, tuple[int, Point]] = {}
    missing = set(wanted.words or ())
    for sentence in sentences:
        for point in wanted.points(sentence):
            missing -= {point.words[point.position]} if point.position is not None else set()
            slot = seen if seen < max_points else pick_number.randrange(seen + 1)
            if slot < max_points:
                kept[slot] = (seen, point)
            seen += 1
    if missing:
        raise CorpusError(f"not in the text: {', '.join(sorted(missing))}; upper and lower case must match")
    return [point for _, point in sorted(kept.values(), key=lambda item: item[0])]


def _embed(bilm: BiLM, points: Sequence[Point], layers: Choice, show_progress: bool) -> Array:
    """Return vectors `[len(points), width]`. Each sentence is read once."""
    by_sentence: dict[tuple[str, ...], list[int]] = {}
    for number, point in enumerate(points):
        by_sentence.setdefault(point.words, []).append(number)
    vectors = np.empty((len(points), bilm.options.width), dtype=np.float32)
    with progress_bar(show_progress, "embedding", total=len(by_sentence), unit=" sentences") as bar:
        for block in blocks(by_sentence):
            for words, encoded in zip(block, bilm.encode(block), strict=True):
                chosen = pick(encoded, layers)
                for number in by_sentence[tuple(words)]:
                    position = points[number].position
                    vectors[number] = chosen.mean(axis=0) if position is None else chosen[position]
                bar.update(1)
    return vectors
