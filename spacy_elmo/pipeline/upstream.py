"""What listeners, ours and spaCy's, know of the `elmo` component that they listen to, and how they say that it did not
run."""

import warnings
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from spacy.tokens import Doc

from spacy_elmo.pipeline.rows import Array
from spacy_elmo.pipeline.weights import Weights


class Upstream(Protocol):
    """The side of an `elmo` component that listeners see; `Hub` is it."""

    name: str

    @property
    def weights(self) -> Weights:
        """The weights of its biLM."""

    @property
    def learns(self) -> bool:
        """Whether its biLM is trained with the task."""

    def read_weights(self) -> object:
        """Read the weights of its biLM, if they are not in memory."""

    def ran_at(self, doc: Doc) -> int | None:
        """When it ran on a Doc, as a number that grows; None where it did not."""

    def missing(self, docs: Iterable[Doc]) -> list[Doc]:
        """Those of the Docs that the biLM, as it is now, has not run on, as they are now."""

    def rows(self, docs: Sequence[Doc], is_train: bool = False) -> list[Array]:
        """All layers of Docs, `[n_tokens, row_width]` each (see `rows.py`), computed where they are not there yet."""

    def add_gradients(self, docs: Sequence[Doc], gradients: Sequence[Array]) -> None:
        """Take the gradients of a listener for what `rows` gave of Docs."""

    def note_training(self, docs: Sequence[Doc]) -> None:
        """A listener is trained on these Docs."""


class Absences:
    """Warns of Docs that the component upstream has not run on; but not of samples, which thinc's `initialize` gives to
    learn about shapes only: nobody has annotated those, and that is all right."""

    def __init__(self) -> None:
        self._samples: weakref.WeakSet[Doc] = weakref.WeakSet()

    def expect(self, samples: Iterable[Doc]) -> None:
        """These are samples."""
        self._samples.update(samples)

    def warn(self, docs: Sequence[Doc], upstream_name: str, listener_name: str, consequence: str) -> None:
        """Warn of Docs, and say what follows."""
        if all(doc in self._samples for doc in docs):
            return
        warnings.warn(
            f"{listener_name}: {upstream_name!r}, which it listens to, has not run on a Doc before it, or the Doc was "
            f"changed since (is {upstream_name!r} disabled?); {consequence}",
            stacklevel=3,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Absences, ()  # Docs do not go along
