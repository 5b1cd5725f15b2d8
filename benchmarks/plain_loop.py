"""ELMo written down directly with torch's own operators, as AllenNLP has it: what spacy-elmo is timed beside.

Batches in the given order, the character CNN on every position of the padded batch at full width, then one time
step after the other for each layer and direction.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spacy_elmo.bilm import BiLM, characters
from spacy_elmo.bilm.char_cnn import CharacterCNN, Highway

Sentences = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Linear:
    """Weights in torch's usual layout: weight `[n_out, n_in]`, bias `[n_out]` or None."""

    weight: Tensor
    bias: Tensor | None = None

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None = None) -> "Linear":
        """Copy a weight that is laid out `[n_in, n_out]`."""
        return cls(weight.detach().t().contiguous(), None if bias is None else bias.detach().clone())

    def __call__(self, x: Tensor) -> Tensor:
        """x: `[..., n_in]`. Returns `[..., n_out]`."""
        return functional.linear(x, self.weight, self.bias)


class PlainLoop:
    """ELMo as AllenNLP computes it, on a copy of the weights of a BiLM."""

    def __init__(self, bilm: BiLM) -> None:
        self.embedder = PlainEmbedder(bilm)
        self.layers = [
            [PlainLSTM(bilm, number, direction) for direction in (0, 1)] for number in range(bilm.options.lstm.n_layers)
        ]
        self.use_skip_connections = bilm.options.lstm.use_skip_connections

    @torch.no_grad()
    def __call__(self, sentences: Sentences) -> Tensor:
        """Encode one batch: `[n_layers + 1, sentences, longest, 2 * projection_dim]`, BOS and EOS included."""
        by_length = sorted(range(len(sentences)), key=lambda row: -len(sentences[row]))
        lengths = [len(sentences[row]) + 2 for row in by_length]
        embeddings = self.embedder([sentences[row] for row in by_length])
        outputs = [torch.cat([embeddings, embeddings], dim=-1)]
        x = [embeddings, embeddings]
        for number, layer in enumerate(self.layers):
            y = [lstm(part, lengths) for lstm, part in zip(layer, x, strict=True)]
            x = [a + b for a, b in zip(x, y, strict=True)] if number and self.use_skip_connections else y
            outputs.append(torch.cat(x, dim=-1))
        return torch.stack(outputs)[:, torch.tensor(by_length).argsort()]


class PlainEmbedder:
    """Character CNN on every position of a padded batch (AllenNLP's `_ElmoCharacterEncoder`)."""

    def __init__(self, bilm: BiLM) -> None:
        embedder = bilm.embedder
        assert isinstance(embedder, CharacterCNN)
        self.options = embedder.options
        self.embedding = embedder.embedding.detach().clone()
        self.filters = [
            (weight.detach().view(size, -1, number).permute(2, 1, 0).contiguous(), bias.detach().clone())
            for (size, number), weight, bias in zip(
                self.options.filters, embedder.filters, embedder.biases, strict=True
            )
        ]
        self.highways = [_plain_highway(module) for module in embedder.highways]
        last = embedder.projection
        self.projection = Linear.of(last.weight, last.bias) if last is not None else None

    def __call__(self, sentences: Sentences) -> Tensor:
        """Return `[sentences, longest, projection_dim]`; sentences come sorted by falling length."""
        ids = torch.from_numpy(self._ids(sentences))
        x = self.embedding[ids.flatten(0, 1)].transpose(1, 2)  # [words, embedding_dim, characters]
        activation = {"relu": torch.relu, "tanh": torch.tanh}[self.options.activation]
        pooled = [activation(functional.conv1d(x, weight, bias).amax(dim=2)) for weight, bias in self.filters]
        x = torch.cat(pooled, dim=1)
        for highway in self.highways:
            transform, carry = highway(x).chunk(2, dim=1)
            carry = torch.sigmoid(carry)
            x = carry * torch.relu(transform) + (1 - carry) * x
        if self.projection is not None:
            x = self.projection(x)
        return x.view(*ids.shape[:2], -1)

    def _ids(self, sentences: Sentences) -> np.ndarray[Any, np.dtype[np.int64]]:
        width = self.options.max_characters_per_token
        ids = np.zeros((len(sentences), len(sentences[0]) + 2, width), dtype=np.int64)
        for row, sentence in enumerate(sentences):
            words = [characters.BOS, *sentence, characters.EOS]
            ids[row, : len(words)] = characters.pad([characters.token_ids(word, width) for word in words], width)
        return ids


def _plain_highway(highway: Any) -> Linear:
    """Both halves of a highway as one map, transform first."""
    assert isinstance(highway, Highway)
    weight = torch.cat([highway.transform_weight, highway.carry_weight], dim=1)
    return Linear.of(weight, torch.cat([highway.transform_bias, highway.carry_bias]))


class PlainLSTM:
    """One direction of one layer, a time step at a time (AllenNLP's `LstmCellWithProjection`)."""

    def __init__(self, bilm: BiLM, number: int, direction: int) -> None:
        layer: Any = bilm.layers[number]
        options = bilm.options.lstm
        self.dim, self.projection_dim, self.forward = options.dim, options.projection_dim, direction == 0
        self.cell_clip, self.proj_clip = layer.cell_clip, layer.proj_clip
        bias = layer.bias.detach()[direction].clone()
        bias[options.dim : 2 * options.dim] += 1.0  # the forget gate's, as AllenNLP adds it in loading
        self.input = Linear.of(layer.weight[direction, : layer.n_in])
        self.state = Linear.of(layer.weight[direction, layer.n_in :], bias)
        self.projection = Linear.of(layer.projection[direction]) if layer.projection is not None else None

    def __call__(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        """x: `[sentences, longest, n_in]` by falling length. Returns `[sentences, longest, projection_dim]`."""
        hidden = x.new_zeros(len(lengths), self.projection_dim)
        cell = x.new_zeros(len(lengths), self.dim)
        outputs = x.new_zeros(*x.shape[:2], self.projection_dim)
        for time_, rows in self._steps(lengths):
            gates = self.input(x[:rows, time_]) + self.state(hidden[:rows])
            enter, forget, leave, candidate = gates.chunk(4, dim=1)
            new = torch.sigmoid(enter) * torch.tanh(candidate) + torch.sigmoid(forget) * cell[:rows]
            new = _clip(new, self.cell_clip)
            output = torch.sigmoid(leave) * torch.tanh(new)
            if self.projection is not None:
                output = _clip(self.projection(output), self.proj_clip)
            cell[:rows], hidden[:rows], outputs[:rows, time_] = new, output, output
        return outputs

    def _steps(self, lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield each time step with the number of sentences that reach it, from the side the LSTM starts at."""
        steps = range(lengths[0])
        for time_ in steps if self.forward else reversed(steps):
            yield time_, sum(length > time_ for length in lengths)


def _clip(x: Tensor, limit: float | None) -> Tensor:
    return x if limit is None else x.clamp(-limit, limit)
