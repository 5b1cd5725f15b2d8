"""Docs in, rows out (see `rows.py`): the thinc model around the biLM. Batching and speed are the biLM's."""

import contextlib
import copy
import io
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import srsly
import torch
from spacy.tokens import Doc
from thinc.api import Model
from thinc.shims import Shim

from spacy_elmo import formats
from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.errors import ElmoError, WeightsError
from spacy_elmo.formats import bilm_hdf5
from spacy_elmo.pipeline.cache import Cache
from spacy_elmo.pipeline.rows import Array, row_width, to_rows
from spacy_elmo.pipeline.spans import GetSpans, token_sequences

Reduce = Callable[[torch.Tensor], torch.Tensor]
Encoder = Model[list[Doc], list[Array]]


def build_bilm(
    weights: str | None,
    get_spans: GetSpans,
    max_batch_tokens: int = 4096,
    max_sequence_length: int = 1000,
    device: str = "auto",
    precision: Literal["float32"] = "float32",
) -> Encoder:
    """Registered as `spacy-elmo.BiLM.v1`: from Docs to all layers, one row a token, `[n_tokens, row_width]` each: the
    token embedding (projection_dim) and behind it each LSTM layer (2 x projection_dim).

    weights: bundled name, directory or `.hdf5` file, read when first needed; None for random weights of the
        bundled model's architecture (for tests and comparisons).
    get_spans: what the biLM reads as one sentence.
    max_batch_tokens: tokens worked on at once; bounds memory, changes no vector.
    max_sequence_length: longer sentences are cut into pieces of this many tokens, each read on its own.
    device: "auto" (a GPU where torch sees one), "cpu", "cuda" or "cuda:1".
    precision: of the weights in memory.

    Raises:
        ElmoError: a setting is out of range.
    """
    for name, value in (("max_batch_tokens", max_batch_tokens), ("max_sequence_length", max_sequence_length)):
        if value < 1:
            raise ElmoError(f"elmo: {name} is {value}, expected at least 1")
    return Model(
        "elmo_bilm",
        _forward,
        dims={"nO": None},
        attrs={
            "get_spans": get_spans,
            "max_batch_tokens": max_batch_tokens,
            "max_sequence_length": max_sequence_length,
        },
        shims=[BiLMShim(weights, _parse_device(device))],
    )


def _parse_device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise ElmoError(f'elmo: device is {device!r}, expected "auto", "cpu", "cuda" or "cuda:N"')
    if kind == "cuda" and not torch.cuda.is_available():
        raise ElmoError(f'elmo: device is {device!r}, but torch sees no GPU here; use "auto" or "cpu"')
    return device


