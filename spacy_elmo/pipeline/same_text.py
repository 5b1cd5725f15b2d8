"""Docs trained on and Docs predicted in, a warning out where the biLM reads sentences in one and not in the other."""

from collections.abc import Iterable

from spacy import util
from spacy.tokens import Doc

from spacy_elmo.pipeline.spans import GetSpans, reads_whole_docs


class SameText:
    """What the biLM has read in training, compared with what it is to read later: sentences, or whole Docs.

    name: of the component; get_spans: as of `build_bilm`.
    setter: the component before this one that sets sentence boundaries, where known.
    """

    def __init__(self, name: str, get_spans: GetSpans, setter: str | None = None) -> None:
        self.name, self._get_spans, self._setter = name, get_spans, setter
        self._read_whole = self._read_sentences = self._is_warned = False

    def check_update(self, docs: Iterable[Doc]) -> None:
        """Look at Docs that the component itself is trained with."""
        if self._setter is not None and _has_sentences(docs) is False:
            self._warn_of_whole_docs(repr(self._setter))

    def note_training(self, docs: Iterable[Doc], are_read_now: bool) -> None:
        """Look at Docs that a listener is trained with; are_read_now: else the biLM has read them before, and since
        then boundaries may have been set."""
        told = _has_sentences(docs)
        self._read_whole = self._read_whole or told is False
        self._read_sentences = self._read_sentences or (are_read_now and told is True)

    def check_prediction(self, docs: Iterable[Doc]) -> None:
        """Look at Docs that are to be annotated. A component that was not initialized (frozen, or from another
        pipeline) shows only here that training went otherwise."""
        told = _has_sentences(docs) if self._read_whole or self._read_sentences else None
        if told is True and self._read_whole:
            self._warn_of_whole_docs("some component")
        elif told is False and self._read_sentences:
            self._warn(
                f"{self.name}: in training the biLM read sentences, but in the trained pipeline none are set before "
                f"it, so that it reads whole Docs. Put the component that sets them before {self.name}, or list "
                f"{self.name} in [training] annotating_components, so that it reads whole Docs in training, too"
            )

    def _warn_of_whole_docs(self, setter: str) -> None:
        self._warn(
            f"{self.name}: the training docs have no sentence boundaries, so that the biLM reads each as one sentence; "
            f"in the trained pipeline {setter} sets some before it. List {setter} in [training] annotating_components "
            f"(from Python: nlp.update(..., annotates=[{setter}]))"
        )

    def _warn(self, message: str) -> None:
        if not (self._is_warned or reads_whole_docs(self._get_spans)):
            self._is_warned = True
            util.logger.warning(message)


def _has_sentences(docs: Iterable[Doc]) -> bool | None:
    """Whether sentence boundaries are set in any of the Docs; None where all are too short to have some."""
    told = [doc.has_annotation("SENT_START") for doc in docs if len(doc) > 1]  # of shorter ones it is always said
    return any(told) if told else None
