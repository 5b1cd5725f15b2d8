"""Doc in, token sequences out: what the biLM reads as one sentence."""

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
from spacy.attrs import IS_SPACE
from spacy.tokens import Doc, Span

from spacy_elmo.errors import ElmoError

GetSpans = Callable[[Doc], Iterable[Span]]


def sentence_spans() -> GetSpans:
    """Registered as `spacy-elmo.sentence_spans.v1`: the sentences if they are set, otherwise the whole Doc."""
    return _sentences


def doc_spans() -> GetSpans:
    """Registered as `spacy-elmo.doc_spans.v1`: the whole Doc as one sequence."""
    return _whole_doc


def reads_whole_docs(get_spans: GetSpans) -> bool:
    """Whether it is `doc_spans`, which ignores sentence boundaries."""
    return get_spans is _whole_doc


def reads_sentences(get_spans: GetSpans) -> bool:
    """Whether it is `sentence_spans`, which reads a Doc without boundaries as one sentence."""
    return get_spans is _sentences


def _sentences(doc: Doc) -> Iterable[Span]:
    return doc.sents if doc.has_annotation("SENT_START") else _whole_doc(doc)


def _whole_doc(doc: Doc) -> Iterable[Span]:
    return [doc[:]]


def token_sequences(doc: Doc, get_spans: GetSpans, max_length: int) -> list[npt.NDArray[np.int64]]:
    """Return the token indices of each sequence that the biLM reads: spans without whitespace tokens, cut into pieces
    of at most `max_length` tokens. No sequence is empty. Tokens that are in no span are in no sequence.

    Raises:
        ElmoError: two spans overlap, or one is of another Doc.
    """
    if not len(doc):
        return []
    words = doc.to_array([IS_SPACE]).reshape(-1) == 0
    free = np.ones(len(doc), dtype=bool)
    sequences: list[npt.NDArray[np.int64]] = []
    for span in get_spans(doc):
        if not isinstance(span, Span):
            raise ElmoError(f"get_spans returned {span!r}, expected spans of the Doc (doc[start:end])")
        if span.doc is not doc or not free[span.start : span.end].all():
            raise ElmoError(
                f"get_spans returned the span [{span.start}:{span.end}], which overlaps another or is of another Doc; "
                "each token gets one vector, so return spans of the given Doc that do not overlap"
            )
        free[span.start : span.end] = False
        indices = span.start + np.flatnonzero(words[span.start : span.end])
        sequences.extend(indices[start : start + max_length] for start in range(0, len(indices), max_length))
    return sequences