class BiLMShim(Shim):
    """Holds the biLM of a thinc model: reads it when first needed, serializes it whole, trains it where asked to.

    source: where the weights come from until they are loaded; None for random ones.
    trainable: whether the weights are trained; lr_scale: times which the training's learning rate holds for them.
    """

    def __init__(self, source: str | None, device: str) -> None:
        super().__init__(None)
        self.source = source
        self.device = device
        self.lr_scale = 1.0
        self._trainable = False
        self._unfrozen: int | None = None
        self._n_loaded = 0
        self._digest: tuple[Any, str] | None = None
        self._lock = threading.RLock()

    @property
    def bilm(self) -> BiLM:
        """The biLM, loaded now if it was not yet.

        Raises:
            ElmoError: the weights cannot be read; see `formats.load`.
        """
        with self._lock:
            if self._model is None:
                self.set(_random_bilm() if self.source is None else formats.load(self.source))
            model: BiLM = self._model
            return model

    def set(self, bilm: BiLM) -> None:
        """Use this biLM from now on."""
        with self._lock, torch.inference_mode(False):
            self._model = bilm.to(self.device).eval().requires_grad_(False)
            self._digest = None
            self._n_loaded += 1
            self._grant_gradients()

    @property
    def trainable(self) -> bool:
        """Whether the weights are trained, or at least those that `unfreeze` names."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = value
        self._grant_gradients()

    def unfreeze(self, n_top: int | None) -> None:
        """Of trainable weights, train only the `n_top` topmost parts (LSTM layers from above, then the character
        CNN); None: all."""
        self._unfrozen = n_top
        self._grant_gradients()

    @property
    def learns(self) -> bool:
        """Whether any weight is being trained now."""
        return self.trainable and any(parameter.requires_grad for parameter in self.bilm.parameters())

    def _grant_gradients(self) -> None:
        with self._lock:
            if self._model is None:
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
        bilm = self.bilm
        with self._lock:
            version = self.version
            if self._digest is None or self._digest[0] != version:
                self._digest = (version, formats.digest(bilm))
            return self._digest[1]

    def to_bytes(self) -> bytes:
        """The whole model: weights, options, vocabulary and card."""
        bilm = self.bilm
        parts = {
            "options": bilm.options.to_dict(),
            "card": bilm.card,
            "vocabulary": bilm.vocabulary,
            "weights": bilm_hdf5.to_bytes(bilm),
        }
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
        except (ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"elmo: the bytes to load hold no biLM, or are damaged ({error!r})") from None
        self.set(bilm_hdf5.read(weights, BiLMOptions.from_dict(options, "options in bytes"), vocabulary, card))
        return self

    def copy(self) -> "BiLMShim":
        """A copy with a number of its own, so that an optimizer keeps both apart."""
        copied = BiLMShim(self.source, self.device)
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
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock())


@torch.inference_mode(False)
def _random_bilm() -> BiLM:
    options = BiLMOptions.from_file(formats.locate(formats.BUNDLED).options)
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


def _forward(model: Encoder, docs: list[Doc], is_train: bool) -> tuple[list[Array], Callable[[Any], list[Doc]]]:
    ops: Any = model.ops
    if not (is_train and shim_of(model).learns):
        return [ops.asarray(rows) for rows in encode_docs(model, docs)], lambda d_rows: []
    recorded = Recording(model, docs)

    def backprop(d_rows: list[Array]) -> list[Doc]:
        for number, gradient in enumerate(d_rows):
            recorded.add_gradient(number, ops.to_numpy(gradient))
        recorded.backprop()
        return []

    return [ops.asarray(rows) for rows in recorded.rows], backprop


@dataclass(frozen=True)
class _Reading:
    """What the biLM is to read of Docs: sentences, and for each the number of its Doc and the tokens it has there."""

    sentences: list[list[str]]
    places: list[tuple[int, npt.NDArray[np.int64]]]

    @classmethod
    def of(cls, model: Encoder, docs: Sequence[Doc]) -> "_Reading":
        places = [
            (number, indices)
            for number, doc in enumerate(docs)
            for indices in token_sequences(doc, model.attrs["get_spans"], model.attrs["max_sequence_length"])
        ]
        texts = [[token.text for token in doc] for doc in docs]
        return cls([[texts[number][i] for i in indices] for number, indices in places], places)


def encode_docs(
    model: Encoder, docs: Sequence[Doc], reduce: Reduce = to_rows, cache: Cache | None = None
) -> list[Array]:
    """Run the biLM over Docs.

    reduce: from the layers `[n_layers + 1, n, layer_width]` of each batch to `[n, width]`, so that only that is kept
        in memory.
    cache: takes what it has, and gives what it has not to it; all of it has been reduced in the same way.

    Returns `[n_tokens, width]` for each Doc; zero where the biLM did not read a token.
    """
    bilm = shim_of(model).bilm
    width = reduce(torch.zeros(bilm.options.n_outputs, 0, bilm.options.width)).shape[-1]
    results = [np.zeros((len(doc), width), dtype=np.float32) for doc in docs]
    reading = _Reading.of(model, docs)
    wanted: dict[Any, list[int]] = {}
    for number, sentence in enumerate(reading.sentences):
        wanted.setdefault(number if cache is None else cache.key(sentence), []).append(number)

    def put(numbers: list[int], rows: Array) -> None:
        for number in numbers:
            doc, indices = reading.places[number]
            results[doc][indices] = rows

    missing = []
    for key, numbers in wanted.items():
        rows = None if cache is None else cache.get(key)
        if rows is None:
            missing.append((key, numbers))
        else:
            put(numbers, rows)
    for batch in bilm.stream(
        [reading.sentences[numbers[0]] for _, numbers in missing], model.attrs["max_batch_tokens"]
    ):
        values = reduce(batch.layers).float().cpu()
        for number, part in zip(batch.numbers, values.split(batch.lengths), strict=True):
            key, numbers = missing[number]
            rows = part[1:-1].numpy()
            put(numbers, rows if cache is None else cache.put(key, rows))
    return results


class Recording:
    """Docs run through the biLM with what it takes to train it by them.

    rows: `[n_tokens, row_width]` of each Doc.
    """

    def __init__(self, model: Encoder, docs: Sequence[Doc]) -> None:
        bilm = shim_of(model).bilm
        width = row_width(bilm.options.n_outputs, bilm.options.width)
        self.rows = [np.zeros((len(doc), width), dtype=np.float32) for doc in docs]
        self.has_gradients = False
        self._gradients = [np.zeros_like(rows) for rows in self.rows]
        self._places = (reading := _Reading.of(model, docs)).places
        self._batches: list[tuple[list[int], list[int], torch.Tensor]] = []
        for batch in bilm.stream_with_gradients(reading.sentences, model.attrs["max_batch_tokens"]):
            values = to_rows(batch.layers)
            self._batches.append((batch.numbers, batch.lengths, values))
            for number, part in zip(batch.numbers, values.detach().cpu().split(batch.lengths), strict=True):
                doc, indices = self._places[number]
                self.rows[doc][indices] = part[1:-1].numpy()

    def add_gradient(self, number: int, gradient: Array) -> None:
        """Add to the gradient of the rows of a Doc."""
        self._gradients[number] += gradient
        self.has_gradients = True

    def backprop(self) -> float:
        """Add to the gradients of the biLM's parameters; then the recording is spent. Returns the sum of the squares
        of the gradients it was given."""
        batches, self._batches = self._batches, []
        if not self.has_gradients:
            return 0.0
        for numbers, lengths, values in batches:
            gradient = torch.zeros(values.shape)
            for number, part in zip(numbers, gradient.split(lengths), strict=True):
                doc, indices = self._places[number]
                part[1:-1] = torch.from_numpy(self._gradients[doc][indices])
            values.backward(gradient.to(values.device))
        return float(sum((gradient**2).sum() for gradient in self._gradients))


def batch_by_tokens(docs: Iterable[Doc], max_docs: int, max_tokens: int) -> Iterable[list[Doc]]:
    """Cut a stream of Docs into batches of at most `max_docs` Docs and about `max_tokens` tokens."""
    batch: list[Doc] = []
    n_tokens = 0
    for doc in docs:
        if batch and (len(batch) >= max_docs or n_tokens + len(doc) > max_tokens):
            yield batch
            batch, n_tokens = [], 0
        batch.append(doc)
        n_tokens += len(doc)
    if batch:
        yield batch
