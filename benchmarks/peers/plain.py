"""ELMo written directly in torch's own operators. spacy-elmo is compared with it on a GPU and in pretraining.

It works as bilm-tf and AllenNLP do: the character CNN runs on every position of the batch, then each layer and
direction runs one time step after the other. The sampled softmax is TensorFlow's, and gradients come from autograd. It
uses the parameters of spacy-elmo, but none of its computations.
"""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ours
import torch
from torch import Tensor, nn
from torch.nn import functional

from peers import Sentences, batches_of

State = tuple[Tensor, Tensor]  # hidden [rows, projection_dim], cell [rows, dim]


class Engine:
    """See peers/__init__.py."""

    def __init__(self, directory: Path, threads: int, device: str = "cpu") -> None:
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = False  # float32 everywhere, as in torch's products
        self.bilm = PlainBiLM(ours.load(directory).to(device))

    def run(self, sentences: Sentences) -> object:
        """Encode one batch."""
        return self.bilm.layers(sentences).cpu()

    def encode(self, sentences: Sentences) -> Iterator[Any]:
        """Encode batch by batch."""
        for batch in batches_of(sentences):
            layers = self.bilm.layers(batch).cpu().numpy()
            for row, sentence in enumerate(batch):
                yield layers[:, row, 1 : len(sentence) + 1]


class PlainBiLM:
    """The network of a BiLM, with its parameters."""

    def __init__(self, bilm: Any) -> None:
        self.options, self.embedder, self.lstms = bilm.options, bilm.embedder, bilm.layers

    def layers(self, sentences: Sentences) -> Tensor:
        """Return `[n_layers + 1, sentences, longest, 2 * projection_dim]`, including BOS and EOS."""
        order = sorted(range(len(sentences)), key=lambda row: -len(sentences[row]))
        lengths = [len(sentences[row]) + 2 for row in order]
        rows = [sum(length > time for length in lengths) for time in range(lengths[0])]
        words = [[ours.BOS, *sentences[row], ours.EOS] for row in order]
        padded = [word for sentence in words for word in sentence + [""] * (lengths[0] - len(sentence))]
        ids = ours.character_ids(padded, self.options.char_cnn.max_characters_per_token)
        forward = self.embed(ids.to(self.embedder.embedding.device)).view(len(words), lengths[0], -1)
        both = []
        for direction, x in enumerate((forward, flipped(forward, lengths))):
            outputs = [x, *(y for y, _ in self.read(direction, x, rows))]
            both.append(torch.stack([flipped(y, lengths) if direction else y for y in outputs]))
        return torch.cat(both, dim=-1)[:, torch.tensor(order).argsort()]

    def embed(self, ids: Tensor) -> Tensor:
        """ids: `[words, max_characters]`. Returns `[words, projection_dim]`."""
        cnn, embedder = self.options.char_cnn, self.embedder
        x = functional.embedding(ids, embedder.embedding).transpose(1, 2)
        activation = {"relu": torch.relu, "tanh": torch.tanh}[cnn.activation]
        pooled = []
        for (size, number), weight, bias in zip(cnn.filters, embedder.filters, embedder.biases, strict=True):
            kernel = weight.view(size, -1, number).permute(2, 1, 0)
            pooled.append(activation(functional.conv1d(x, kernel, bias).amax(dim=2)))
        x = torch.cat(pooled, dim=1)
        for highway in embedder.highways:
            carry = torch.sigmoid(torch.addmm(highway.carry_bias, x, highway.carry_weight))
            transform = torch.relu(torch.addmm(highway.transform_bias, x, highway.transform_weight))
            x = carry * transform + (1 - carry) * x
        last = embedder.projection
        return x if last is None else torch.addmm(last.bias, x, last.weight)

    def read(
        self,
        direction: int,
        x: Tensor,
        rows: Sequence[int],
        states: Sequence[State] | None = None,
        kept: Tensor | None = None,
        dropout: float = 0.0,
    ) -> Iterator[tuple[Tensor, State]]:
        """Yield the outputs and the final state of each layer. x and outputs: `[rows, steps, projection_dim]`, in the
        order of reading.

        rows: number of rows at each step, in descending order; kept: `[rows, steps]`, whether a row keeps its state.
        """
        sizes = self.options.lstm
        for number, lstm in enumerate(self.lstms):
            x = functional.dropout(x, dropout)
            zeros = (x.new_zeros(len(x), width) for width in (sizes.projection_dim, sizes.dim))
            hidden, cell = states[number] if states else zeros
            outputs = []
            for time, n in enumerate(rows):
                keep: Any = 1.0 if kept is None else kept[:n, time, None]
                hidden, cell = self._step(lstm, direction, x[:n, time], hidden[:n] * keep, cell[:n] * keep)
                outputs.append(functional.pad(hidden, (0, 0, 0, len(x) - n)))
            y = torch.stack(outputs, dim=1)
            x = x + y if number and sizes.use_skip_connections else y
            yield x, (hidden, cell)

    def _step(self, lstm: Any, direction: int, x: Tensor, hidden: Tensor, cell: Tensor) -> State:
        """Run one time step of a layer (TensorFlow's `LSTMCell`)."""
        gates = torch.addmm(lstm.bias[direction], torch.cat([x, hidden], dim=1), lstm.weight[direction])
        input_gate, forget_gate, output_gate, candidate = gates.chunk(4, dim=1)
        cell = torch.sigmoid(forget_gate + 1.0) * cell + torch.sigmoid(input_gate) * torch.tanh(candidate)
        cell = _clip(cell, self.options.lstm.cell_clip)
        hidden = torch.sigmoid(output_gate) * torch.tanh(cell)
        if lstm.projection is not None:
            hidden = _clip(hidden @ lstm.projection[direction], self.options.lstm.proj_clip)
        return hidden, cell


