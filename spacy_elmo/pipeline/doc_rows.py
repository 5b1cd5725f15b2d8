"""Rows by Doc: where `elmo` leaves what its listeners come for, for as long as the Doc lives, in this process only."""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spacy.attrs import ORTH
from spacy.tokens import Doc

from spacy_elmo.pipeline.encoder import Recording
from spacy_elmo.pipeline.rows import Array

if TYPE_CHECKING:
    from spacy_elmo.pipeline.linking import ListenedTo


@dataclass(frozen=True)
class DocRows:
    """What a Doc's listeners get.

    rows: `[n_tokens, row_width]`; maker: the component that made them, version: of its weights; words: `words_of`
    the Doc.
    recording: where gradients go, as those of Doc `number`; None where the biLM is not trained by them.
    """

    rows: Array
    maker: "ListenedTo"
    version: Any
    words: int
    recording: Recording | None = None
    number: int = 0


ROWS: weakref.WeakKeyDictionary[Doc, DocRows] = weakref.WeakKeyDictionary()


def words_of(doc: Doc) -> int:
    """What tells whether the words of a Doc have changed."""
    return hash(doc.to_array([ORTH]).tobytes())


def maker_of(docs: Iterable[Doc]) -> "ListenedTo | None":
    """The `elmo` component that has run on these Docs; None where it is not one, or several."""
    makers = {id(there.maker): there.maker for doc in docs if (there := ROWS.get(doc)) is not None}
    return next(iter(makers.values())) if len(makers) == 1 else None
