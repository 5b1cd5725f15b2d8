"""The biLM of a thinc model, in the form that thinc needs to copy, serialize and train it with the model."""

import contextlib
import copy
import io
import multiprocessing
import os
import weakref
from collections.abc import Iterator
from multiprocessing.util import register_after_fork
from typing import Any

import srsly
import torch
from spacy import language, util
from spacy.tokens import Doc
from thinc.api import Model, Optimizer
from thinc.shims import Shim

from spacy_elmo import formats
from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.bilm.threads import ForkSafeLock
from spacy_elmo.errors import ElmoError, WeightsError
from spacy_elmo.formats import bilm_hdf5, lexicons_json
from spacy_elmo.pipeline.finetuning import FineTuning, to_tensor
from spacy_elmo.pipeline.processes import NeedsWeights
from spacy_elmo.pipeline.rows import Array
from spacy_elmo.pipeline.weights import Weights, WeightsSource
from spacy_elmo.support import strict_json
from spacy_elmo.support.messages import named
from spacy_elmo.support.sealed import seal, unseal
from spacy_elmo.support.workers import end_with_parent, when_started

Encoder = Model[list[Doc], list[Array]]


_alive: "weakref.WeakSet[BiLMShim]" = weakref.WeakSet()


def _prepare_for_fork() -> None:
    """Load the biLMs before a process forks (as `n_process` does), so that all processes share the memory of the
    weights. Not on a GPU, because a forked process cannot use it once its parent has."""
    for shim in list(_alive):
        if torch.device(shim.source.device).type == "cpu":
            with contextlib.suppress(ElmoError):  # the error shows when the weights are needed
                shim.bilm.prepare()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_prepare_for_fork)


def _end_worker_with_parent(alive: "weakref.WeakSet[BiLMShim]") -> None:
    """End a worker of `nlp.pipe(n_process=...)` when the process that started it is killed, because spaCy's worker
    would wait for text forever. Other processes of the user are not affected."""
    if alive and getattr(multiprocessing.current_process(), "_target", None) is language._apply_pipes:
        end_with_parent()


register_after_fork(_alive, _end_worker_with_parent)  # for forked workers; `__setstate__` does it for spawned ones


