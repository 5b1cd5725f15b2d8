"""Sequences of tokens in, activations of every layer out: the biLM of Peters et al. 2018."""

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
_STRETCH = 4  # how many times that a batch of few long sequences may take where no gradients are kept
_SHORT_TOKENS = 256  # of a call that takes some milliseconds


@dataclass
class CarriedState:
    """LSTM state carried from batch to batch, as bilm-tf and AllenNLP do by default: row i of a batch goes
    on where row i of an earlier batch ended.

    layers: for each LSTM layer, hidden `[2, rows, projection_dim]` and cell `[2, rows, dim]`, forward and
        backward; empty at first. Rows not seen yet are zero.
    """

    layers: list[State] = field(default_factory=list)

    def take(self, layer: int, rows: Tensor) -> State | None:
        """State of these rows, in their order; None where nothing is carried yet."""
        if layer >= len(self.layers):
            return None
        hidden, cell = (_with_rows(part, len(rows))[:, rows] for part in self.layers[layer])
        return hidden, cell

    def put(self, layer: int, rows: Tensor, state: State) -> None:
        """Keep the state these rows ended in; other rows keep theirs."""
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


@dataclass(frozen=True)
class EncodedBatch:
    """Layers of the sequences of one batch, BOS and EOS included.

    numbers: which sequences, as numbered in the call.
    lengths: their lengths with BOS and EOS.
    layers: `[n_layers + 1, sum(lengths), 2 * projection_dim]`, sequence behind sequence.
    """

    numbers: list[int]
    lengths: list[int]
    layers: Tensor


