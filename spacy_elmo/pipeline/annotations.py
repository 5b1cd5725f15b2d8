"""Vectors in, annotations on the Doc out: extension attributes, and hooks for vector and similarity.

The vectors lie in `doc.user_data` under the keys spaCy uses for extension attributes, so that they follow the
Doc wherever those do (n_process, DocBin with `store_user_data`). Hooks do not; `restore_hooks` puts them back.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from spacy.tokens import Doc, Span, Token

from spacy_elmo.errors import ElmoError

Vector = npt.NDArray[np.float32]
HasVector = Doc | Span | Token

# Keys of doc.user_data; spaCy's stubs know strings only.
VECTORS: Any = ("._.", "elmo", None, None)
LAYERS: Any = ("._.", "elmo_layers", None, None)


def annotate(doc: Doc, vectors: Vector, layers: Vector | None, hooks: bool, tensor: bool) -> None:
    """Put vectors on a Doc.

    vectors: `[n_tokens, width]`, zero where a token has none; layers: `[n_layers + 1, n_tokens, layer_width]`.
    hooks: answer `vector`, `has_vector`, `vector_norm` and `similarity` from them; tensor: set `doc.tensor`.
    """
    doc.user_data[VECTORS] = vectors
    if layers is None:
        doc.user_data.pop(LAYERS, None)
    else:
        doc.user_data[LAYERS] = layers
    if hooks:
        restore_hooks(doc)
    if tensor:
        doc.tensor = vectors  # type: ignore[assignment]  # spaCy's stub wants float64; Tok2Vec sets float32


def stored_vectors(doc: Doc) -> Vector | None:
    """What `annotate` put on the Doc, unchecked."""
    vectors: Vector | None = doc.user_data.get(VECTORS)
    return vectors


def restore_hooks(doc: Doc) -> Doc:
    """Let `vector`, `has_vector`, `vector_norm` and `similarity` of a Doc and its parts answer from `doc._.elmo`,
    as they do behind the `elmo` component. Hooks are lost when a Doc is serialized (n_process, DocBin, to_bytes).

    Returns the Doc.

    Raises:
        ElmoError: the Doc has no ELMo vectors.
    """
    _stored(doc)
    doc.user_hooks.update(vector=_doc_vector, has_vector=_has_vector, vector_norm=_norm, similarity=similarity)
    # No "vector_norm" for spans: spaCy 3.8 calls the hook "vector" in its place.
    doc.user_span_hooks.update(vector=_span_vector, has_vector=_has_vector, similarity=similarity)
    doc.user_token_hooks.update(vector=_token_vector, has_vector=_has_vector, vector_norm=_norm, similarity=similarity)
    return doc


def similarity(one: HasVector, other: Any) -> float:
    """Cosine of the ELMo vectors of two tokens, spans or Docs; 0.0 where one has none (whitespace).

    Available as `token._.elmo_similarity(other)`, which needs no hooks. `other` may also be anything else with a
    `vector` of the same width.

    Raises:
        ElmoError: there are no ELMo vectors, or the widths differ.
    """
    a, b = elmo_vector(one), elmo_vector(other)
    if a.shape != b.shape:
        raise ElmoError(
            f"similarity: {one!r} has an ELMo vector of width {len(a)}, {other!r} a vector of width {len(b)}; "
            "run the same elmo component over both"
        )
    norms = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(a @ b) / norms if norms else 0.0


def elmo_vector(item: Any) -> Vector:
    """ELMo vector of a token, span or Doc (mean over tokens that have one), else the item's own vector."""
    if isinstance(item, Token):
        vector: Vector = _stored(item.doc)[item.i]
        return vector
    if isinstance(item, Span):
        return _mean(_stored(item.doc)[item.start : item.end])
    if isinstance(item, Doc):
        return _mean(_stored(item))
    other: Vector = np.asarray(item.vector)
    return other


def _stored(doc: Doc) -> Vector:
    vectors: Vector | None = _get_doc(doc)
    if vectors is None:
        raise ElmoError(
            "this Doc has no ELMo vectors: elmo was disabled or not run, or the Doc was made with as_doc or from_docs, "
            'which drop them; run nlp.get_pipe("elmo") on it'
        )
    return vectors


def _mean(vectors: Vector) -> Vector:
    """Mean over the rows that are not zero; zero where all are."""
    there = vectors[vectors.any(axis=1)]
    mean: Vector = there.mean(axis=0) if len(there) else np.zeros(vectors.shape[1], dtype=np.float32)
    return mean


def _checked(doc: Doc, key: Any, axis: int) -> Any:
    value = doc.user_data.get(key)
    if value is not None and value.shape[axis] != len(doc):
        raise ElmoError(
            f"doc._.{key[1]} holds {value.shape[axis]} tokens, the Doc now has {len(doc)}: it was retokenized behind "
            "the elmo component. Put the retokenizing component before elmo, or run elmo again"
        )
    return value


def _get_doc(doc: Doc) -> Any:
    return _checked(doc, VECTORS, 0)


def _set_doc(doc: Doc, vectors: Vector | None) -> None:
    doc.user_data[VECTORS] = vectors


def _get_layers(doc: Doc) -> Any:
    return _checked(doc, LAYERS, 1)


def _set_layers(doc: Doc, layers: Vector | None) -> None:
    doc.user_data[LAYERS] = layers


def _get_span(span: Span) -> Any:
    vectors = _get_doc(span.doc)
    return None if vectors is None else vectors[span.start : span.end]


def _get_token(token: Token) -> Any:
    vectors = _get_doc(token.doc)
    return None if vectors is None else vectors[token.i]


def _doc_vector(doc: Doc) -> Vector:
    return elmo_vector(doc)


def _span_vector(span: Span) -> Vector:
    return elmo_vector(span)


def _token_vector(token: Token) -> Vector:
    return elmo_vector(token)


def _has_vector(item: HasVector) -> bool:
    return bool(elmo_vector(item).any())


def _norm(item: HasVector) -> float:
    return float(np.linalg.norm(elmo_vector(item)))


def register_extensions() -> None:
    """Register `elmo`, `elmo_layers` and `elmo_similarity`, where they are not there yet."""
    for kind, name, how in (
        (Doc, "elmo", {"getter": _get_doc, "setter": _set_doc}),
        (Doc, "elmo_layers", {"getter": _get_layers, "setter": _set_layers}),
        (Span, "elmo", {"getter": _get_span}),
        (Token, "elmo", {"getter": _get_token}),
        (Doc, "elmo_similarity", {"method": similarity}),
        (Span, "elmo_similarity", {"method": similarity}),
        (Token, "elmo_similarity", {"method": similarity}),
    ):
        if not kind.has_extension(name):
            kind.set_extension(name, **how)


register_extensions()  # on import, so that it holds in worker processes too