def flipped(x: Tensor, lengths: Sequence[int]) -> Tensor:
    """Reverse each row of `[rows, steps, width]` within its length."""
    return torch.stack([torch.cat([row[:n].flip(0), row[n:]]) for row, n in zip(x, lengths, strict=True)])


def _clip(x: Tensor, limit: float | None) -> Tensor:
    return x if limit is None else x.clamp(-limit, limit)


# Pretraining


class PlainLanguageModel(nn.Module):
    """The language model with a copy of our model's weights, called in the same way."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.bilm, self.softmax, self.dropout = copy.deepcopy(model.bilm), copy.deepcopy(model.softmax), model.dropout

    def forward(
        self, batch: Any, characters: Any, states: Sequence[State] | None, candidates: Any, seed: int = 0
    ) -> tuple[Tensor, list[State]]:
        """Return the mean loss of the two directions, and the states to continue from. The seed is not used."""
        device, losses, finals = self.softmax.bias.device, [], []
        network, dropout = PlainBiLM(self.bilm), self.dropout if self.training else 0.0
        kept = ~torch.from_numpy(batch.starts).to(device)
        for direction in (0, 1):
            ids = torch.from_numpy(characters[batch.words[direction]]).to(device).long()
            x = network.embed(ids.flatten(0, 1)).view(*ids.shape[:2], -1)
            own = [(hidden[direction], cell[direction]) for hidden, cell in states or ()]
            layers = list(network.read(direction, x, [len(x)] * x.shape[1], own, kept, dropout))
            outputs = functional.dropout(layers[-1][0].flatten(0, 1), dropout)
            targets = torch.from_numpy(batch.targets[direction]).to(device).flatten()
            losses.append(self._loss(outputs, targets, candidates))
            finals.append([state for _, state in layers])
        joined = [tuple(torch.stack(part).detach() for part in zip(*both, strict=True)) for both in zip(*finals)]  # noqa: B905
        return (losses[0] + losses[1]) / 2, joined  # type: ignore[return-value] # pairs of hidden and cell

    def _loss(self, hidden: Tensor, targets: Tensor, candidates: Any) -> Tensor:
        n, words = len(targets), candidates.words.to(targets.device)
        ids = torch.cat([targets, words])
        rows = functional.embedding(ids, self.softmax.weight)
        biases = self.softmax.bias[ids] - candidates.log_expected(ids)
        truth = (hidden * rows[:n]).sum(1) + biases[:n]
        logits = functional.linear(hidden, rows[n:], biases[n:])
        logits = logits.masked_fill(targets[:, None] == words, -torch.inf)
        logits = torch.cat([truth[:, None], logits], dim=1)
        return functional.cross_entropy(logits, torch.zeros_like(targets))