class BiLM(nn.Module):
    """Bidirectional language model over characters or words, or both, without its softmax.

    Matches the activations of bilm-tf's `BidirectionalLanguageModel`, AllenNLP's `_ElmoBiLm` and ELMoForManyLangs's
    `Embedder` to 1e-5, but starts every sequence from zero state unless a `CarriedState` is passed.

    options: the architecture.
    vocabulary: the words of a word-input biLM in the order of its vectors, `<S>`, `</S>` and `<UNK>` among them.
    card: facts about the model (name, licence, ...), kept with it.
    lexicons: what a model of ELMoForManyLangs knows.

    A new BiLM has random weights, drawn from `seed`, and is ready to be trained; `spacy_elmo.formats.load` reads
    trained ones and freezes them (`bilm.requires_grad_()` undoes that).
    """

    _threads: Threads = "auto"
    _short_calls = ShortCalls()  # of all biLMs: the machine is one
    _freed = FreedMemory()  # likewise: the process is one

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
        """Compute all layers of sequences that lie one behind the other.

        embeddings: `[n_tokens, projection_dim]`, BOS and EOS included; packing: of the sequences' lengths.
        state: carried state, read and brought up to date; None starts from zero.

        Returns `[n_layers + 1, n_tokens, 2 * projection_dim]`; layer 0 is the embedding twice side by side.
        """
        order = to_device(packing.order, embeddings.device)
        rows = to_device(packing.rows, embeddings.device)
        layers = embeddings.new_empty(1 + len(self.layers), len(embeddings), 2, embeddings.shape[1])
        layers[0] = embeddings[:, None]
        states = [state.take(number, rows) if state else None for number in range(len(self.layers))]
        for number, (y, final) in enumerate(self.run_layers(embeddings[order], packing.batch_sizes, states)):
            if state is not None:
                state.put(number, rows, final)
            for direction in range(2):
                layers[number + 1, order[direction], direction] = y[direction]
        return layers.flatten(2)

    def run_layers(
        self,
        x: Tensor,
        batch_sizes: Sequence[int],
        states: Sequence[State | None],
        starts: Tensor | None = None,
        drop: Callable[[Tensor], Tensor] | None = None,
    ) -> Iterator[tuple[Tensor, State]]:
        """Yield each LSTM layer's outputs and last state, with the skip connections.

        x: `[2, n_tokens, projection_dim]`, packed; arguments and results as of `BidirectionalLSTMLayer.forward`.
        states: initial state for each layer; drop: dropout, on the input of each layer.
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
        """Return the layers of each sentence, `[n_layers + 1, n_tokens, 2 * projection_dim]` float32.

        sentences: any iterable of sentences, each any iterable of strings, or of tokens of spaCy: lists, arrays, a
            column of pandas, `doc.sents`.
        keep_boundaries: also give out the positions of BOS and EOS (n_tokens + 2).
        max_batch_tokens: how many tokens are worked on at once (of up to 16 long sentences four times as many);
            bounds memory, changes no number.
        state: carry LSTM state from call to call, sentence i going on from sentence i of earlier calls. For
            parity with the originals, not for speed: it works in float64, since rounding grows along the way
            (the originals' own carried states are up to 1.2e-5 apart in float32).

        Raises:
            ElmoError: a sentence is a string instead of a list of tokens, or a token is no string.
        """
        inner = slice(None) if keep_boundaries else slice(1, -1)
        tokens = characters.sentences_of(sentences)
        encoded: list[Any] = [None] * len(tokens)
        for batch in self._stream(tokens, max_batch_tokens, state, torch.inference_mode, _STRETCH):
            layers = floats_on_cpu(batch.layers)
            for number, part in zip(batch.numbers, layers.split(batch.lengths, dim=1), strict=True):
                encoded[number] = part[:, inner].numpy().copy()
            del batch, layers, part  # or they are still there beside the next ones
        return encoded

    def stream(
        self,
        sentences: Iterable[characters.Tokens],
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        state: CarriedState | None = None,
    ) -> Iterator[EncodedBatch]:
        """Encode sentences batch by batch, longest first, without gradients; arguments as in `encode`.

        With a carried state all sentences are one batch, since its rows are theirs.
        """
        tokens = characters.sentences_of(sentences)
        yield from self._stream(tokens, max_batch_tokens, state, torch.inference_mode, _STRETCH)

    def stream_with_gradients(
        self, sentences: Iterable[characters.Tokens], max_batch_tokens: int = MAX_BATCH_TOKENS
    ) -> Iterator[EncodedBatch]:
        """As `stream`, with layers through which `backward` reaches the parameters that require gradients."""
        yield from self._stream(characters.sentences_of(sentences), max_batch_tokens, None, _gradient_mode, 1)

    def _stream(
        self,
        sentences: Sequence[Sequence[str]],
        max_batch_tokens: int,
        state: CarriedState | None,
        mode: Callable[[], AbstractContextManager[None]],
        stretch: int,
    ) -> Iterator[EncodedBatch]:
        """mode: in which a batch is computed. No decorator of this function's, which would hold each batch until there
        is the next."""
        keep_to_one_thread_after_fork()
        if not sentences:
            return
        lengths = [len(sentence) + 2 for sentence in sentences]
        if state is None:
            bilm, batches = self, plan_batches(lengths, max_batch_tokens, stretch, self._first_layer.max_rows)
        else:
            if self.device.type == "mps":
                raise ElmoError('a carried state is computed in float64, which device "mps" has not; use "cpu" for it')
            bilm, batches = copy.deepcopy(self).double(), iter([list(range(len(sentences)))])
        for numbers in batches:
            batch_lengths = [lengths[number] for number in numbers]
            begin, end = bilm.embedder.borders
            words = [word for number in numbers for word in (begin, *sentences[number], end)]
            # The caller's autocast would round or fail.
            with mode(), torch.autocast(bilm.device.type, enabled=False), self._with_threads(len(words)):
                layers = bilm(bilm.embed(words), Packing.of(batch_lengths), state)
            yield EncodedBatch(numbers, batch_lengths, layers)
            n_bytes = layers.nbytes if layers.is_cpu else 0
            del layers  # or they are still there beside the next ones
            self._freed.add(n_bytes)

    @runs_eagerly
    def embed(self, words: characters.Tokens) -> Tensor:
        """Return the context-insensitive vectors of words, `[len(words), projection_dim]`.

        Each distinct word is computed once. Where the parameters are frozen (`requires_grad` False, as `load`
        leaves them), its vector is remembered in a bounded table; who changes frozen parameters behind torch's
        back (`parameter.data`) calls `forget`.

        Raises:
            ElmoError: it is one string, or a token is no string.
        """
        keep_to_one_thread_after_fork()
        return self._table.embed(characters.tokens_of(words), self.embedder, self.embedder_version)

    def set_precision(self, precision: Precision) -> None:
        """Compute with weights in "float32", "float16" or "int8". The reduced ones are for prediction, and round the
        matrices to float16 for good.

        Raises:
            ElmoError: the precision is unknown, there are no means for it here, or the weights are being trained.
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
        """How many threads it may use on a CPU, as `set_threads` was told."""
        return self._threads

    def set_threads(self, threads: Threads) -> None:
        """Use at most this many threads on a CPU; "auto": as many as torch does. Never more are used than there are
        CPUs that the process may run on, or than its container's quota of CPU time pays for. Changes no weight, and is
        not saved with them.

        Raises:
            ElmoError: it is neither "auto" nor a whole number of at least 1.
        """
        check_threads(threads)
        self._threads = threads

    @contextmanager
    def _with_threads(self, n_tokens: int) -> Iterator[None]:
        """Compute a batch of so many tokens with the threads that are to be used; torch's own number comes back."""
        n = count_threads(self._threads)
        if n_tokens > _SHORT_TOKENS or self._threads != "auto":
            with torch_threads(n):
                yield
        else:
            n = self._short_calls.count(n)
            with torch_threads(n), self._short_calls.measured(n):
                yield

    def prepare(self) -> None:
        """Make now what speed needs on a CPU, which is otherwise made when needed; processes forked later share it."""
        keep_to_one_thread_after_fork()
        for module in self._packed_modules():
            module.prepare()

    def _packed_modules(self) -> Iterator[PackedModule[Any]]:
        return (module for module in self.modules() if isinstance(module, PackedModule))

    @property
    def embedder_version(self) -> object:
        """What tells one state of the embedder from another; None where nothing would tell, or nothing is gained."""
        version = None if isinstance(self.embedder, WordEmbedding) else version_of(self.embedder.parameters())
        return version and (self._first_layer.precision, version)

    @property
    def _first_layer(self) -> BidirectionalLSTMLayer:
        return cast("BidirectionalLSTMLayer", self.layers[0])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def engine(self) -> str:
        """Name of what runs its LSTM layers in prediction (`spacy_elmo.bilm.engines`)."""
        engine = self._first_layer.engine
        return engine.name if engine else "plain_recurrence"

    @property
    def vocabulary(self) -> list[str] | None:
        """Words of a word-input biLM; None where it reads characters."""
        return self.embedder.vocabulary if isinstance(self.embedder, WordEmbedding) else None

    @property
    def lexicons(self) -> Lexicons | None:
        """What a model of ELMoForManyLangs knows; None for others."""
        return self.embedder.lexicons if isinstance(self.embedder, TokenEmbedder) else None

    def clear_word_table(self) -> None:
        """Forget the words embedded so far (for benchmarks: what follows starts cold)."""
        self._table.clear()

    def forget(self) -> None:
        """Forget all that was made from the weights, for who changes frozen ones behind torch's back."""
        self.clear_word_table()
        for module in self._packed_modules():
            module.forget()

    def initialize(self, generator: torch.Generator) -> None:
        """Draw random weights as bilm-tf's training does."""
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
            raise ElmoError("the options are those of a model of ELMoForManyLangs, which needs its lexicons")
        return TokenEmbedder(options.token_embedder, lexicons, width)
    if options.char_cnn is not None:
        return CharacterCNN(options.char_cnn, width)
    if vocabulary is None:
        raise ElmoError("the options have no char_cnn, so this biLM reads whole words and needs its vocabulary")
    return WordEmbedding(vocabulary, width)
