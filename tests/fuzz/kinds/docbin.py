"""`DocBin`s whose Docs contain `doc._.elmo`, `doc._.elmo_layers` and what belongs to them."""

import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import models
import numpy as np
import spacy
import srsly
from changes import damage, odd_value
from spacy.tokens import Doc, DocBin

from spacy_elmo import restore_hooks
from spacy_elmo.errors import ElmoError
from spacy_elmo.pipeline.annotations import LAYERS, VECTORS, WORDS

_SENTENCES = (["the", "bank", "of", "the", "wörd"], ["a", " ", "b"])


class Kind:
    """Half are changed before they are packed with zlib's checksum. What spaCy refuses counts as refused."""

    def __init__(self, seeds: Path) -> None:
        models.characters(seeds)
        self._nlp = spacy.blank("xx")
        self._nlp.add_pipe("elmo", config={"keep_layers": True, "model": {"weights": str(seeds), "device": "cpu"}})
        self._docs = [self._nlp(Doc(self._nlp.vocab, words=words)) for words in _SENTENCES]
        self._honest = DocBin(store_user_data=True, docs=self._docs).to_bytes()

    def make(self, rng: Random, folder: Path) -> bool:
        behind = rng.random() < 0.5
        (folder / "docs.spacy").write_bytes(self._changed(rng) if behind else damage(rng, self._honest))
        return behind

    def honest(self) -> Iterator[models.Files]:
        yield {"docs.spacy": self._honest}

    def read(self, folder: Path, behind: bool) -> None:
        docs = self._read_by_spacy(folder / "docs.spacy")
        errors = list[ElmoError]()
        for number, doc in enumerate(docs):
            for use in _USES:
                try:
                    use(doc)
                except ElmoError as error:
                    errors.append(error)
            if not behind:
                honest = self._docs[number]
                assert [token.text for token in doc] == [token.text for token in honest], "other words"
                assert np.array_equal(doc._.elmo, honest._.elmo), "other vectors"
                assert np.array_equal(doc._.elmo_layers, honest._.elmo_layers), "other layers"
            again = self._nlp(doc)  # whatever the Doc contained
            assert again._.elmo.shape == (len(doc), again._.elmo.shape[1])
            assert np.isfinite(again.vector).all(), "what lay there stayed"
        if errors:
            raise errors[0]

    def _read_by_spacy(self, path: Path) -> list[Doc]:
        try:
            return list(DocBin().from_bytes(path.read_bytes()).get_docs(self._nlp.vocab))
        except Exception as error:  # from spaCy, msgpack and zlib; none of our code runs here
            raise ElmoError(f"spaCy cannot read it ({type(error).__name__})") from None

    def _changed(self, rng: Random) -> bytes:
        message = srsly.msgpack_loads(zlib.decompress(self._honest))
        number = rng.randrange(len(self._docs))
        data = dict(self._docs[number].user_data)
        for _ in range(rng.choice((1, 1, 2))):
            key = rng.choice((VECTORS, VECTORS, LAYERS, WORDS))
            if rng.random() < 0.1:
                data.pop(key, None)
            elif key == WORDS:
                data[key] = _writable(_odd_words(rng, self._docs[number].user_data[WORDS]))
            else:
                data[key] = _odd_array(rng, self._docs[number].user_data[key])
        message["user_data"][number] = srsly.msgpack_dumps(list(data.items()))
        return zlib.compress(srsly.msgpack_dumps(message), 1)


def _odd_words(rng: Random, honest: bytes) -> Any:
    return rng.choice(
        (
            lambda: damage(rng, honest),
            lambda: honest[:-8],
            lambda: honest + honest,
            lambda: b"",
            lambda: "text",
            lambda: 7,
            lambda: [1, 2],
            lambda: np.zeros(3, np.uint64),
        )
    )()


def _odd_array(rng: Random, honest: Any) -> Any:
    """Return another array, or something that is not an array."""
    changes: tuple[Callable[[], Any], ...] = (
        lambda: honest[..., :-1, :],
        lambda: np.concatenate([honest, honest], axis=rng.randrange(honest.ndim)),
        lambda: honest[..., 0],
        lambda: honest[None],
        lambda: honest.flatten(),
        lambda: honest[..., :0],
        lambda: honest[:0],
        lambda: np.float32(1.5),
        lambda: np.asarray(1.5),
        lambda: honest.astype(rng.choice(("f2", "f8", ">f4", ">f8", "i4", "u1", "c8", "?", "S4", "U4", "i8"))),
        lambda: np.full_like(honest, rng.choice((np.nan, np.inf, -np.inf, 3e38, 1e-45, 0))),
        lambda: honest[..., ::-1],
        lambda: np.zeros(honest.shape, [("a", "f4"), ("b", "i2")]),
        lambda: np.zeros((10**6, 0), np.float32),
        lambda: honest.tolist(),
        lambda: {"a": honest},
        lambda: [honest],
        lambda: odd_value(rng),
        lambda: _with_odd_head(rng, honest),
    )
    return _writable(rng.choice(changes)())


def _with_odd_head(rng: Random, honest: Any) -> dict[bytes, Any]:
    """Return an array as msgpack writes it, but with a header that declares another shape or type."""
    return {
        b"nd": rng.choice((True, True, False, 1, "x")),
        b"type": rng.choice(("<f4", "<f8", "|O", "<f2", "<U3", "junk", 7, "<f4,<f4")),
        b"kind": rng.choice((b"", b"V", b"O", "")),
        b"shape": rng.choice((list(honest.shape), [-1, 4], [2**40, 2], [0], [], [honest.size], "x", None)),
        b"data": rng.choice((honest.tobytes(), honest.tobytes()[:-1], b"", rng.randbytes(40), "x")),
    }


def _writable(value: Any) -> Any:
    """Return the value if msgpack can write it: no lone surrogates, no integers of more than 64 bits."""
    try:
        srsly.msgpack_dumps(value)
    except Exception:
        return "not to be written"
    return value


def _similar_span(doc: Doc) -> None:
    doc[:2]._.elmo_similarity(doc[-1])


def _hooked(doc: Doc) -> None:
    restore_hooks(doc)
    for item in (doc, doc[0:2], doc[-1]):
        item.vector  # noqa: B018 (it may raise)
        item.has_vector  # noqa: B018
        item.vector_norm  # noqa: B018
        item.similarity(doc[0])


def _merged(doc: Doc) -> None:
    copied = doc.copy()
    with copied.retokenize() as retokenizer:
        retokenizer.merge(copied[0:2])
    with suppress(ElmoError):  # raised if the vectors belonged to the words before the merge
        copied._.elmo  # noqa: B018


def _cut_out(doc: Doc) -> None:
    with suppress(ElmoError):  # a Doc of a part has none of its vectors
        doc[0:1].as_doc().vector  # noqa: B018


_USES: tuple[Callable[[Doc], Any], ...] = (
    lambda doc: doc._.elmo,
    lambda doc: doc._.elmo_layers,
    lambda doc: [token._.elmo for token in doc],
    lambda doc: [doc[start:end]._.elmo for start in range(len(doc)) for end in range(start + 1, len(doc) + 1)],
    lambda doc: doc._.elmo_similarity(doc[0]),
    lambda doc: doc[0]._.elmo_similarity(doc[-1]),
    _similar_span,
    _hooked,
    _merged,
    lambda doc: doc.copy()._.elmo,
    _cut_out,
)
