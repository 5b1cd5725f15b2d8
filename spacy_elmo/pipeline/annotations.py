"""Vectors in, annotations on the Doc out: extension attributes, and hooks for vector and similarity.

The vectors are in `doc.user_data` under the keys that spaCy uses for extension attributes, so they follow the Doc
wherever those do (n_process, DocBin with `store_user_data`). Hooks do not; `restore_hooks` puts them back.
"""

import sys
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from spacy.tokens import Doc, Span, Token

from spacy_elmo.errors import ElmoError
from spacy_elmo.pipeline.attributes import ATTRS, Attr, words_of
from spacy_elmo.pipeline.without_hooks import has_vector_without_hooks, is_read_by_retokenizer, vector_without_hooks

Vector = npt.NDArray[np.float32]
HasVector = Doc | Span | Token

# Keys of doc.user_data; spaCy's stubs only know strings.
VECTORS: Any = ("._.", "elmo", None, None)
LAYERS: Any = ("._.", "elmo_layers", None, None)
# The words that both belong to, and the attribute that was read if it is not ORTH. These are not extensions, but
# because their keys have this form, as_doc and from_docs drop them together with the vectors.
WORDS: Any = ("._.", "elmo_words", None, None)
ATTR: Any = ("._.", "elmo_attr", None, None)

_SHAPES = {VECTORS: (2, "[n_tokens, width]"), LAYERS: (3, "[n_layers + 1, n_tokens, layer_width]")}

# Key of user_span_hooks. as_doc shares these with the new Doc, and they are not serialized.
_WARNED = "elmo_warned"

# In a Doc of up to this many tokens, reading one token compares all words (about 15 ns each), in a longer one only
# those around it.
_COMPARED_WHOLE = 256
_COMPARED_AROUND = 4
_HASH_BYTES = 8

_NAMES: dict[Any, str] = {"LEMMA": "lemmas", "NORM": "norms"}


def annotate(doc: Doc, vectors: Vector, layers: Vector | None, hooks: bool, tensor: bool, attr: Attr = "ORTH") -> None:
    """Put vectors on a Doc.

    vectors: `[n_tokens, width]`, zero for tokens without a vector; layers: `[n_layers + 1, n_tokens, layer_width]`.
    hooks: whether `vector`, `has_vector`, `vector_norm` and `similarity` use these vectors; tensor: whether to set
        `doc.tensor`.
    attr: the attribute that was read of each token.
    """
    doc.user_data[VECTORS] = vectors
    _note_words(doc, attr)
    if layers is None:
        doc.user_data.pop(LAYERS, None)
    else:
        doc.user_data[LAYERS] = layers
    if hooks:
        _set_hooks(doc)
    if tensor:
        doc.tensor = vectors  # type: ignore[assignment]  # spaCy's stub wants float64; Tok2Vec sets float32


def _note_words(doc: Doc, attr: Attr) -> None:
    doc.user_data[WORDS] = words_of(doc, attr)
    if attr == "ORTH":
        doc.user_data.pop(ATTR, None)
    else:
        doc.user_data[ATTR] = attr


def stored_vectors(doc: Doc) -> Vector | None:
    """Return what `annotate` put on the Doc, unchecked."""
    vectors: Vector | None = doc.user_data.get(VECTORS)
    return vectors


def restore_hooks(doc: Doc) -> Doc:
    """Make `vector`, `has_vector`, `vector_norm` and `similarity` of a Doc and its parts use `doc._.elmo`, as they do
    after the `elmo` component. Hooks are lost when a Doc is serialized (n_process, DocBin, to_bytes).

    Returns the Doc.

    Raises:
        ElmoError: the Doc has no ELMo vectors.
    """
    _vectors_of(doc, 0, len(doc))
    _set_hooks(doc)
    return doc


