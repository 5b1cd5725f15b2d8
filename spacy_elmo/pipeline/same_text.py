"""Docs of training and of prediction in, a warning out if the biLM reads sentences in only one of the two."""

from collections.abc import Iterable

from spacy import util
from spacy.tokens import Doc

from spacy_elmo.pipeline.spans import GetSpans, reads_whole_docs


class SameText:
    """Compares what the biLM reads in training with what it reads later: sentences, or whole Docs.

    name: of the component; get_spans: as in `build_bilm`.
    setter: the component before this one that sets sentence boundaries, if known.
    """

    def __init__(self, name: str, get_spans: GetSpans, setter: str | None = None) -> None:
        self.name, self._get_spans, self._setter = name, get_spans, setter
        self._read_whole = self._read_sentences = self._is_warned = False

    def check_update(self, docs: Iterable[Doc]) -> None:
        """Check Docs that the component itself is trained with."""
        if self._setter is not None and _has_sentences(docs) is False:
            self._warn_of_whole_docs(repr(self._setter))

    def note_training(self, docs: Iterable[Doc], are_read_now: bool) -> None:
        """Note Docs that a listener is trained with.

        are_read_now: False if the biLM read them earlier, so that boundaries may have been set since then.
        """
        told = _has_sentences(docs)
        self._read_whole = self._read_whole or told is False
        self._read_sentences = self._read_sentences or (are_read_now and told is True)

    def check_prediction(self, docs: Iterable[Doc]) -> None:
        """Check Docs that are about to be annotated. If the component was not initialized (frozen, or from another
        pipeline), only this check shows that training was different."""
        told = _has_sentences(docs) if self._read_whole or self._read_sentences else None
        if told is True and self._read_whole:
            self._warn_of_whole_docs("some component")
        elif told is False and self._read_sentences:
            self._warn(
                f"{self.name}: in training the biLM read sentences, but in the trained pipeline no component sets them "
                f"before it, so it reads whole Docs. Put the component that sets them before {self.name}, or list "
                f"{self.name} in [training] annotating_components, so that it reads whole Docs in training, too"
            )

    def _warn_of_whole_docs(self, setter: str) -> None:
        self._warn(
            f"{self.name}: the training docs have no sentence boundaries, so the biLM reads each Doc as one sentence, "
            f"but in the trained pipeline {setter} sets boundaries before it. List {setter} in [training] "
            f"annotating_components (in Python: nlp.update(..., annotates=[{setter}]))"
        )

    def _warn(self, message: str) -> None:
        if not (self._is_warned or reads_whole_docs(self._get_spans)):
            self._is_warned = True
            util.logger.warning(message)


def _has_sentences(docs: Iterable[Doc]) -> bool | None:
    """Whether sentence boundaries are set in any of the Docs; None if all are too short to have any."""
    # For shorter ones, has_annotation is always True.
    told = [doc.has_annotation("SENT_START") for doc in docs if len(doc) > 1]
    return any(told) if told else None
