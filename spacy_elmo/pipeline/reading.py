"""Docs in, what the biLM reads of them out: sentences as lists of words, and the position of each word."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from spacy.tokens import Doc

from spacy_elmo.errors import ElmoError
from spacy_elmo.pipeline.attributes import Attr, texts_of
from spacy_elmo.pipeline.spans import GetSpans, token_sequences


@dataclass(frozen=True)
class Reading:
    """What the biLM reads of some Docs.

    sentences: their words.
    places: for each sentence, the number of its Doc and the indices of its tokens there, `[n_tokens]`.
    lengths: of the Docs, including tokens that are not read.
    """

    sentences: list[list[str]]
    places: list[tuple[int, npt.NDArray[np.int64]]]
    lengths: list[int]

    @classmethod
    def of(cls, docs: Sequence[Doc], get_spans: GetSpans, max_length: int, attr: Attr = "ORTH") -> "Reading":
        """Read Docs; get_spans, max_length, attr: as `get_spans`, `max_sequence_length` and `attr` of
        `spacy-elmo.BiLM.v1`.

        Raises:
            ElmoError: see `token_sequences`; or a word of a Doc was removed when a memory zone ended.
        """
        places = [
            (number, indices)
            for number, doc in enumerate(docs)
            for indices in token_sequences(doc, get_spans, max_length)
        ]
        try:
            texts = [texts_of(doc, attr) for doc in docs]
        except KeyError as error:  # E018
            raise ElmoError(
                "a Doc has a word that is missing from its vocabulary: the memory zone in which the Doc was made has "
                "ended, or one that another thread opened at the same time. Only use a Doc within its zone, and give "
                "each thread that opens zones its own pipeline"
            ) from error
        sentences = [[texts[number][i] for i in indices] for number, indices in places]
        return cls(sentences, places, [len(doc) for doc in docs])

    def by_content(self) -> dict[Any, int]:
        """Return the numbers of the Docs by what is read of them, and where. Docs without such content are left out."""
        contents: dict[int, list[Any]] = {}
        for sentence, (number, indices) in zip(self.sentences, self.places, strict=True):
            contents.setdefault(number, []).append((tuple(sentence), indices.tobytes()))
        return {(self.lengths[number], *content): number for number, content in contents.items()}
