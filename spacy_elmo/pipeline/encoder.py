"""Docs in, layers out: the thinc model around the biLM. Batching and speed are the biLM's."""

import copy
import io
import threading
from collections.abc import Callable, Iterable, Sequence
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
from spacy_elmo.pipeline.spans import GetSpans, token_sequences

Array = npt.NDArray[np.float32]
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
    """Registered as `spacy-elmo.BiLM.v1`: from Docs to all layers, `[n_layers + 1, n_tokens, layer_width]` each.

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
    """Holds the biLM of a thinc model: reads it when first needed, serializes it whole.

    source: where the weights come from until they are loaded; None for random ones.
    """

    def __init__(self, source: str | None, device: str) -> None:
        super().__init__(None)
        self.source = source
        self.device = device
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

    @property
    def digest(self) -> str:
        """`formats.digest` of the biLM, computed again only when its weights have changed."""
        bilm = self.bilm
        with self._lock:
            version = [(p.data_ptr(), p._version) for p in bilm.parameters()]
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
        if self._model is not None:
            copied.set(copy.deepcopy(self._model))
        return copied

    def to_device(self, device_type: str, device_id: int) -> None:
        """The device is ours to choose (setting `device`), not thinc's."""

    def finish_update(self, optimizer: Any) -> None:
        """Nothing to do: the biLM is frozen."""

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
    def backprop(_: Any) -> list[Doc]:
        return []  # frozen: no gradient goes further down

    return encode_docs(model, docs), backprop


def encode_docs(model: Encoder, docs: Sequence[Doc], reduce: Reduce | None = None) -> list[Array]:
    """Run the biLM over Docs.

    reduce: applied to the layers `[n_layers + 1, n, layer_width]` of each batch, so that only what it leaves
        (`[n, width]`) is kept in memory.

    Returns, for each Doc, all layers `[n_layers + 1, n_tokens, layer_width]` or the reduced `[n_tokens, width]`;
    zero where the biLM did not read a token.
    """
    bilm = shim_of(model).bilm
    empty = torch.zeros(bilm.options.n_outputs, 0, bilm.options.width)
    shape = (reduce(empty) if reduce else empty).shape
    results = [np.zeros((*shape[:-2], len(doc), shape[-1]), dtype=np.float32) for doc in docs]
    places = [
        (number, indices)
        for number, doc in enumerate(docs)
        for indices in token_sequences(doc, model.attrs["get_spans"], model.attrs["max_sequence_length"])
    ]
    texts = [[token.text for token in doc] for doc in docs]
    sentences = [[texts[number][i] for i in indices] for number, indices in places]
    for batch in bilm.stream(sentences, model.attrs["max_batch_tokens"]):
        values = (reduce(batch.layers) if reduce else batch.layers).float().cpu()
        for sequence, part in zip(batch.numbers, values.split(batch.lengths, dim=-2), strict=True):
            number, indices = places[sequence]
            results[number][..., indices, :] = part[..., 1:-1, :].numpy()
    return results


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
