"""A Doc in, what the biLM reads of its tokens out, and bytes that tell later whether that has changed."""

from array import array
from collections.abc import Iterable
from typing import Literal

from spacy.attrs import IDS
from spacy.tokens import Doc

from spacy_elmo.errors import ElmoError

Attr = Literal["ORTH", "LEMMA", "NORM", "LOWER"]
ATTRS: tuple[Attr, ...] = ("ORTH", "LEMMA", "NORM", "LOWER")


def texts_of(doc: Doc, attr: Attr = "ORTH") -> list[str]:
    """Return what is read of each token. This is its text if the attribute is empty, as in the Docs that only show
    `nlp.initialize` the shapes."""
    if attr == "ORTH":
        return [token.text for token in doc]
    return [getattr(token, f"{attr.lower()}_") or token.text for token in doc]


def check_attr(docs: Iterable[Doc], attr: Attr) -> None:
    """Raise an ElmoError if a token has nothing to read because no component has set the attribute."""
    if attr != "LEMMA":  # spaCy sets the others itself
        return
    for doc in docs:
        for token in doc:
            if not token.lemma and not token.is_space:
                raise ElmoError(
                    f'elmo: attr = "LEMMA", but the token {token.text!r} has no lemma; put a lemmatizer before elmo, '
                    "and in training list it in [training] annotating_components"
                )


def words_of(doc: Doc, attr: Attr = "ORTH", start: int = 0, end: int | None = None) -> bytes:
    """Return bytes that tell whether what is read of tokens `start` to `end` has changed: spaCy's 64-bit hash of each,
    which is the same in every process. They are compared exactly, which costs less than one more hash over them."""
    if start == 0 and end is None:
        words: bytes = doc.to_array(IDS[attr]).tobytes()
        return words
    return array("Q", [getattr(token, attr.lower()) for token in doc[start:end]]).tobytes()