def _set_hooks(doc: Doc) -> None:
    doc.user_hooks.update(vector=_doc_vector, has_vector=_has_vector, vector_norm=_norm, similarity=similarity)
    # No "vector_norm" for spans: spaCy 3.8 calls the hook "vector" instead.
    doc.user_span_hooks.update(vector=_span_vector, has_vector=_span_has_vector, similarity=similarity)
    doc.user_span_hooks.pop(_WARNED, None)
    doc.user_token_hooks.update(vector=_token_vector, has_vector=_has_vector, vector_norm=_norm, similarity=similarity)


def similarity(one: HasVector, other: Any) -> float:
    """Return the cosine of the ELMo vectors of two tokens, spans or Docs; 0.0 if one has no vector (whitespace).

    Available as `token._.elmo_similarity(other)`, which needs no hooks. `other` may also be anything else with a
    `vector` of the same width.

    Raises:
        ElmoError: there are no ELMo vectors, or the widths differ.
    """
    a, b = elmo_vector(one), elmo_vector(other)
    if a.shape != b.shape:
        raise ElmoError(
            f"similarity: {one!r} has an ELMo vector of width {len(a)}, but {other!r} has a vector of width {len(b)}; "
            "run the same elmo component over both"
        )
    norms = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(a @ b) / norms if norms else 0.0


def elmo_vector(item: Any) -> Vector:
    """Return the ELMo vector of a token, span or Doc (the mean over tokens that have one). For anything else, return
    its own vector."""
    if isinstance(item, Token):
        vector: Vector = _vectors_of(item.doc, item.i, item.i + 1)[item.i]
        return vector
    if isinstance(item, Span):
        return _mean(_vectors_of(item.doc, item.start, item.end)[item.start : item.end])
    if isinstance(item, Doc):
        return _mean(_vectors_of(item, 0, len(item)))
    other: Vector = np.asarray(item.vector)
    return other


def _vectors_of(doc: Doc, start: int, end: int) -> Vector:
    """Return the vectors of the Doc, `[n_tokens, width]`, after a check for the tokens `start` to `end`."""
    vectors: Vector | None = _checked(doc, VECTORS, start, end)
    if vectors is None:
        raise ElmoError(
            "this Doc has no ELMo vectors: elmo was disabled or did not run, or as_doc or from_docs made the Doc and "
            'dropped them; run nlp.get_pipe("elmo") on it'
        )
    return vectors


def _mean(vectors: Vector) -> Vector:
    """Return the mean over the rows that are not zero; zero if all are."""
    there = vectors[vectors.any(axis=1)]
    mean: Vector = there.mean(axis=0) if len(there) else np.zeros(vectors.shape[1], dtype=np.float32)
    return mean


# Checked values from the Doc: it may have been retokenized since, or come from a file.


def _checked(doc: Doc, key: Any, start: int, end: int) -> Any:
    """Return the whole value under the key, checked to belong to these tokens; None if there is none."""
    value = doc.user_data.get(key)
    if value is None:
        return None
    _check_array(key, value)
    if (stored := value.shape[-2]) != len(doc):
        raise _retokenized(key, f"holds {stored} tokens, but the Doc now has {len(doc)}")
    # spaCy replaces a tensor that has rows whenever it merges or splits tokens (_retokenize.pyx).
    if doc.tensor is not value and _words_differ(doc, start, end):
        raise _retokenized(key, f"belongs to other {_NAMES.get(doc.user_data.get(ATTR), 'words')} than the Doc now has")
    return value


def _check_array(key: Any, value: Any) -> None:
    n_dims, shape = _SHAPES[key]
    if not (isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim == n_dims):
        given = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
        raise ElmoError(
            f"doc._.{key[1]}: expected an array of floats {shape}, got {given}; run the elmo component on the Doc again"
        )


def _words_differ(doc: Doc, start: int, end: int) -> bool:
    """Whether these tokens, or others near them, have other words than the ones that the vectors were made from."""
    stored = doc.user_data.get(WORDS)
    if stored is None:  # a DocBin of an earlier version
        return False
    attr = doc.user_data.get(ATTR, "ORTH")
    if not isinstance(stored, bytes) or attr not in ATTRS:
        return True
    if end - start == len(doc) or len(doc) <= _COMPARED_WHOLE:
        return stored != words_of(doc, attr)
    start, end = max(0, start - _COMPARED_AROUND), min(len(doc), end + _COMPARED_AROUND)
    return stored[_HASH_BYTES * start : _HASH_BYTES * end] != words_of(doc, attr, start, end)


