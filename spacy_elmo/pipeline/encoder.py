"""Docs in, rows out (see `rows.py`): the thinc model around the biLM, without gradients and with them. The biLM itself
takes care of batching and speed."""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from spacy.tokens import Doc
from thinc.api import Model

from spacy_elmo.bilm.products import Precision, check_precision
from spacy_elmo.bilm.threads import check_threads
from spacy_elmo.bilm.transfer import floats_on_cpu
from spacy_elmo.errors import ElmoError
from spacy_elmo.pipeline.attributes import Attr, check_attr
from spacy_elmo.pipeline.cache import Cache, Memory
from spacy_elmo.pipeline.mix import FixedMix
from spacy_elmo.pipeline.reading import Reading
from spacy_elmo.pipeline.rows import Array, row_width, to_rows
from spacy_elmo.pipeline.shim import BiLMShim, Encoder, shim_of
from spacy_elmo.pipeline.spans import GetSpans
from spacy_elmo.pipeline.weights import WeightsSource
from spacy_elmo.support.device import choose_device

Reduce = Callable[[torch.Tensor], torch.Tensor]


def build_bilm(
    weights: str | None,
    get_spans: GetSpans,
    max_batch_tokens: int = 4096,
    max_sequence_length: int = 1000,
    device: str = "auto",
    precision: Precision = "float32",
    threads: Any = "auto",  # `Threads`, but then spaCy's own check would say "'two' is not <class 'int'>"
    attr: Attr = "ORTH",
) -> Encoder:
    """Registered as `spacy-elmo.BiLM.v1`: from Docs to all layers, `[n_tokens, row_width]` each. A row has the token
    embedding (projection_dim), then each LSTM layer (2 x projection_dim).

    weights: name of the bundled model or of a downloaded one, a directory, an archive, a `.hdf5` file or a checkpoint.
        They are read when first needed. "random": random weights of the bundled model's architecture (for tests and
        comparisons). None (an unset variable of a config) is an error when the weights are first needed.
    get_spans: what the biLM reads as one sentence.
    max_batch_tokens: the most tokens in one pass of the biLM; if a pass has 16 sentences or fewer, four times as many.
        Limits memory; doesn't change the vectors.
    max_sequence_length: longer sentences are cut into pieces of this many tokens, and each piece is read on its own.
    device: "auto" (a GPU if torch sees one), "cpu", "cuda", "cuda:1" or "mps".
    precision: of the weights in memory and of the products with them: "float32", or, for prediction, "float16" (also on
        a GPU) or "int8" (x86 processors).
    threads: the most threads to use on a CPU, or "auto": as many as torch uses, where they help. Never more than the
        CPUs that the process may run on, or than its container's CPU quota pays for.
    attr: what is read of each token: "ORTH", its text; or "LEMMA", "NORM" or "LOWER", for a biLM that was trained on
        such words.

    Raises:
        ElmoError: a setting is out of range, or the precision is not supported here.
    """
    for name, value in (("max_batch_tokens", max_batch_tokens), ("max_sequence_length", max_sequence_length)):
        if value < 1:
            raise ElmoError(f"elmo: {name} is {value}, expected at least 1")
    chosen = choose_device(device, "elmo: device")
    check_precision(precision, chosen)
    check_threads(threads)
    return Model(
        "elmo_bilm",
        _forward,
        init=_init,
        dims={"nO": None},
        attrs={
            "get_spans": get_spans,
            "max_batch_tokens": max_batch_tokens,
            "max_sequence_length": max_sequence_length,
            "attr": attr,
        },
        shims=[BiLMShim(WeightsSource(weights, str(chosen), precision, threads))],
    )


def _init(model: Encoder, X: Any = None, Y: Any = None) -> None:  # noqa: N803 (thinc's names)
    """thinc calls this if the biLM is a part of another component's model; `elmo` starts over by itself."""
    shim_of(model).forget_learning("spacy-elmo.Tok2Vec.v1")


def _forward(model: Encoder, docs: list[Doc], is_train: bool) -> tuple[list[Array], Callable[[Any], list[Doc]]]:
    ops: Any = model.ops
    if is_train:
        check_attr(docs, model.attrs["attr"])
    if not (is_train and shim_of(model).learns):
        return [ops.asarray(rows) for rows in encode_docs(model, docs)], lambda d_rows: []
    recording = Recording(model, docs)

    def backprop(d_rows: list[Array]) -> list[Doc]:
        for number, gradient in enumerate(d_rows):
            recording.add_gradient(number, ops.to_numpy(gradient))
        recording.backprop()
        return []

    return [ops.asarray(rows) for rows in recording.rows], backprop


def read(model: Encoder, docs: Sequence[Doc]) -> Reading:
    """Return what the biLM of a model reads of Docs."""
    attrs = model.attrs
    return Reading.of(docs, attrs["get_spans"], attrs["max_sequence_length"], attrs["attr"])


