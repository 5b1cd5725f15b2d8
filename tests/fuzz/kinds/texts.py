"""Ten random texts of any characters through the component: in one batch, in another order, and each alone."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import spacy
from spacy.tokens import Doc

from spacy_elmo.pipeline.shim import shim_of

_TINY = Path(__file__).resolve().parents[2] / "data" / "tiny_2l_skip"
_TEXTS = 10
_MOST_TOKENS = 50  # up to which random text has the same vectors in any batch (docs/performance.md)
_TOLERANCE = 1e-5
_WORDS = (
    *("the", "bank", "of", "a", "river", ",", "und", "groß", "Zoë", "l'œuvre", "東京", "กรุงเทพ", "संस्कृत", "עברית"),
    *("العربية", "😀", "👩\u200d👩\u200d👧", "do not", "U.S.A.", "e.g.", "http://x.y/z?a=b", "1,000.5", "#x", "@y"),
)
_BLOCKS = (
    (0x20, 0x7F),
    (0x20, 0x7F),
    (0, 0x20),
    (0x80, 0x250),
    (0x300, 0x370),
    (0x370, 0x600),
    (0x600, 0x700),
    (0x900, 0xE80),
    (0x2000, 0x2070),
    (0x3040, 0xA000),
    (0xAC00, 0xD7A4),
    (0xE000, 0x10000),
    (0x1F000, 0x1FB00),
    (0xE0000, 0xE01F0),
    (0x10000, 0x110000),
)


class Kind:
    """Uses the tiny model, and in every twentieth case the bundled one, which takes longer. No text is refused.

    SPACY_ELMO_PRECISION chooses a precision, and SPACY_ELMO_ISA, as always, the instructions.
    """

    def __init__(self, seeds: Path) -> None:
        self._pipelines = {
            name: _pipeline(weights) for name, weights in (("tiny", str(_TINY)), ("bundled", "en_elmo_sm"))
        }

    def make(self, rng: Random, folder: Path) -> bool:
        name = "bundled" if rng.random() < 0.05 else "tiny"
        (folder / f"{name}.json").write_text(json.dumps([_text(rng) for _ in range(_TEXTS)]))
        return False

    def honest(self) -> Iterator[dict[str, bytes]]:
        for name in self._pipelines:
            yield {f"{name}.json": json.dumps(["The bank is open.", "", "Wörd \u3000 word"]).encode()}

    def read(self, folder: Path, behind: bool) -> None:
        path = next(folder.iterdir())
        nlp, texts = self._pipelines[path.stem], json.loads(path.read_text())
        bilm = shim_of(nlp.get_pipe("elmo").model).bilm
        with nlp.memory_zone():
            bilm.clear_word_table()
            together = [_checked(doc, bilm.options.width) for doc in nlp.pipe(texts)]
            turned = [_checked(doc, bilm.options.width) for doc in nlp.pipe(texts[::-1], batch_size=3)][::-1]
            for text, *batched in zip(texts, together, turned, strict=True):
                bilm.clear_word_table()
                alone = _checked(nlp(text), bilm.options.width)
                for vectors in batched:
                    assert vectors.shape == alone.shape, "another length"
                    if len(alone) <= _MOST_TOKENS:
                        difference = float(np.abs(vectors - alone).max(initial=0))
                        assert difference < _TOLERANCE, f"{difference:.1e} apart alone and in a batch: {text!r}"


def _pipeline(weights: str) -> Any:
    nlp = spacy.blank("xx")
    model = {"weights": weights, "device": "cpu", "precision": os.environ.get("SPACY_ELMO_PRECISION", "float32")}
    nlp.add_pipe("elmo", config={"model": model})
    nlp("load it")
    return nlp


def _checked(doc: Doc, width: int) -> Any:
    """Return a copy of the vectors: one per token, finite, and zero for white space."""
    vectors = doc._.elmo
    assert vectors.shape == (len(doc), width), f"{vectors.shape} of {len(doc)} tokens"
    assert np.isfinite(vectors).all(), f"not finite: {doc.text!r}"
    there = np.array([not token.is_space for token in doc], bool)
    assert (vectors.any(axis=1) == there).all(), f"a vector too many or too few: {doc.text!r}"
    return vectors.copy()


def _text(rng: Random) -> str:
    chance = rng.random()
    if chance < 0.03:
        return rng.choice(("", " ", "\n", "\t \r\n", "\u3000", "\ufeff", "\0", "\u200b"))
    if chance < 0.4:
        return "".join(_characters(rng, rng.randrange(1, 8)) for _ in range(rng.randrange(1, 7)))
    if chance < 0.5:
        return " ".join(_characters(rng, rng.randrange(1, 200)) for _ in range(rng.randrange(1, 4)))
    words = [_word(rng) for _ in range(rng.randrange(1, 16))]
    if chance < 0.55:
        words = words[:1] * rng.randrange(1, 50)
    elif chance < 0.6:
        words = words * rng.randrange(2, 20)
    return rng.choice((" ", " ", " ", "  ", "\n", "\u00a0")).join(words)


def _word(rng: Random) -> str:
    return rng.choice(_WORDS) if rng.random() < 0.8 else _characters(rng, rng.randrange(1, 6))


def _characters(rng: Random, number: int) -> str:
    block = rng.choice(_BLOCKS)
    return "".join(chr(rng.randrange(*block)) for _ in range(number))
