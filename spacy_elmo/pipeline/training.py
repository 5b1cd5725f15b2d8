"""A training of the pipeline as `elmo` sees it: the recordings of the batch, the postponed step, and what is read."""

from collections.abc import Sequence
from typing import Any

from spacy import util
from spacy.tokens import Doc
from thinc.api import Optimizer

from spacy_elmo.pipeline.encoder import Recording
from spacy_elmo.pipeline.same_text import SameText
from spacy_elmo.pipeline.shim import Encoder, shim_of


class TrainingSession:
    """One training: from `initialize`, or else the first batch, until the next training begins or other weights are
    loaded.

    name: of the component; setter: the component before it that sets sentence boundaries, if known.
    same_text: compares what is read in this training with what is read in prediction.
    """

    def __init__(self, name: str, model: Encoder, setter: str | None = None) -> None:
        self.name = name
        self.same_text = SameText(name, model.attrs["get_spans"], setter)
        self._model = model
        self._recordings: list[Recording] = []  # listeners may still give gradients for these
        self._postponed: Optimizer | None = None
        self._loss = 0.0
        self._is_warned_of_gradients = False

    def begin_batch(self, docs: Sequence[Doc]) -> float:
        """Finish the previous batch: take the step that `finish_update` postponed. Returns its loss."""
        self.backprop()
        if self._postponed is not None:
            shim_of(self._model).finish_update(self._postponed)
            self._postponed = None
        self.same_text.check_update(docs)
        loss, self._loss = self._loss, 0.0
        return loss

    def record(self, docs: Sequence[Doc]) -> Recording:
        """Run the biLM over Docs to train it on them."""
        recording = Recording(self._model, docs)
        self._recordings.append(recording)
        return recording

    def find(self, doc: Doc) -> tuple[Recording, int] | None:
        """Return the recording of a Doc with the same text, and its number there: some components train on copies.

        If there is none, but others were recorded, warn: what is learned from this Doc is lost.
        """
        for recording in self._recordings:
            if (number := recording.find(doc)) is not None:
                return recording, number
        if self._recordings and not all(token.is_space for token in doc):
            self._warn_of_lost_gradients()
        return None

    def is_learning_from(self, recording: Recording | None) -> bool:
        """Whether listeners may still give gradients for a recording."""
        return any(recording is pending for pending in self._recordings)

    def finish_update(self, optimizer: Optimizer) -> None:
        """Let the optimizer change the weights.

        `nlp.update` with an optimizer calls this before the listeners have learned from the batch. Then the step is
        postponed to the start of the next batch (spaCy's Tok2Vec is one step late there, too).
        """
        if any(not recording.has_gradients for recording in self._recordings):
            self._postponed = optimizer
        else:
            self.backprop()
            shim_of(self._model).finish_update(optimizer)

    def backprop(self) -> None:
        """Learn from the recordings, with the weights that they were made with."""
        recordings, self._recordings = self._recordings, []
        self._loss += sum(recording.backprop() for recording in recordings)

    def _warn_of_lost_gradients(self) -> None:
        if not self._is_warned_of_gradients:
            self._is_warned_of_gradients = True
            util.logger.warning(
                "%s: a component that listens to it trains on Docs with other text than the batch that elmo got; what "
                "it learns from them does not reach the biLM",
                self.name,
            )

    def __getstate__(self) -> dict[str, Any]:
        # Recordings stay in this process, because autograd's graphs cannot be copied.
        return {**self.__dict__, "_recordings": [], "_postponed": None}
