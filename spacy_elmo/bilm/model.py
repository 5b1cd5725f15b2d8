"""The biLM of Peters et al. 2018: computes all layers of sequences of tokens."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from spacy_elmo.bilm import characters
from spacy_elmo.bilm.batching import Packing, WordTable, plan_batches
from spacy_elmo.bilm.char_cnn import CharacterCNN, WordEmbedding
from spacy_elmo.bilm.eager import runs_eagerly
from spacy_elmo.bilm.lexicons import Lexicons
from spacy_elmo.bilm.lstm import BidirectionalLSTMLayer
from spacy_elmo.bilm.memory import FreedMemory
from spacy_elmo.bilm.options import BiLMOptions
from spacy_elmo.bilm.packed import PackedModule, version_of
from spacy_elmo.bilm.products import Precision, check_precision
from spacy_elmo.bilm.threads import (
    ShortCalls,
    Threads,
    check_threads,
    count_threads,
    keep_to_one_thread_after_fork,
    torch_threads,
)
from spacy_elmo.bilm.time_steps import State
from spacy_elmo.bilm.token_embedder import TokenEmbedder
from spacy_elmo.bilm.transfer import floats_on_cpu, to_device
from spacy_elmo.errors import ElmoError

MAX_BATCH_TOKENS = 4096
_STRETCH = 4  # without gradients, a batch of few long sequences may have this many times as many tokens
_SHORT_TOKENS = 256  # a call with at most this many takes some milliseconds


@dataclass
class CarriedState:
    """LSTM state carried from batch to batch, as bilm-tf and AllenNLP do by default: row i of a batch continues where
    row i of an earlier batch ended.

    layers: for each LSTM layer, hidden `[2, rows, projection_dim]` and cell `[2, rows, dim]`, forward and backward;
        empty at first. New rows are zero.
    """

    layers: list[State] = field(default_factory=list)

    def take(self, layer: int, rows: Tensor) -> State | None:
        """Return the state of these rows, in their order; None if nothing is carried yet."""
        if layer >= len(self.layers):
            return None
        hidden, cell = (_with_rows(part, len(rows))[:, rows] for part in self.layers[layer])
        return hidden, cell

    def put(self, layer: int, rows: Tensor, state: State) -> None:
        """Store the final state of these rows; other rows keep theirs."""
        if layer == len(self.layers):
            self.layers.append((state[0][:, :0], state[1][:, :0]))
        hidden, cell = (
            _with_rows(part, len(rows)).index_copy(1, rows, new)
            for part, new in zip(self.layers[layer], state, strict=True)
        )
        self.layers[layer] = (hidden, cell)


def _with_rows(part: Tensor, n_rows: int) -> Tensor:
    missing = n_rows - part.shape[1]
    return part if missing <= 0 else torch.cat([part, part.new_zeros(2, missing, part.shape[2])], dim=1)


def _inner(lengths: list[int]) -> Tensor:
    """Tell for each token of concatenated sequences whether it is neither the first nor the last of its sequence."""
    sizes = torch.tensor(lengths)
    ends = sizes.cumsum(0)
    inner = torch.ones(sum(lengths), dtype=torch.bool)
    inner[ends - 1] = inner[ends - sizes] = False
    return inner


@dataclass(frozen=True)
class EncodedBatch:
    """Layers of the sequences of one batch.

    numbers: of the sequences in the call.
    lengths: their lengths, with BOS and EOS if these are kept.
    layers: `[n_layers + 1, sum(lengths), 2 * projection_dim]`, the sequences concatenated.
    """

    numbers: list[int]
    lengths: list[int]
    layers: Tensor


class BiLM(nn.Module):
    """Bidirectional language model over characters, words or both, without its softmax.

    It matches the activations of bilm-tf's `BidirectionalLanguageModel`, AllenNLP's `_ElmoBiLm` and ELMoForManyLangs's
    `Embedder` to 1e-5, but starts every sequence from zero state unless you pass a `CarriedState`.

    options: the architecture.
    vocabulary: the words of a word-input biLM in the order of its vectors, including `<S>`, `</S>` and `<UNK>`.
    card: facts about the model (name, licence, ...), kept with it.
    lexicons: the words and characters of a model of ELMoForManyLangs.

    A new BiLM has random weights, drawn from `seed`, and is ready for training. `spacy_elmo.formats.load` reads
    trained weights and freezes them (`bilm.requires_grad_()` undoes that).
    """

    _threads: Threads = "auto"
    _short_calls = ShortCalls()  # shared by all biLMs, because they share the machine
    _freed = FreedMemory()  # shared, because they share the process

    def __init__(
        self,
        options: BiLMOptions,
        vocabulary: Sequence[str] | None = None,
        card: dict[str, Any] | None = None,
        seed: int | None = 0,
        lexicons: Lexicons | None = None,
    ) -> None:
        super().__init__()
        keep_to_one_thread_after_fork()
        lstm = options.lstm
        self.options = options
        self.card = card or {}
        self.embedder = _make_embedder(options, vocabulary, lexicons)
        self.layers = nn.ModuleList(
            BidirectionalLSTMLayer(
                lstm.projection_dim,
                lstm.dim,
                lstm.projection_dim,
                cell_clip=lstm.cell_clip,
                proj_clip=lstm.proj_clip,
                forget_bias=lstm.forget_bias,
                always_projects=lstm.always_projects,
            )
            for _ in range(lstm.n_layers)
        )
        self._table = WordTable()
        if seed is not None:
            self.initialize(torch.Generator().manual_seed(seed))

    @runs_eagerly
    def forward(self, embeddings: Tensor, packing: Packing, state: CarriedState | None = None) -> Tensor:
        """Compute all layers of concatenated sequences.

        embeddings: `[n_tokens, projection_dim]`, including BOS and EOS; packing: of the sequences' lengths.
        state: carried state, which is read and updated; None starts from zero.

        Returns `[n_layers + 1, packing.n_outputs, 2 * projection_dim]`. Layer 0 is the embedding twice, side by side.
        """
        order, rows, places = (
            to_device(indices, embeddings.device) for indices in (packing.order, packing.rows, packing.places)
        )
        layers = embeddings.new_empty(1 + len(self.layers), packing.n_outputs, 2, embeddings.shape[1])
        layers[0, places[0]] = embeddings[order[0, packing.n_first :]][:, None]
        states = [state.take(number, rows) if state else None for number in range(len(self.layers))]
        for number, (y, final) in enumerate(self.run_layers(embeddings[order], packing.batch_sizes, states)):
            if state is not None:
                state.put(number, rows, final)
            for direction in range(2):
                layers[number + 1, places[direction], direction] = y[direction, packing.n_first :]
        return layers.flatten(2)

    def run_layers(
        self,
        x: Tensor,
        batch_sizes: Sequence[int],
        states: Sequence[State | None],
        starts: Tensor | None = None,
        drop: Callable[[Tensor], Tensor] | None = None,
    ) -> Iterator[tuple[Tensor, State]]:
        """Yield the outputs and final state of each LSTM layer, with the skip connections.

        x: `[2, n_tokens, projection_dim]`, packed; see `BidirectionalLSTMLayer.forward` for arguments and results.
        states: initial state of each layer; drop: dropout, applied to the input of each layer.
        """
        for number, (layer, state) in enumerate(zip(self.layers, states, strict=True)):
            x = drop(x) if drop else x
            y, final = layer(x, batch_sizes, state, starts)
            x = y + x if number and self.options.lstm.use_skip_connections else y
            yield x, final

    @runs_eagerly
    def encode(
        self,
        sentences: Iterable[characters.Tokens],
        keep_boundaries: bool = False,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        state: CarriedState | None = None,
    ) -> list[npt.NDArray[np.float32]]:
        """Return the layers of each sentence, `[layers, tokens, width]` float32. Layer 0 is the token embedding
        (twice, side by side), the others are the LSTM layers.

        sentences: any iterable of sentences; each is an iterable of strings or spaCy tokens: lists, arrays, a column of
            pandas, `doc.sents`.
        keep_boundaries: also return the positions of BOS and EOS (two tokens more).
        max_batch_tokens: the most tokens to process at once; if a batch has 16 sentences or fewer, four times as many.
            It limits memory and does not change the result.
        state: carry LSTM state from call to call: sentence i continues from sentence i of earlier calls. This is for
            parity with the originals, not for speed. It computes in float64, because rounding errors grow on the way
            (in float32, the largest difference between the originals' own states is 1.2e-5).

        Raises:
            ElmoError: a sentence is a string instead of a list of tokens, or a token is not a string.
        """
        tokens = characters.sentences_of(sentences)
        encoded: list[Any] = [None] * len(tokens)
        for batch in self._stream(tokens, max_batch_tokens, state, keep_boundaries, torch.inference_mode, _STRETCH):
            layers = floats_on_cpu(batch.layers)
            for number, part in zip(batch.numbers, layers.split(batch.lengths, dim=1), strict=True):
                encoded[number] = part.numpy().copy()
            del batch, layers, part  # free them before the next batch is computed
        return encoded

    def stream(
        self,
        sentences: Iterable[characters.Tokens],
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        state: CarriedState | None = None,
        keep_boundaries: bool = True,
    ) -> Iterator[EncodedBatch]:
        """Encode sentences batch by batch, longest first, without gradients. The arguments are those of `encode`, but
        BOS and EOS are kept unless you say otherwise.

        With a carried state, all sentences are one batch, because each has a row of the state.
        """
        tokens = characters.sentences_of(sentences)
        yield from self._stream(tokens, max_batch_tokens, state, keep_boundaries, torch.inference_mode, _STRETCH)

    def stream_with_gradients(
        self,
        sentences: Iterable[characters.Tokens],
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        keep_boundaries: bool = True,
    ) -> Iterator[EncodedBatch]:
        """Encode sentences like `stream`, but so that `backward` reaches the parameters that require gradients."""
        tokens = characters.sentences_of(sentences)
        yield from self._stream(tokens, max_batch_tokens, None, keep_boundaries, _gradient_mode, 1)

    def _stream(
        self,
        sentences: Sequence[Sequence[str]],
        max_batch_tokens: int,
        state: CarriedState | None,
        keep_boundaries: bool,
        mode: Callable[[], AbstractContextManager[None]],
        stretch: int,
    ) -> Iterator[EncodedBatch]:
        """Encode batch by batch. mode: context in which to compute a batch. It does not decorate this function, because
        a decorator would hold each batch until the next one is there."""
        keep_to_one_thread_after_fork()
        if not sentences:
            return
        lengths = [len(sentence) + 2 for sentence in sentences]
        if state is None:
            bilm, batches = self, plan_batches(lengths, max_batch_tokens, stretch, self._first_layer.max_rows)
        else:
            if self.device.type == "mps":
                raise ElmoError('a carried state needs float64, which device "mps" does not support; use "cpu" for it')
            bilm, batches = copy.deepcopy(self).double(), iter([list(range(len(sentences)))])
        for numbers in batches:
            batch_lengths = [lengths[number] for number in numbers]
            begin, end = bilm.embedder.borders
            words = [word for number in numbers for word in (begin, *sentences[number], end)]
            # With autocast from the caller, this would round or fail.
            with mode(), torch.autocast(bilm.device.type, enabled=False), self._with_threads(len(words)):
                # A state continues behind the last boundary, so it has to be read.
                layers = bilm(bilm.embed(words), Packing.of(batch_lengths, keep_boundaries or state is not None), state)
                if not keep_boundaries:
                    layers = layers if state is None else layers[:, _inner(batch_lengths)]
                    batch_lengths = [length - 2 for length in batch_lengths]
            yield EncodedBatch(numbers, batch_lengths, layers)
            n_bytes = layers.nbytes if layers.is_cpu else 0
            del layers  # free them before the next batch is computed
            self._freed.add(n_bytes)

    @runs_eagerly
    def embed(self, words: characters.Tokens) -> Tensor:
        """Return the context-insensitive vectors of words, `[len(words), projection_dim]`.

        Each distinct word is computed once. If the parameters are frozen (`requires_grad` is False, as after `load`),
        its vector is cached in a table of limited size. Call `forget` if you change frozen parameters in a way that
        torch does not notice (`parameter.data`).

        Raises:
            ElmoError: `words` is one string, or a token is not a string.
        """
        keep_to_one_thread_after_fork()
        return self._table.embed(characters.tokens_of(words), self.embedder, self.embedder_version)

    def set_precision(self, precision: Precision) -> None:
        """Compute with weights in "float32", "float16" or "int8". The reduced precisions are for prediction. They round
        the matrices to float16, and this cannot be undone.

        Raises:
            ElmoError: the precision is unknown or not supported here, or the weights are being trained.
        """
        keep_to_one_thread_after_fork()
        check_precision(precision, self.device)
        if precision != "float32" and any(parameter.requires_grad for parameter in self.parameters()):
            raise ElmoError(f"precision = {precision!r} is for frozen weights; train them in float32")
        with torch.inference_mode(False):
            for module in self._packed_modules():
                module.set_precision(precision)

    @property
    def threads(self) -> Threads:
        """The setting of `set_threads`."""
        return self._threads

    def set_threads(self, threads: Threads) -> None:
        """Use at most this many threads on a CPU; "auto": as many as torch. Never uses more threads than there are
        CPUs that the process may run on, or than the CPU quota of its container allows. The setting changes no weight,
        and is not saved with the weights.

        Raises:
            ElmoError: `threads` is neither "auto" nor a whole number of at least 1.
        """
        check_threads(threads)
        self._threads = threads

    @contextmanager
    def _with_threads(self, n_tokens: int) -> Iterator[None]:
        """Context with the right number of threads for a batch of `n_tokens`. Afterwards torch's own number is back."""
        n = count_threads(self._threads)
        if n_tokens > _SHORT_TOKENS or self._threads != "auto":
            with torch_threads(n):
                yield
        else:
            n = self._short_calls.count(n)
            with torch_threads(n), self._short_calls.measured(n):
                yield

    def prepare(self) -> None:
        """Pack the weights for a CPU now instead of when first needed. Processes that are forked later share them."""
        keep_to_one_thread_after_fork()
        for module in self._packed_modules():
            module.prepare()

    def _packed_modules(self) -> Iterator[PackedModule[Any]]:
        return (module for module in self.modules() if isinstance(module, PackedModule))

    @property
    def embedder_version(self) -> object:
        """A version that changes with the embedder; None if changes cannot be detected, or a cache gains nothing."""
        version = None if isinstance(self.embedder, WordEmbedding) else version_of(self.embedder.parameters())
        return version and (self._first_layer.precision, version)

    @property
    def _first_layer(self) -> BidirectionalLSTMLayer:
        return cast("BidirectionalLSTMLayer", self.layers[0])

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def engine(self) -> str:
        """Name of the engine that runs the LSTM layers in prediction (`spacy_elmo.bilm.engines`)."""
        engine = self._first_layer.engine
        return engine.name if engine else "plain_recurrence"

    @property
    def vocabulary(self) -> list[str] | None:
        """Words of a word-input biLM; None if it reads characters."""
        return self.embedder.vocabulary if isinstance(self.embedder, WordEmbedding) else None

    @property
    def lexicons(self) -> Lexicons | None:
        """The lexicons of a model of ELMoForManyLangs; None for others."""
        return self.embedder.lexicons if isinstance(self.embedder, TokenEmbedder) else None

    def clear_word_table(self) -> None:
        """Clear the cache of words, for example to start a benchmark cold."""
        self._table.clear()

    def forget(self) -> None:
        """Drop all that was made from the weights. Call this if you change frozen weights without torch noticing."""
        self.clear_word_table()
        for module in self._packed_modules():
            module.forget()

    def initialize(self, generator: torch.Generator) -> None:
        """Draw random weights as in bilm-tf's training."""
        with torch.no_grad():
            for module in (self.embedder, *self.layers):
                module.initialize(generator)


@contextmanager
def _gradient_mode() -> Iterator[None]:
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _make_embedder(
    options: BiLMOptions, vocabulary: Sequence[str] | None, lexicons: Lexicons | None
) -> CharacterCNN | WordEmbedding | TokenEmbedder:
    width = options.lstm.projection_dim
    if options.token_embedder is not None:
        if lexicons is None:
            raise ElmoError("the options are of a model of ELMoForManyLangs, which needs its lexicons")
        return TokenEmbedder(options.token_embedder, lexicons, width)
    if options.char_cnn is not None:
        return CharacterCNN(options.char_cnn, width)
    if vocabulary is None:
        raise ElmoError("the options have no char_cnn, so this biLM reads whole words and needs its vocabulary")
    return WordEmbedding(vocabulary, width)