def _retokenized(key: Any, what: str) -> ElmoError:
    return ElmoError(
        f"doc._.{key[1]} {what}: the Doc was retokenized after the elmo component. "
        "Put the retokenizing component before elmo, or run elmo again"
    )


# Getters and setters of the extension attributes


def _get_doc(doc: Doc) -> Any:
    return _checked(doc, VECTORS, 0, len(doc))


def _set_doc(doc: Doc, vectors: Vector | None) -> None:
    _set(doc, VECTORS, vectors, LAYERS)


def _get_layers(doc: Doc) -> Any:
    return _checked(doc, LAYERS, 0, len(doc))


def _set_layers(doc: Doc, layers: Vector | None) -> None:
    _set(doc, LAYERS, layers, VECTORS)


def _set(doc: Doc, key: Any, value: Vector | None, other: Any) -> None:
    """Put an array on the Doc; other: key of another array that may be there and that belongs to the same words."""
    if value is not None:
        _check_settable(doc, key, value)
        if _words_differ(doc, 0, len(doc)):
            doc.user_data.pop(other, None)  # it belongs to the old words
        _note_words(doc, "ORTH")
    doc.user_data[key] = value


def _check_settable(doc: Doc, key: Any, value: Any) -> None:
    _check_array(key, value)
    if value.shape[-2] != len(doc):
        raise ElmoError(
            f"doc._.{key[1]}: the Doc has {len(doc)} tokens, but the array {_SHAPES[key][1]} is for {value.shape[-2]}"
        )


def _get_span(span: Span) -> Any:
    vectors = _checked(span.doc, VECTORS, span.start, span.end)
    return None if vectors is None else vectors[span.start : span.end]


def _get_token(token: Token) -> Any:
    vectors = _checked(token.doc, VECTORS, token.i, token.i + 1)
    return None if vectors is None else vectors[token.i]


# Hooks


def _doc_vector(doc: Doc) -> Vector:
    return elmo_vector(doc)


def _token_vector(token: Token) -> Vector:
    return elmo_vector(token)


def _has_vector(item: HasVector) -> bool:
    return bool(elmo_vector(item).any())


def _norm(item: HasVector) -> float:
    return float(np.linalg.norm(elmo_vector(item)))


# Hooks of spans. Two parts of spaCy read span.vector even if nobody asks for vectors: Span.as_doc (span.pyx), which
# displacy and the entity linker call, and the retokenizer, which puts it into the vocab's table of static vectors.


def _span_vector(span: Span) -> Any:
    doc: Any = span.doc
    if doc.tensor is None:  # from doc_cleaner; as_doc reads this hook first, and then would fail to slice the tensor
        doc.tensor = np.zeros(0, dtype=np.float32)  # as on a new Doc
    if is_read_by_retokenizer(span, sys._getframe(1)):
        return vector_without_hooks(span)
    try:
        return elmo_vector(span)
    except ElmoError:
        _warn_once(doc)
        return vector_without_hooks(span)


def _span_has_vector(span: Span) -> bool:
    try:
        return _has_vector(span)
    except ElmoError:
        _warn_once(span.doc)
        return has_vector_without_hooks(span)


def _warn_once(doc: Doc) -> None:
    if _WARNED in doc.user_span_hooks:
        return
    doc.user_span_hooks[_WARNED] = _warn_once
    warnings.warn(
        "span.vector does not come from elmo here: the Doc was retokenized after elmo, or has no ELMo vectors (as_doc "
        "and doc_cleaner drop them). You get spaCy's own vector. For ELMo vectors, run elmo on this Doc",
        stacklevel=3,
    )


def register_extensions() -> None:
    """Register `elmo`, `elmo_layers` and `elmo_similarity`, unless they are already registered."""
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


register_extensions()  # on import, so that worker processes have them too