class BiLMShim(Shim, NeedsWeights):
    """Holds the biLM of a thinc model.

    source: where it is read from when it is first needed.
    tuning: which parts are trained; `set_tuning` and `unfreeze` change that.
    """

    def __init__(self, source: WeightsSource) -> None:
        super().__init__(None)
        self.source = source
        self.tuning = FineTuning()
        self._weights: Weights | None = None
        self._read: BiLM | None = None  # from `read_weights`, until it is needed
        self._n_loaded = 0
        self._lock = ForkSafeLock()
        _alive.add(self)

    # The biLM

    @property
    def weights(self) -> Weights:
        """The biLM and the state of its weights. Loads them if necessary.

        Raises:
            ElmoError: the weights cannot be read; see `formats.load`.
        """
        with self._lock:
            if self._weights is None:
                bilm, self._read = self._read or self.source.read(), None
                self._weights = self._take(bilm, is_of_source=True)
            return self._weights

    def read_weights(self) -> BiLMOptions:
        """Read the weights, if they are not in memory, and return the options of the biLM. The biLM is only moved to
        its device when it is needed: a forked process cannot use a GPU that its parent has used.

        Raises:
            ElmoError: as `weights`.
        """
        return self._read_bilm().options

    def read_identity(self) -> str:
        """As `read_weights`, but return `Weights.identity`."""
        weights = self._weights
        return formats.digest(self._read_bilm(), rounded=True) if weights is None else weights.identity

    def _read_bilm(self) -> BiLM:
        with self._lock:
            if self._weights is not None:
                return self._weights.bilm
            if self._read is None:
                self._read = self.source.read()
            return self._read

    @property
    def is_loaded(self) -> bool:
        """Whether the biLM is in memory."""
        return self._weights is not None

    @property
    def bilm(self) -> BiLM:
        """The biLM. Loads it if necessary; raises the same errors as `weights`."""
        return self.weights.bilm

    @property
    def digest(self) -> str:
        """`formats.digest` of the biLM."""
        return self.weights.digest

    def set(self, bilm: BiLM) -> None:
        """Use this biLM from now on."""
        with self._lock:
            self._weights, self._read = self._take(bilm, is_of_source=False), None

    def _take(self, bilm: BiLM, is_of_source: bool) -> Weights:
        self._n_loaded += 1
        return Weights(self.source.prepare(bilm), (self.id, self._n_loaded), is_of_source)

    # Training

    @property
    def trainable(self) -> bool:
        """Whether the weights are trained, or at least the parts that `unfreeze` names."""
        return self.tuning.trainable

    @property
    def lr_scale(self) -> float:
        """The weights' learning rate is `lr_scale` times the training's."""
        return self.tuning.lr_scale

    @property
    def learns(self) -> bool:
        """Whether any weight is trained now."""
        return self.tuning.learns

    @property
    def is_learning(self) -> bool:
        """Whether a training is currently changing the weights."""
        return self.learns and self._weights is not None and self._weights.is_learning

    def set_tuning(self, trainable: bool, lr_scale: float) -> None:
        """Set whether the weights are trained, and at how many times the training's learning rate.

        Raises:
            ElmoError: they are to be trained, but their precision is for frozen weights.
        """
        if trainable and self.source.precision != "float32":
            raise ElmoError(
                f'elmo: precision = "{self.source.precision}" is for frozen weights; set frozen = true, or train in '
                '"float32"'
            )
        self._tune(FineTuning(trainable, lr_scale, self.tuning.n_top))

    def unfreeze(self, n_top: int | None) -> None:
        """Train only the `n_top` topmost parts of trainable weights (LSTM layers from the top down, then the character
        CNN); None: all."""
        self._tune(FineTuning(self.trainable, self.lr_scale, n_top))

    def _tune(self, tuning: FineTuning) -> None:
        with self._lock:
            self.tuning = tuning
            if self._weights is not None:
                tuning.grant_gradients(self._weights)

    def begin_learning(self) -> None:
        """Turn on gradients for the weights that are trained."""
        weights = self.weights
        with self._lock:
            self.tuning.begin(weights)

    def forget_learning(self, name: str) -> None:
        """Go back to the weights of the source. If the weights were loaded with a pipeline, keep what they have learned
        since, and warn. name: of the component, for the warning."""
        with self._lock:
            if self._weights is None or not self._weights.has_learned:
                return
            if self.can_forget_learning:
                self._weights = None  # read again when next needed
                return
        util.logger.warning(
            "%s: its biLM was fine-tuned after it was loaded with the pipeline, and training continues from there; to "
            "start from the loaded weights, load the pipeline again",
            name,
        )

    @property
    def can_forget_learning(self) -> bool:
        """Whether `forget_learning` drops the weights, to read them from the source again."""
        return self._weights is not None and self._weights.has_learned and self._weights.is_of_source

    def finish_update(self, optimizer: Optimizer) -> None:
        """Let the optimizer change the weights that have gradients."""
        if self._weights is not None:
            self.tuning.step(self._weights, self.id, optimizer)

    @contextlib.contextmanager
    def use_params(self, params: dict[Any, Any]) -> Iterator[None]:
        """Use other weights for a while, by shim id and name: the averages of an optimizer."""
        named = {} if self._weights is None else dict(self._weights.bilm.named_parameters())
        own = {name: parameter for name, parameter in named.items() if (self.id, name) in params}
        kept = {name: parameter.detach().clone() for name, parameter in own.items()}
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(to_tensor(params[self.id, name], parameter))
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in own.items():
                    parameter.copy_(kept[name])

    # Serialization

    def to_bytes(self) -> bytes:
        """Return the whole model: weights, options, vocabulary and card."""
        bilm = self.bilm
        parts = {
            "options": bilm.options.to_dict(),
            "card": bilm.card,
            "vocabulary": bilm.vocabulary,
            "weights": bilm_hdf5.to_bytes(bilm),
        }
        if bilm.lexicons is not None:
            parts["lexicons"] = lexicons_json.to_dict(bilm.lexicons)
        return seal(srsly.msgpack_dumps(parts))

    def from_bytes(self, data: bytes) -> "BiLMShim":
        """Take over what `to_bytes` gave.

        Raises:
            ElmoError: these are other or damaged bytes.
        """
        data = unseal(data, "elmo: the bytes to load")
        try:
            parts = srsly.msgpack_loads(data)
            weights = io.BytesIO(parts["weights"])
            options, vocabulary, card = parts["options"], parts["vocabulary"], parts["card"]
            stored = parts.get("lexicons")  # of models of ELMoForManyLangs
            strict_json.check([card, vocabulary])
            if not isinstance(card, dict):
                raise TypeError(f"a model card is an object, not {type(card).__name__}")
        except Exception as error:  # msgpack raises many types of its own
            raise WeightsError(f"elmo: the bytes to load hold no biLM, or are damaged ({named(error)})") from None
        lexicons = None if stored is None else lexicons_json.from_dict(stored, "lexicons in bytes")
        parsed = BiLMOptions.from_dict(options, "options in bytes")
        self.set(bilm_hdf5.read(weights, parsed, vocabulary, card, lexicons))
        return self

    def copy(self) -> "BiLMShim":
        """Return a copy with its own id, so that an optimizer keeps the two apart."""
        copied = BiLMShim(self.source)
        copied.tuning = copy.copy(self.tuning)
        if self._weights is not None:
            copied.set(copy.deepcopy(self._weights.bilm))
        return copied

    def to_device(self, device_type: str, device_id: int) -> None:
        """Do nothing: we choose the device (setting `device`), not thinc."""

    def __getstate__(self) -> dict[str, Any]:
        # As in `_prepare_for_fork`: a spawned process gets tensors as shared memory.
        with contextlib.suppress(ElmoError):
            _ = self.bilm
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"_read": None, **state}, _lock=ForkSafeLock())  # earlier versions had no `_read`
        _alive.add(self)
        when_started(lambda: _end_worker_with_parent(_alive))


def shim_of(model: Encoder) -> BiLMShim:
    """Return the shim with the biLM of a model that `build_bilm` made.

    Raises:
        ElmoError: it is another model.
    """
    for shim in model.shims:
        if isinstance(shim, BiLMShim):
            return shim
    raise ElmoError(f"elmo: the model {model.name!r} has no biLM; set [components.elmo.model] to spacy-elmo.BiLM.v1")