def encode_docs(
    model: Encoder, docs: Sequence[Doc], reduce: Reduce = to_rows, cache: Cache | None = None
) -> list[Array]:
    """Run the biLM over Docs.

    reduce: from the layers `[n_layers + 1, n, layer_width]` of each batch to `[n, width]`, so that memory only holds
        the result.
    cache: gives the rows that it has, and stores new ones. All its rows were reduced in the same way.

    Returns `[n_tokens, width]` for each Doc; zero for tokens that the biLM did not read.
    """
    bilm = shim_of(model).bilm
    width = reduce(torch.zeros(bilm.options.n_outputs, 0, bilm.options.width)).shape[-1]
    results = [np.zeros((len(doc), width), dtype=np.float32) for doc in docs]
    reading = read(model, docs)
    wanted: dict[Any, list[int]] = {}
    for number, sentence in enumerate(reading.sentences):
        wanted.setdefault(number if cache is None else cache.key(sentence), []).append(number)

    def put(numbers: list[int], rows: Array) -> None:
        for number in numbers:
            doc, indices = reading.places[number]
            results[doc][indices] = rows

    if cache is not None:
        lengths = {key: len(reading.sentences[numbers[0]]) for key, numbers in wanted.items()}
        for key, rows in cache.get(lengths, width):
            put(wanted.pop(key), rows)
    keys = list(wanted)
    sentences = [reading.sentences[wanted[key][0]] for key in keys]
    for batch in bilm.stream(sentences, model.attrs["max_batch_tokens"], keep_boundaries=False):
        values = floats_on_cpu(reduce(batch.layers))
        parts = zip(batch.numbers, values.split(batch.lengths), strict=True)
        new = {keys[number]: part.numpy() for number, part in parts}
        for key, rows in (new if cache is None else cache.put(new)).items():
            put(wanted[key], rows)
        del batch, values, parts, new, rows  # otherwise they stay in memory together with the next ones
    return results


class RememberingEncoder:
    """Docs to vectors for an `elmo` component and its listeners: from the model, or from the training cache.

    mix: the component's own; memory: the training cache.
    """

    def __init__(self, model: Encoder, mix: FixedMix, memory: Memory) -> None:
        self.model, self.mix, self.memory = model, mix, memory

    def encode(self, docs: Sequence[Doc], all_layers: bool) -> list[Array]:
        """Return the rows of all layers (see `rows.py`), or the mix of them, `[n_tokens, width]`."""
        reduce: Reduce = to_rows if all_layers else self.mix
        return encode_docs(self.model, docs, reduce, self._cache(all_layers))

    def remember(self, all_layers: bool) -> None:
        """Cache the rows of all layers, or the mix, from now on, because a training asks for them."""
        self.memory.turn_on(self._content(all_layers))

    def _cache(self, all_layers: bool) -> Cache | None:
        shim = shim_of(self.model)
        if shim.is_learning:  # a cache is useless: the next step changes the biLM's output
            return None
        weights = shim.weights
        header = {"biLM": lambda: weights.digest, "precision of the biLM": lambda: shim.source.precision}
        return self.memory.open(self._content(all_layers), weights.version, header)

    def _content(self, all_layers: bool) -> str:
        return "rows" if all_layers else f"mix {self.mix.layers}"


class Recording:
    """Docs that were run through the biLM, with what is needed to train it on them.

    rows: `[n_tokens, row_width]` of each Doc.
    """

    def __init__(self, model: Encoder, docs: Sequence[Doc]) -> None:
        bilm = shim_of(model).bilm
        shim_of(model).begin_learning()
        width = row_width(bilm.options.n_outputs, bilm.options.width)
        self.rows = [np.zeros((len(doc), width), dtype=np.float32) for doc in docs]
        self.has_gradients = False
        self._gradients = [np.zeros_like(rows) for rows in self.rows]
        self._model, self._reading = model, (reading := read(model, docs))
        self._batches: list[tuple[list[int], list[int], torch.Tensor]] = []
        max_tokens = model.attrs["max_batch_tokens"]
        for batch in bilm.stream_with_gradients(reading.sentences, max_tokens, keep_boundaries=False):
            values = to_rows(batch.layers)
            self._batches.append((batch.numbers, batch.lengths, values))
            for number, part in zip(batch.numbers, values.detach().cpu().split(batch.lengths), strict=True):
                doc, indices = reading.places[number]
                self.rows[doc][indices] = part.numpy()

    def find(self, doc: Doc) -> int | None:
        """Return the number of the recorded Doc with the same content to read; None if there is none."""
        content = next(iter(read(self._model, [doc]).by_content()), None)
        return self._numbers.get(content)

    @cached_property
    def _numbers(self) -> dict[Any, int]:
        return self._reading.by_content()

    def add_gradient(self, number: int, gradient: Array) -> None:
        """Add to the gradient of the rows of a Doc."""
        self._gradients[number] += gradient
        self.has_gradients = True

    def backprop(self) -> float:
        """Add to the gradients of the biLM's parameters; after that, the recording is empty. Returns the sum of the
        squares of the gradients that it was given."""
        batches, self._batches = self._batches, []
        if not self.has_gradients:
            return 0.0
        for numbers, lengths, values in batches:
            gradient = torch.zeros(values.shape)
            for number, part in zip(numbers, gradient.split(lengths), strict=True):
                doc, indices = self._reading.places[number]
                part[:] = torch.from_numpy(self._gradients[doc][indices])
            values.backward(gradient.to(values.device))
        return float(sum((gradient**2).sum() for gradient in self._gradients))


def batch_by_tokens(docs: Iterable[Doc], max_docs: int, max_tokens: int) -> Iterable[list[Doc]]:
    """Split a stream of Docs into batches of at most `max_docs` Docs and about `max_tokens` tokens."""
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
