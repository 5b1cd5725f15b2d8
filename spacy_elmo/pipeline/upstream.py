"""What listeners, ours and spaCy's, know of the `elmo` component that they listen to, and how they warn if it did not
run."""

import warnings
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from spacy.tokens import Doc

from spacy_elmo.bilm import BiLMOptions
from spacy_elmo.pipeline.rows import Array
from spacy_elmo.pipeline.weights import Weights


class Upstream(Protocol):
    """The part of an `elmo` component that listeners see; `Hub` implements it."""

    name: str

    @property
    def weights(self) -> Weights:
        """The weights of its biLM."""

    @property
    def learns(self) -> bool:
        """Whether its biLM is trained with the task."""

    def read_weights(self) -> BiLMOptions:
        """Read the weights of its biLM, if they are not in memory, and return its options. It stays off its device."""

    def read_identity(self) -> str:
        """As `read_weights`, but return `Weights.identity`."""

    def ran_at(self, doc: Doc) -> int | None:
        """Return when it ran on a Doc, as a number that grows; None if it did not."""

    def missing(self, docs: Iterable[Doc]) -> list[Doc]:
        """Return the Docs that the current biLM has not run on in their current form."""

    def rows(self, docs: Sequence[Doc], is_train: bool = False) -> list[Array]:
        """Return all layers of Docs, `[n_tokens, row_width]` each (see `rows.py`), computed if necessary."""

    def add_gradients(self, docs: Sequence[Doc], gradients: Sequence[Array]) -> None:
        """Take the gradients of a listener for what `rows` returned for Docs."""

    def note_training(self, docs: Sequence[Doc]) -> None:
        """Note that a listener is trained on these Docs."""


class Absences:
    """Warns of Docs that the component upstream has not run on. Samples are left out: thinc's `initialize` gives them
    only to learn about shapes, so it is right that no component has annotated them."""

    def __init__(self) -> None:
        self._samples: weakref.WeakSet[Doc] = weakref.WeakSet()

    def expect(self, samples: Iterable[Doc]) -> None:
        """Note that these are samples."""
        self._samples.update(samples)

    def warn(self, docs: Sequence[Doc], upstream_name: str, listener_name: str, consequence: str) -> None:
        """Warn of Docs, and name the consequence."""
        if all(doc in self._samples for doc in docs):
            return
        warnings.warn(
            f"{listener_name}: {upstream_name!r}, which it listens to, has not run on a Doc before it, or the Doc was "
            f"changed since then (is {upstream_name!r} disabled?); {consequence}",
            stacklevel=3,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Absences, ()  # Docs are not copied
