"""Spans in, spaCy's own answers without hooks out, and whether the retokenizer is asking."""

from opcode import opmap
from types import FrameType
from typing import Any

import numpy as np
from spacy.tokens import Span
from spacy.tokens._retokenize import Retokenizer


def vector_without_hooks(span: Span) -> Any:
    """Return what spaCy 3.8's `Span.vector` returns without hooks: the mean of what `Token.vector` returns."""
    vocab, tensor = span.vocab, _tensor_of(span)
    if not len(span):
        return np.zeros(vocab.vectors_length, dtype=np.float32)
    if vocab.vectors.size == 0 and tensor is not None:
        return sum(tensor[span.start : span.end]) / len(span)
    return sum(vocab.get_vector(key) for key in _keys_of_static_vectors(span)) / len(span)


def has_vector_without_hooks(span: Span) -> bool:
    """Return what spaCy 3.8's `Span.has_vector` returns without hooks."""
    if span.vocab.vectors.size:
        return any(span.vocab.has_vector(key) for key in _keys_of_static_vectors(span))
    return _tensor_of(span) is not None


def is_read_by_retokenizer(span: Span, frame: FrameType) -> bool:
    """Whether spaCy reads `span.vector` to write it into the vocab's static vectors, for a word that it merges.

    frame: the innermost Python frame below the hook. spaCy's retokenizer is compiled and has none.

    The retokenizer reads `span.vector` if the span's text has a zero static vector, just after it made a lexeme of the
    text (`_merge` in spacy/tokens/_retokenize.pyx). That also happens elsewhere, so we look for one of two more signs.
    One is a tensor that is shorter than the Doc: the retokenizer has cut the tensor, but not yet the Doc. The other is
    a `with doc.retokenize()` block that ends.
    """
    vocab: Any = span.vocab  # spaCy's stub gives `any` no bool
    if not vocab.vectors_length or span.text not in vocab or vocab.get_vector(span.text).any():
        return False
    tensor = _tensor_of(span)
    return (tensor is not None and len(tensor) < len(span.doc)) or _ends_retokenizing(frame)


def _ends_retokenizing(frame: FrameType) -> bool:
    """Whether the frame has a retokenizer and does not itself read an attribute, such as `span.vector`."""
    if frame.f_code.co_code[frame.f_lasti] == opmap["LOAD_ATTR"]:
        return False
    return any(isinstance(value, Retokenizer) for value in frame.f_locals.values())


def _tensor_of(span: Span) -> Any:
    """Return the tensor of the span's Doc; None if it is missing or empty."""
    tensor: Any = span.doc.tensor
    return tensor if tensor is not None and tensor.size else None


def _keys_of_static_vectors(span: Span) -> list[int]:
    keys: list[int] = span.doc.to_array(span.vocab.vectors.attr)[span.start : span.end].tolist()
    return keys
