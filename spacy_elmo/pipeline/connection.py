"""A listener's side of its connection to `elmo`: whom it listens to, and which weights it was trained with."""

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

from spacy.tokens import Doc

from spacy_elmo.bilm import BiLMOptions
from spacy_elmo.errors import WeightsError
from spacy_elmo.pipeline.processes import NeedsWeights
from spacy_elmo.pipeline.upstream import Absences, Upstream
from spacy_elmo.pipeline.weak import Weak
from spacy_elmo.pipeline.weights import TrainedWith, Version

T = TypeVar("T", bound="Connection")


class Connection(NeedsWeights):
    """The connection of a listener, ours or spaCy's, to the `elmo` component upstream.

    listener_name: of the listener's component.
    trained_with: the weights that the listener was trained with.
    """

    def __init__(self) -> None:
        self.listener_name = ""
        self.trained_with = TrainedWith()
        self.absences = Absences()
        # All upstreams that it was connected to, the latest last, since a component may be in two pipelines. Weak, so
        # that a pipeline that is dropped is freed at once.
        self._upstreams: list[Weak[Upstream]] = []
        self._fitting: Version | None = None  # the version of the weights that passed the last check

    @property
    def upstream(self) -> Upstream | None:
        """The component that it was last connected to, of those that still exist."""
        living = self._living
        return living[-1] if living else None

    @property
    def _living(self) -> list[Upstream]:
        return [upstream for weak in self._upstreams if (upstream := weak()) is not None]

    def connect(self, upstream: Upstream, listener_name: str) -> None:
        """Listen to this component from now on."""
        if self.upstream is not upstream and self.trained_with.learning is None:
            self.pin()  # weights that are trained know their own state, and may be trained further
        self.disconnect(upstream)
        self._upstreams.append(Weak(upstream))
        self.listener_name = listener_name

    def disconnect(self, upstream: Upstream) -> None:
        """Stop listening to this component."""
        self._upstreams = [weak for weak in self._upstreams if weak() not in (None, upstream)]

    def begin(self) -> None:
        """Forget all training."""
        self.trained_with, self._fitting = TrainedWith(), None

    def pin(self) -> None:
        """Note the current weights as those that it was trained with, because others are about to replace them."""
        if self.trained_with.is_trained:
            self.trained_with.load(self.identity)

    def load(self, identity: str | None) -> None:
        """Use the record of a training with the weights of this identity."""
        self.trained_with.load(identity)
        self._fitting = None

    @property
    def identity(self) -> str | None:
        """Identity of the weights that it was trained with, or else of those that it listens to."""
        trained_with, upstream = self.trained_with, self.upstream
        if trained_with.identity is not None:
            return trained_with.identity
        weights = trained_with.learning or (upstream and upstream.weights)
        return weights.identity if weights else None

    def upstream_of(self, docs: Sequence[Doc]) -> Upstream | None:
        """Return the component upstream, if there is one. If two pipelines share a listener, this is the one that ran
        on the Docs, or else the one that it was last connected to."""
        return (self._that_ran_on(docs) if len(self._upstreams) > 1 else None) or self.upstream

    def _that_ran_on(self, docs: Sequence[Doc]) -> Upstream | None:
        """Return the component that ran last on these Docs; None if there is not exactly one."""
        living = self._living
        found: dict[int, Upstream] = {}
        for doc in docs:
            ran = [(when, number) for number, hub in enumerate(living) if (when := hub.ran_at(doc)) is not None]
            if ran:
                number = max(ran)[1]
                found[number] = living[number]
        return next(iter(found.values())) if len(found) == 1 else None

    def check(self, upstream: Upstream, is_train: bool = False) -> None:
        """Check that the component upstream fits. Done again only if its weights have changed.

        Raises:
            WeightsError: its weights are not those that the listener was trained with.
            ElmoError: its vectors have another width.
        """
        weights = upstream.weights
        if weights.version == self._fitting:
            return
        if not (is_train and self._is_left_behind(upstream)) and self.trained_with.is_other_than(weights):
            raise self._of_other_weights(upstream.name, weights.identity)
        self.check_mix(upstream.name, weights.bilm.options)
        self._fitting = weights.version

    def read_weights(self) -> None:
        """Read the weights upstream, and check that they fit, as `check` does. The biLM stays off its device.

        If two pipelines share the listener, only the Docs will show which upstream it is, so nothing is checked.
        """
        if (upstream := self.upstream) is None:
            return
        options, trained_with = upstream.read_weights(), self.trained_with
        if len(self._living) > 1:
            return
        if trained_with.identity is not None and (found := upstream.read_identity()) != trained_with.identity:
            raise self._of_other_weights(upstream.name, found)
        self.check_mix(upstream.name, options)

    def _of_other_weights(self, upstream_name: str, found: str) -> WeightsError:
        return WeightsError(
            f"{self.listener_name}: was trained with other weights than {upstream_name!r} has now (digest "
            f"{str(self.identity)[:12]}… there, {found[:12]}… here). Load the pipeline with its own "
            "elmo (save or copy it again if that was interrupted), give the component its own biLM before elmo is "
            "trained further (replace_listeners), or train the component again"
        )

    def check_mix(self, upstream_name: str, options: BiLMOptions) -> None:
        """Do nothing: spaCy's listeners are checked when their vectors are made. Ours override this."""

    def _is_left_behind(self, upstream: Upstream) -> bool:
        """Whether the listener read nothing in the first batches of a training, and the biLM learned from others."""
        return upstream.learns and self.trained_with.fits_before(upstream.weights)

    def __deepcopy__(self: T, memo: dict[int, Any]) -> T:
        copied = copy.copy(self)
        copied.trained_with = copy.copy(self.trained_with)
        copied.trained_with.learning = memo.get(id(self.trained_with.learning), self.trained_with.learning)
        copied._upstreams = copy.deepcopy(self._upstreams, memo)
        return copied
