"""One step of pretraining written down directly in torch, as bilm-tf has it: what spacy-elmo is timed beside.

The character CNN on every position of both directions, then one time step after the other in each direction, layer
above layer, and the sampled softmax for each direction. The gradients are autograd's.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from spacy_elmo.bilm.char_cnn import CharacterCNN, Highway
from spacy_elmo.bilm.lstm import BidirectionalLSTMLayer
from spacy_elmo.bilm.options import CharCNNOptions, LSTMOptions
from spacy_elmo.bilm.softmax import Candidates
from spacy_elmo.bilm.time_steps import State
from spacy_elmo.pretraining.batches import Batch, Batches
from spacy_elmo.pretraining.config import Config
from spacy_elmo.pretraining.corpus import Table
from spacy_elmo.pretraining.language_model import LanguageModel
from spacy_elmo.pretraining.optimizer import make_optimizer


class PlainStep:
    """Steps of training from a copy of a model's weights: forward, backward, clipping, update."""

    def __init__(self, model: LanguageModel, batches: Batches, config: Config) -> None:
        self.model, self.batches, self.config = PlainModel(model), batches, config
        self.optimizer = make_optimizer(self.model.parameters(), config.optimizer)
        self.step = 0
        self.states: Sequence[State] | None = None

    def advance(self) -> None:
        """Take one step."""
        training = self.config.training
        batch = self.batches.at(self.step)
        rng = np.random.default_rng([training.seed, self.step])
        candidates = Candidates.draw(training.n_negative_samples_batch, self.model.n_words, rng)
        dtype = getattr(torch, training.precision)
        with torch.autocast(self.model.device.type, dtype, enabled=dtype != torch.float32):
            loss, self.states = self.model(batch, self.batches.corpus.characters, self.states, candidates)
        self.optimizer.zero_grad(set_to_none=True)
        (loss * training.unroll_steps).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip_norm or math.inf)
        self.optimizer.step()
        self.step += 1


@dataclass(frozen=True)
class Pair:
    """A weight of ours and the one here that stands for it; `transform` takes ours, or its gradient, to that layout."""

    name: str
    ours: Tensor
    plain: Tensor
    transform: Callable[[Tensor], Tensor]


