"""The biLM of a thinc model: read when first needed, serialized whole, trained where asked to."""

import contextlib
import copy
import io
import os
import weakref
from collections.abc import Iterator
from typing import Any

import srsly
import torch
from spacy import util
from spacy.tokens import Doc
from thinc.api import Model
from thinc.shims import Shim

from spacy_elmo import formats
from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.bilm.products import Precision
from spacy_elmo.bilm.threads import ForkSafeLock, Threads
from spacy_elmo.errors import ElmoError, WeightsError
from spacy_elmo.formats import bilm_hdf5, lexicons_json
from spacy_elmo.pipeline.rows import Array

Encoder = Model[list[Doc], list[Array]]


_alive: "weakref.WeakSet[BiLMShim]" = weakref.WeakSet()


def _prepare_for_fork() -> None:
    """Load before a process forks (`n_process` does), so that all processes share the memory of the weights; not on a
    GPU, which a forked process cannot use any more once its parent has."""
    for shim in list(_alive):
        if torch.device(shim.device).type == "cpu":
            with contextlib.suppress(ElmoError):  # who needs the weights will be told
                shim.bilm.prepare()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_prepare_for_fork)


class BiLMShim(Shim):
    """Holds the biLM of a thinc model: reads it when first needed, serializes it whole, trains it where asked to.

    source: where the weights come from until they are loaded; None for random ones.
    device, precision, threads: as of `build_bilm`.
    is_of_source: whether the weights are from there; has_learned: whether they were changed since they were loaded.
    trainable: whether the weights are trained; lr_scale: times which the training's learning rate holds for them.
    """

    def __init__(
        self, source: str | None, device: str, precision: Precision = "float32", threads: Threads = "auto"
    ) -> None:
        super().__init__(None)
        self.source, self.device, self.precision, self.threads = source, device, precision, threads
        self.lr_scale = 1.0
        self._trainable = self._has_begun = False
        self._unfrozen: int | None = None
        self._n_loaded = 0
        self.is_of_source = self.has_learned = False
        self.identity_before: str | None = None  # of the weights as they were when they began to learn
        self._digests: dict[bool, tuple[Any, str]] = {}
        self._lock = ForkSafeLock()
        _alive.add(self)

    @property
    def bilm(self) -> BiLM:
        """The biLM, loaded now if it was not yet.

        Raises:
            ElmoError: the weights cannot be read; see `formats.load`.
        """
        with self._lock:
            if self._model is None:
                self.set(_random_bilm() if self.source is None else formats.load(self.source))
                self.is_of_source = True
            model: BiLM = self._model
            return model

    def set(self, bilm: BiLM) -> None:
        """Use this biLM from now on."""
        with self._lock, torch.inference_mode(False):
            self._model = bilm.to(self.device).eval().requires_grad_(False)
            self._model.set_precision(self.precision)
            self._model.set_threads(self.threads)
            self._digests.clear()
            self._n_loaded += 1
            self._has_begun, self.identity_before = False, None
            self.is_of_source = self.has_learned = False

    def begin_anew(self, name: str) -> None:
        """Go back to the weights as the source has them; where these were loaded with a pipeline, keep what was learned
        since, and warn. name: of what is told to begin."""
        if not self.has_learned:
            return
        if self.is_of_source:
            with self._lock:
                self._model = None  # read again when needed next
        else:
            util.logger.warning(
                "%s: its biLM was fine-tuned after it was loaded with the pipeline, and goes on from there; to begin "
                "with the weights as they were, load the pipeline anew",
                name,
            )

    @property
    def trainable(self) -> bool:
        """Whether the weights are trained, or at least those that `unfreeze` names."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        if value and self.precision != "float32":
            raise ElmoError(
                f'elmo: precision = "{self.precision}" is for frozen weights; set frozen = true, or train in "float32"'
            )
        self._trainable = value
        self._grant_gradients()

    def unfreeze(self, n_top: int | None) -> None:
        """Of trainable weights, train only the `n_top` topmost parts (LSTM layers from above, then the character
        CNN); None: all."""
        self._unfrozen = n_top
        self._grant_gradients()
        if n_top == 0:
            self._has_begun = False

    @property
    def learns(self) -> bool:
        """Whether any weight is to be trained now."""
        return self.trainable and self._unfrozen != 0

    def begin_learning(self) -> None:
        """Let gradients reach the weights that are trained. Before this they are as good as frozen, and as fast."""
        if not self._has_begun:
            self.identity_before = self.identity
        self._has_begun = True
        self._grant_gradients()

    def _grant_gradients(self) -> None:
        with self._lock:
            if self._model is None or not self._has_begun:
                return
            parts = [*reversed(self._model.layers), self._model.embedder]
            for number, part in enumerate(parts):
                part.requires_grad_(self.trainable and (self._unfrozen is None or number < self._unfrozen))

    @property
    def version(self) -> tuple[int, ...]:
        """What tells one state of the weights from another within this process."""
        return (self._n_loaded, *(parameter._version for parameter in self.bilm.parameters()))

    @property
    def digest(self) -> str:
        """`formats.digest` of the biLM, computed again only when its weights have changed."""
        return self._make_digest(rounded=False)

    @property
    def identity(self) -> str:
        """The digest of the rounded weights, the same in every precision."""
        return self._make_digest(rounded=True)

    def _make_digest(self, rounded: bool) -> str:
        bilm = self.bilm
        with self._lock:
            version = self.version
            if rounded not in self._digests or self._digests[rounded][0] != version:
                self._digests[rounded] = (version, formats.digest(bilm, rounded))
            return self._digests[rounded][1]

    def to_bytes(self) -> bytes:
        """The whole model: weights, options, vocabulary and card."""
        bilm = self.bilm
        parts = {
            "options": bilm.options.to_dict(),
            "card": bilm.card,
            "vocabulary": bilm.vocabulary,
            "weights": bilm_hdf5.to_bytes(bilm),
        }
        if bilm.lexicons is not None:
            parts["lexicons"] = lexicons_json.to_dict(bilm.lexicons)
        data: bytes = srsly.msgpack_dumps(parts)
        return data

    def from_bytes(self, data: bytes) -> "BiLMShim":
        """Take over what `to_bytes` gave.

        Raises:
            ElmoError: these are other or damaged bytes.
        """
        try:
            parts = srsly.msgpack_loads(data)
            weights = io.BytesIO(parts["weights"])
            options, vocabulary, card = parts["options"], parts["vocabulary"], parts["card"]
            stored = parts.get("lexicons")  # of models of ELMoForManyLangs
        except (ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"elmo: the bytes to load hold no biLM, or are damaged ({error!r})") from None
        lexicons = None if stored is None else lexicons_json.from_dict(stored, "lexicons in bytes")
        parsed = BiLMOptions.from_dict(options, "options in bytes")
        self.set(bilm_hdf5.read(weights, parsed, vocabulary, card, lexicons))
        return self

    def copy(self) -> "BiLMShim":
        """A copy with a number of its own, so that an optimizer keeps both apart."""
        copied = BiLMShim(self.source, self.device, self.precision, self.threads)
        copied._trainable, copied._unfrozen, copied.lr_scale = self._trainable, self._unfrozen, self.lr_scale
        if self._model is not None:
            copied.set(copy.deepcopy(self._model))
        return copied

    def to_device(self, device_type: str, device_id: int) -> None:
        """The device is ours to choose (setting `device`), not thinc's."""

    def finish_update(self, optimizer: Any) -> None:
        """Let the optimizer change the weights that have gradients."""
        if self._model is None:
            return
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                if parameter.grad is None:
                    continue
                weights, gradient = parameter.detach().cpu().numpy(), parameter.grad.cpu().numpy()
                changed, _ = optimizer((self.id, name), weights.copy(), gradient, lr_scale=self.lr_scale)
                parameter.copy_(torch.from_numpy(changed))
                parameter.grad = None
                self.has_learned = True

    @contextlib.contextmanager
    def use_params(self, params: dict[Any, Any]) -> Iterator[None]:
        """Use other weights for a while, by shim id and name: the averages of an optimizer."""
        own = {name: parameter for name, parameter in self._parameters() if (self.id, name) in params}
        kept = {name: parameter.detach().clone() for name, parameter in own.items()}
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(torch.as_tensor(params[self.id, name]))
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in own.items():
                    parameter.copy_(kept[name])

    def _parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        if self._model is not None:
            yield from self._model.named_parameters()

    def __getstate__(self) -> dict[str, Any]:
        with contextlib.suppress(
            ElmoError
        ):  # as in `_prepare_for_fork`: to a spawned process, tensors go as shared memory
            _ = self.bilm
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=ForkSafeLock())
        _alive.add(self)


@torch.inference_mode(False)
def _random_bilm() -> BiLM:
    options = formats.open_model(formats.BUNDLED).options
    return BiLM(options, card={"description": "random weights, asked for with weights = null"})


def shim_of(model: Encoder) -> BiLMShim:
    """The holder of the biLM in a model made by `build_bilm`.

    Raises:
        ElmoError: the model is another one.
    """
    for shim in model.shims:
        if isinstance(shim, BiLMShim):
            return shim
    raise ElmoError(f"elmo: the model {model.name!r} holds no biLM; [components.elmo.model] is spacy-elmo.BiLM.v1")
