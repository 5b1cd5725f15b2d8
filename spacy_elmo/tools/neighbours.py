"""Finds the nearest uses of a word in an embedded corpus (behind `python -m spacy elmo neighbours`)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from spacy_elmo import formats
from spacy_elmo.errors import ElmoError
from spacy_elmo.support.device import choose_device
from spacy_elmo.support.progress import progress_bar
from spacy_elmo.tools.embedded import EmbeddedCorpus
from spacy_elmo.tools.layers import Array, pick

_CHUNK_BYTES = 32 * 2**20  # of vectors to compare at once
# Smallest cosine between vectors of a corpus and new vectors of the same sentence. With the same model it is 1, apart
# from rounding and, in files of `allennlp elmo`, carried state. Vectors of another model are almost orthogonal.
_SAME_MODEL = 0.9


@dataclass(frozen=True)
class Query:
    """A word in its sentence.

    vector: `[width]`.
    """

    words: list[str]
    position: int
    vector: Array


@dataclass(frozen=True)
class Use:
    """A word of the corpus in its sentence. Line and position count from 0, like the datasets of the corpus."""

    similarity: float
    line: int
    position: int
    word: str
    sentence: str


def find_position(words: Sequence[str], word: str, position: int | None = None) -> int:
    """Return the position of a word in a sentence.

    position: the expected one; needed if the sentence repeats the word.

    Raises:
        ElmoError: the word is not there, or is there several times.
    """
    places = [i for i, other in enumerate(words) if other == word]
    if position is None and len(places) == 1:
        return places[0]
    if position is not None and position in places:
        return position
    sentence = " ".join(words)
    if not places:
        raise ElmoError(f"{word!r} is not a word of {sentence!r}; separate the tokens of the sentence by spaces")
    here = ", ".join(map(str, places))
    raise ElmoError(f"{word!r} is in {sentence!r} at {here}, counted from 0; choose one with --position")


def query_in_corpus(corpus: EmbeddedCorpus, word: str, line: int, position: int | None = None) -> Query:
    """Return a use in the corpus.

    Raises:
        ElmoError: there is no such line, or the word is not in it.
    """
    words = corpus.words(line)
    position = find_position(words, word, position)
    return Query(words, position, corpus.vectors(line, len(words))[position])


def query_in_sentence(
    corpus: EmbeddedCorpus,
    word: str,
    sentence: str,
    model: str = formats.BUNDLED,
    position: int | None = None,
    device: str = "auto",
) -> Query:
    """Return a use in a new sentence, embedded as the corpus is.

    A file with one vector per token does not say from which layers it was made. So the model embeds the first sentence
    of the corpus, and the layers (mean, top or one) that match its vectors are used.

    device: see `choose_device`.

    Raises:
        ElmoError: the word is not in the sentence, the corpus was not embedded by this model, or there is no such
            device.
    """
    words, chosen = sentence.split(), choose_device(device)
    position = find_position(words, word, position)
    opened = formats.open_model(model)
    if opened.options.width != corpus.width:
        raise ElmoError(
            f"{corpus.path}: its vectors are {corpus.width} wide, those of {model} are {opened.options.width} wide; "
            "name the model that embedded it (--model)"
        )
    line, first = next(iter(corpus))
    there = corpus.vectors(line, len(first))
    known, new = opened.bilm().to(chosen).encode([first, words])
    choices = [corpus.layers] if corpus.has_layers else ["mean", "top", *map(str, range(len(known)))]
    cosines = [_cosine(pick(known, how).ravel(), there.ravel()[None])[0] for how in choices]
    best = int(np.argmax(cosines))
    if cosines[best] < _SAME_MODEL:
        raise ElmoError(
            f"{corpus.path}: its vectors are not from {model} (cosine {cosines[best]:.2f} on line {line}); "
            "name the model that embedded it (--model)"
        )
    return Query(words, position, pick(new, choices[best])[position])


def neighbours(
    corpus: EmbeddedCorpus, query: Query, any_word: bool = False, top: int = 10, show_progress: bool = False
) -> list[Use]:
    """Return the uses whose vectors have the highest cosine with the query's vector, nearest first.

    The query itself is left out, also at the same position in repetitions of its sentence. The corpus is read as a
    stream.

    any_word: compare with every token, not only with uses of the same word.

    Raises:
        ElmoError: `top` is below 1, or the corpus has no other use of the word or is damaged.
    """
    if top < 1:
        raise ElmoError(f"top is {top}, expected at least 1 use to find")
    word = query.words[query.position]
    best: dict[tuple[str, int], Use] = {}
    for vectors, places in _chunks(corpus, query, None if any_word else word, show_progress):
        cosines = _cosine(query.vector, vectors)
        found: dict[tuple[str, int], Use] = {}
        for i in np.argsort(-cosines, kind="stable"):
            line, position, words = places[i]
            use = Use(float(cosines[i]), line, position, words[position], " ".join(words))
            found.setdefault((use.sentence, position), use)
            if len(found) == top:
                break
        ranked = sorted({**found, **best}.items(), key=lambda item: (-item[1].similarity, item[1].line))
        best = dict(ranked[:top])
    if not best:
        raise ElmoError(f"{corpus.path}: has no other use of {word!r}; add --any-word to compare with all words")
    return list(best.values())


def _chunks(
    corpus: EmbeddedCorpus, query: Query, word: str | None, show_progress: bool
) -> Iterator[tuple[Array, list[tuple[int, int, list[str]]]]]:
    """Yield vectors `[n, width]` and their line, position and sentence, for one word or, with None, for all."""
    size = max(1, _CHUNK_BYTES // (4 * corpus.width))
    rows: list[Array] = []
    places: list[tuple[int, int, list[str]]] = []
    with progress_bar(show_progress, "comparing", unit=" sentences") as bar:
        for line, words in corpus:
            bar.update(1)
            own = query.position if words == query.words else None
            here = [i for i, other in enumerate(words) if word in (None, other) and i != own]
            if not here:
                continue
            rows += list(corpus.vectors(line, len(words))[here])
            places += [(line, i, words) for i in here]
            if len(rows) >= size:
                yield np.array(rows), places
                rows, places = [], []
    if rows:
        yield np.array(rows), places


def _cosine(vector: Array, vectors: Array) -> Array:
    """Return the cosine of each vector; 0 if one of the two is zero. vector: `[width]`; vectors: `[n, width]`."""
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(vector)
    cosines: Array = vectors @ vector / np.where(norms > 0, norms, 1.0)
    return cosines


def table(query: Query, uses: Sequence[Use]) -> str:
    """Return the uses as readable lines, with the word in brackets."""
    lines = [f"{'cosine':<8}{'line':>6}  {_marked(query.words, query.position)}"]
    lines += [f"{use.similarity:<8.3f}{use.line:>6}  {_marked(use.sentence.split(), use.position)}" for use in uses]
    return "\n".join(lines)


def _marked(words: Sequence[str], position: int) -> str:
    return " ".join([*words[:position], f"[{words[position]}]", *words[position + 1 :]])