class PlainModel(nn.Module):
    """biLM and softmax as bilm-tf computes them, on a copy of the weights of ours."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        options = model.bilm.options
        assert options.char_cnn is not None
        self.n_words, self.dropout = len(model.softmax.bias), model.dropout
        self.use_skip_connections = options.lstm.use_skip_connections
        with torch.device("meta"):
            self.embedder = PlainEmbedder(options.char_cnn, options.lstm.projection_dim)
            self.directions = nn.ModuleList(
                nn.ModuleList(PlainCell(options.lstm) for _ in range(options.lstm.n_layers)) for _ in range(2)
            )
            self.softmax = PlainSoftmax(self.n_words, options.lstm.projection_dim)
        self.to_empty(device=model.bilm.device)
        with torch.no_grad():
            for pair in self.pairs(model):
                pair.plain.copy_(pair.transform(pair.ours))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.softmax.bias.device

    def forward(
        self, batch: Batch, characters: Table, states: Sequence[State] | None, candidates: Candidates
    ) -> tuple[Tensor, list[State]]:
        """Return the mean loss of the two directions, and the states to go on from; arguments as of `LanguageModel`."""
        losses, finals = [], []
        for direction in (0, 1):
            ids = torch.from_numpy(characters[batch.words[direction]].astype(np.int64)).to(self.device)
            x = self.embedder(ids.flatten(0, 1)).view(*ids.shape[:2], -1)
            before = [(hidden[direction], cell[direction]) for hidden, cell in states] if states else None
            outputs, final = self._read(direction, x, before, torch.from_numpy(batch.starts).to(self.device))
            targets = torch.from_numpy(batch.targets[direction]).to(self.device)
            outputs = functional.dropout(outputs.flatten(0, 1), self.dropout, self.training)
            losses.append(self.softmax(outputs, targets.flatten(), candidates))
            finals.append(final)
        joined = [
            (torch.stack([one[0], other[0]]).detach(), torch.stack([one[1], other[1]]).detach())
            for one, other in zip(*finals, strict=True)
        ]
        return (losses[0] + losses[1]) / 2, joined

    def _read(
        self, direction: int, x: Tensor, states: list[State] | None, starts: Tensor
    ) -> tuple[Tensor, list[State]]:
        """Run the cells of one direction over x `[rows, steps, width]`; return their outputs likewise, and states."""
        cells = list(self.directions[direction])  # type: ignore[call-overload] # a ModuleList of cells
        states = states or [cell.zero_state(len(x)) for cell in cells]
        outputs = []
        for time_ in range(x.shape[1]):
            y = x[:, time_]
            kept = ~starts[:, time_, None]
            for number, cell in enumerate(cells):
                y = functional.dropout(y, self.dropout, self.training)
                hidden, states[number] = cell(y, (states[number][0] * kept, states[number][1] * kept))
                y = y + hidden if number and self.use_skip_connections else hidden
            outputs.append(y)
        return torch.stack(outputs, dim=1), states

    def pairs(self, model: LanguageModel) -> Iterator[Pair]:
        """Every weight here beside the one of `model` that it stands for."""
        yield from self.embedder.pairs(model.bilm.embedder)  # type: ignore[arg-type] # `LanguageModel` has looked
        for number, layer in enumerate(model.bilm.layers):
            for direction, cells in enumerate(self.directions):
                yield from cells[number].pairs(layer, f"layer {number} direction {direction} ", direction)  # type: ignore[index]
        yield Pair("softmax weight", model.softmax.weight, self.softmax.weight, _same)
        yield Pair("softmax bias", model.softmax.bias, self.softmax.bias, _same)


class PlainEmbedder(nn.Module):
    """Character CNN at full width (bilm-tf's `_build_word_char_embeddings`)."""

    def __init__(self, options: CharCNNOptions, width: int) -> None:
        super().__init__()
        self.options = options
        n_filters = options.n_filters
        self.embedding = nn.Embedding(262, options.embedding_dim)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(options.embedding_dim, number, size) for size, number in options.filters
        )
        self.transforms = nn.ModuleList(nn.Linear(n_filters, n_filters) for _ in range(options.n_highway))
        self.carries = nn.ModuleList(nn.Linear(n_filters, n_filters) for _ in range(options.n_highway))
        self.projection = nn.Linear(n_filters, width) if n_filters != width else None

    def forward(self, ids: Tensor) -> Tensor:
        """ids: `[words, max_characters]`. Returns `[words, width]`."""
        activation = {"relu": torch.relu, "tanh": torch.tanh}[self.options.activation]
        x = self.embedding(ids).transpose(1, 2)  # [words, embedding_dim, characters]
        x = torch.cat([activation(convolution(x).amax(dim=2)) for convolution in self.convolutions], dim=1)
        for transform, carry_gate in zip(self.transforms, self.carries, strict=True):
            carry = torch.sigmoid(carry_gate(x))
            x = carry * torch.relu(transform(x)) + (1 - carry) * x
        return x if self.projection is None else self.projection(x)

    def pairs(self, ours: CharacterCNN) -> Iterator[Pair]:
        """See `PlainModel.pairs`."""
        yield Pair("characters", ours.embedding, self.embedding.weight, _same)
        widths = (size for size, _ in self.options.filters)
        for size, weight, bias, plain in zip(widths, ours.filters, ours.biases, self.convolutions, strict=True):
            yield Pair(f"filter {size}", weight, plain.weight, self._to_conv1d)  # type: ignore[arg-type]
            yield Pair(f"filter {size} bias", bias, plain.bias, _same)  # type: ignore[arg-type]
        for number, highway in enumerate(ours.highways):
            assert isinstance(highway, Highway)
            name, transform, carry = f"highway {number} ", self.transforms[number], self.carries[number]
            yield from _linear_pairs(name + "transform", highway.transform_weight, highway.transform_bias, transform)
            yield from _linear_pairs(name + "carry", highway.carry_weight, highway.carry_bias, carry)
        if ours.projection is not None and self.projection is not None:
            yield from _linear_pairs("projection", ours.projection.weight, ours.projection.bias, self.projection)

    def _to_conv1d(self, weight: Tensor) -> Tensor:
        """Ours is `[size * embedding_dim, number]`."""
        return weight.view(-1, self.options.embedding_dim, weight.shape[1]).permute(2, 1, 0)


