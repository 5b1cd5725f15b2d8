"""Where the weights of a biLM come from, how their states are told apart, and which weights a listener was trained
with."""

from dataclasses import dataclass
from typing import Any

import torch

from spacy_elmo import formats
from spacy_elmo.bilm import BiLM
from spacy_elmo.bilm.products import Precision
from spacy_elmo.bilm.threads import ForkSafeLock, Threads
from spacy_elmo.errors import WeightsError

Version = tuple[int, ...]

RANDOM = "random"  # instead of a path


@dataclass(frozen=True)
class WeightsSource:
    """Where a biLM is read from, and how it is run.

    path: bundled name, directory, archive or file; "random" for random weights; None if none is named.
    device, precision, threads: as in `spacy-elmo.BiLM.v1`, but with the device that was chosen.
    """

    path: str | None
    device: str
    precision: Precision = "float32"
    threads: Threads = "auto"

    def read(self) -> BiLM:
        """Read the biLM.

        Raises:
            ElmoError: it cannot be read; see `formats.load`.
        """
        if self.path is None:
            raise WeightsError(
                "elmo: model.weights is null (is a variable of the config not set?), expected the name or path of "
                f'weights, or "{RANDOM}" for random weights'
            )
        return _random_bilm() if self.path == RANDOM else formats.load(self.path)

    def prepare(self, bilm: BiLM) -> BiLM:
        """Move a biLM to the device, and set its precision and number of threads; none of its weights is trained."""
        with torch.inference_mode(False):
            bilm = bilm.to(self.device).eval().requires_grad_(False)
            bilm.set_precision(self.precision)
            bilm.set_threads(self.threads)
            return bilm


@torch.inference_mode(False)
def _random_bilm() -> BiLM:
    options = formats.open_model(formats.BUNDLED).options
    return BiLM(options, card={"description": f'random weights, asked for with weights = "{RANDOM}"'})


class Weights:
    """A biLM in memory, from when it is loaded until another replaces it.

    number: distinguishes it from every other one of this process; is_of_source: whether `WeightsSource` read it.
    is_learning: whether training has begun to change it; has_learned: whether it was changed.
    identity_before: its `identity` before training began to change it.
    """

    def __init__(self, bilm: BiLM, number: tuple[int, int], is_of_source: bool) -> None:
        self.bilm, self.is_of_source = bilm, is_of_source
        self.is_learning = self.has_learned = False
        self.identity_before: str | None = None
        self._number = number
        self._digests: dict[bool, tuple[Version, str]] = {}
        self._lock = ForkSafeLock()

    @property
    def version(self) -> Version:
        """Distinguishes this state of the weights from every other within this process."""
        return (*self._number, *(parameter._version for parameter in self.bilm.parameters()))

    @property
    def digest(self) -> str:
        """`formats.digest` of the biLM, only computed again if its weights have changed."""
        return self._make_digest(rounded=False)

    @property
    def identity(self) -> str:
        """The digest of the rounded weights, the same in every precision."""
        return self._make_digest(rounded=True)

    def _make_digest(self, rounded: bool) -> str:
        with self._lock:
            version = self.version
            if rounded not in self._digests or self._digests[rounded][0] != version:
                self._digests[rounded] = (version, formats.digest(self.bilm, rounded))
            return self._digests[rounded][1]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=ForkSafeLock())


class TrainedWith:
    """Which weights a listener was trained with.

    identity: of these weights; None if it was not trained, or if the weights were trained together with it.
    learning: the weights in that case, so that their current state is known even if their component is gone.
    is_trained: whether it was trained at all.
    """

    def __init__(self) -> None:
        self.identity: str | None = None
        self.learning: Weights | None = None
        self.is_trained = False

    def note(self, weights: Weights, learns: bool) -> None:
        """Note that the listener is trained with these weights; learns: whether they are trained, too."""
        self.identity, self.learning = (None, weights) if learns else (weights.identity, None)
        self.is_trained = True

    def load(self, identity: str | None) -> None:
        """Use the record of a training with the weights of this identity, or, if it is None, with those upstream."""
        self.identity, self.learning, self.is_trained = identity, None, True

    def is_other_than(self, weights: Weights) -> bool:
        """Whether the listener was trained with weights other than these."""
        if self.learning is not None:
            return self.learning is not weights and self.learning.identity != weights.identity
        return self.identity is not None and self.identity != weights.identity

    def fits_before(self, weights: Weights) -> bool:
        """Whether it was trained with these weights as they were before they were trained."""
        return self.identity == weights.identity_before