class PlainCell(nn.Module):
    """One layer of one direction, a time step at a time (TensorFlow's `LSTMCell`)."""

    def __init__(self, options: LSTMOptions) -> None:
        super().__init__()
        self.options = options
        self.gates = nn.Linear(2 * options.projection_dim, 4 * options.dim)
        same = options.dim == options.projection_dim
        self.projection = None if same else nn.Linear(options.dim, options.projection_dim, bias=False)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x: `[rows, n_in]`; state: hidden `[rows, projection_dim]`, cell `[rows, dim]`. Returns hidden and state."""
        hidden, cell = state
        enter, forget, leave, candidate = self.gates(torch.cat([x, hidden], dim=1)).chunk(4, dim=1)
        cell = torch.sigmoid(forget + 1.0) * cell + torch.sigmoid(enter) * torch.tanh(candidate)
        cell = _clip(cell, self.options.cell_clip)
        hidden = torch.sigmoid(leave) * torch.tanh(cell)
        if self.projection is not None:
            hidden = _clip(self.projection(hidden), self.options.proj_clip)
        return hidden, (hidden, cell)

    def zero_state(self, rows: int) -> State:
        """The state that text begins with."""
        weight = self.gates.weight
        return weight.new_zeros(rows, self.options.projection_dim), weight.new_zeros(rows, self.options.dim)

    def pairs(self, ours: BidirectionalLSTMLayer, name: str, direction: int) -> Iterator[Pair]:
        """See `PlainModel.pairs`."""
        yield Pair(name + "weight", ours.weight, self.gates.weight, lambda x: x[direction].t())
        yield Pair(name + "bias", ours.bias, self.gates.bias, lambda x: x[direction])
        if ours.projection is not None and self.projection is not None:
            yield Pair(name + "projection", ours.projection, self.projection.weight, lambda x: x[direction].t())


class PlainSoftmax(nn.Module):
    """TensorFlow's `sampled_softmax_loss`."""

    def __init__(self, n_words: int, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(n_words, width)), nn.Parameter(torch.empty(n_words))

    def forward(self, hidden: Tensor, targets: Tensor, candidates: Candidates) -> Tensor:
        """hidden: `[n, width]`; targets: `[n]`. Returns the mean loss."""
        n, words = len(targets), candidates.words.to(targets.device)
        ids = torch.cat([targets, words])
        rows = functional.embedding(ids, self.weight)
        biases = self.bias[ids] - candidates.log_expected(ids)
        truth = (hidden * rows[:n]).sum(1) + biases[:n]
        logits = functional.linear(hidden, rows[n:], biases[n:])
        logits = logits.masked_fill(targets[:, None] == words, -torch.inf)
        logits = torch.cat([truth[:, None], logits], dim=1)
        return functional.cross_entropy(logits, torch.zeros_like(targets))


def _linear_pairs(name: str, weight: Tensor, bias: Tensor, plain: nn.Module) -> Iterator[Pair]:
    assert isinstance(plain, nn.Linear)
    yield Pair(name, weight, plain.weight, Tensor.t)
    yield Pair(name + " bias", bias, plain.bias, _same)


def _same(x: Tensor) -> Tensor:
    return x


def _clip(x: Tensor, limit: float | None) -> Tensor:
    return x if limit is None else x.clamp(-limit, limit)
