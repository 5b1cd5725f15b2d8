"""ELMo written down directly in torch's own operators: what spacy-elmo is timed beside on a GPU and in pretraining.

The character CNN on every position of the batch, then one time step after the other in each layer and direction, as
bilm-tf and AllenNLP have it, with the sampled softmax of TensorFlow; gradients are autograd's. Weights are named as in
the published HDF5 files and lie as there with their axes reversed, which is how torch has them.
"""

import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import ours
import torch
from torch import Tensor, nn
from torch.nn import functional

from peers import Forgetful, Sentences, batches_of

State = tuple[Tensor, Tensor]  # hidden [rows, projection_dim], cell [rows, dim]
TOLERANCE = 1e-5  # of loss and states, relative to the largest entry
GRADIENT_TOLERANCE = 1e-4  # likewise. torch's conv1d rounds so in its gradients; without it 1e-6 would do


class Engine(Forgetful):
    """See peers/__init__.py."""

    packages = ("torch",)

    def __init__(self, directory: Path, threads: int, device: str = "cpu") -> None:
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = False  # as in torch's products: float32 everywhere
        self.bilm = PlainBiLM(directory).to(device).requires_grad_(False)

    def run(self, sentences: Sentences) -> object:
        """Encode one batch."""
        return self.bilm.layers(sentences).cpu()

    def encode(self, sentences: Sentences) -> Iterator[Any]:
        """Encode batch by batch."""
        for batch in batches_of(sentences):
            layers = self.bilm.layers(batch).cpu().numpy()
            for row, sentence in enumerate(batch):
                yield layers[:, row, 1 : len(sentence) + 1]


class PlainBiLM(nn.Module):
    """The biLM in a directory as `spacy_elmo.formats.write` writes it."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        options = json.loads((directory / "options.json").read_bytes())
        self.lstm, self.cnn = options["lstm"], options["char_cnn"]
        arrays = read_arrays(directory)
        self.weights = nn.ParameterDict({name: nn.Parameter(array) for name, array in arrays.items()})

    def layers(self, sentences: Sentences) -> Tensor:
        """`[n_layers + 1, sentences, longest, 2 * projection_dim]`, BOS and EOS included."""
        order = sorted(range(len(sentences)), key=lambda row: -len(sentences[row]))
        lengths = [len(sentences[row]) + 2 for row in order]
        rows = [sum(length > time for length in lengths) for time in range(lengths[0])]
        words = [[ours.BOS, *sentences[row], ours.EOS] for row in order]
        forward = self.embed([sentence + [""] * (lengths[0] - len(sentence)) for sentence in words])
        both = []
        for direction, x in enumerate((forward, flipped(forward, lengths))):
            outputs = [x, *(y for y, _ in self.read(direction, x, rows))]
            both.append(torch.stack([flipped(y, lengths) if direction else y for y in outputs]))
        return torch.cat(both, dim=-1)[:, torch.tensor(order).argsort()]

    def embed(self, sentences: Sentences) -> Tensor:
        """Sentences of one length: `[sentences, words, projection_dim]`."""
        width = self.cnn["max_characters_per_token"]
        ids = ours.character_ids([word for sentence in sentences for word in sentence], width)
        return self.embed_ids(ids.to(self.weights["char_embed"].device)).view(len(sentences), len(sentences[0]), -1)

    def embed_ids(self, ids: Tensor) -> Tensor:
        """ids: `[words, max_characters]`. Returns `[words, projection_dim]`."""
        weights = self.weights
        x = functional.embedding((ids - 1).clamp_(min=0), weights["char_embed"]).transpose(1, 2)
        activation = {"relu": torch.relu, "tanh": torch.tanh}[self.cnn["activation"]]
        pooled = [
            activation(functional.conv1d(x, weights[f"CNN/W_cnn_{i}"], weights[f"CNN/b_cnn_{i}"]).amax(dim=2))
            for i in range(len(self.cnn["filters"]))
        ]
        x = torch.cat(pooled, dim=1)
        for i in range(self.cnn["n_highway"]):
            carry, transform = (self._linear(x, f"CNN_high_{i}/{{}}_{gate}") for gate in ("carry", "transform"))
            carry = torch.sigmoid(carry)
            x = carry * torch.relu(transform) + (1 - carry) * x
        return self._linear(x, "CNN_proj/{}_proj") if "CNN_proj/W_proj" in weights else x

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return functional.linear(x, self.weights[name.format("W")], self.weights[name.format("b")])

    def read(
        self,
        direction: int,
        x: Tensor,
        rows: Sequence[int],
        states: Sequence[State] | None = None,
        kept: Tensor | None = None,
        dropout: float = 0.0,
    ) -> Iterator[tuple[Tensor, State]]:
        """Yield the outputs `[rows, steps, projection_dim]` and the last state of each layer.

        x: `[rows, steps, projection_dim]` in the order in which this direction reads.
        rows: how many there are at each step, falling; kept: `[rows, steps]`, where a row keeps its state.
        """
        for layer in range(self.lstm["n_layers"]):
            x = functional.dropout(x, dropout, self.training)
            hidden, cell = states[layer] if states else (x.new_zeros(len(x), n) for n in self._widths)
            outputs = []
            for time, n in enumerate(rows):
                keep: Any = 1.0 if kept is None else kept[:n, time, None]
                hidden, cell = self._step(direction, layer, x[:n, time], hidden[:n] * keep, cell[:n] * keep)
                outputs.append(functional.pad(hidden, (0, 0, 0, len(x) - n)))
            y = torch.stack(outputs, dim=1)
            x = x + y if layer and self.lstm["use_skip_connections"] else y
            yield x, (hidden, cell)

    @property
    def _widths(self) -> tuple[int, int]:
        return self.lstm["projection_dim"], self.lstm["dim"]

    def _step(self, direction: int, layer: int, x: Tensor, hidden: Tensor, cell: Tensor) -> State:
        """One time step of a layer (TensorFlow's `LSTMCell`)."""
        name, weights = f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell/", self.weights
        gates = functional.linear(torch.cat([x, hidden], dim=1), weights[name + "W_0"], weights[name + "B"])
        enter, candidate, forget, leave = gates.chunk(4, dim=1)
        cell = torch.sigmoid(forget + 1.0) * cell + torch.sigmoid(enter) * torch.tanh(candidate)
        cell = _clip(cell, self.lstm.get("cell_clip"))
        hidden = torch.sigmoid(leave) * torch.tanh(cell)
        if name + "W_P_0" in weights:
            hidden = _clip(functional.linear(hidden, weights[name + "W_P_0"]), self.lstm.get("proj_clip"))
        return hidden, cell


def read_arrays(directory: Path) -> dict[str, Tensor]:
    """The arrays of a directory by name, their axes reversed but for the table of characters."""
    found: dict[str, Tensor] = {}

    def take(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            array = node[0] if node.ndim == 4 else node[...]  # convolutions have a first axis of 1
            found[name] = torch.from_numpy(np.ascontiguousarray(array if name == "char_embed" else array.T))

    with h5py.File(directory / "weights.hdf5") as file:
        file.visititems(take)
    return found


def flipped(x: Tensor, lengths: Sequence[int]) -> Tensor:
    """Each row of `[rows, steps, width]` the other way round, as far as it goes."""
    x = x.clone()
    for row, length in enumerate(lengths):
        x[row, :length] = x[row, :length].flip(0)
    return x


def _clip(x: Tensor, limit: float | None) -> Tensor:
    return x if limit is None else x.clamp(-limit, limit)


# Pretraining


class PlainLanguageModel(nn.Module):
    """The biLM with TensorFlow's `sampled_softmax_loss`, on a copy of the weights of ours."""

    def __init__(self, step: "ours.Step") -> None:
        super().__init__()
        with tempfile.TemporaryDirectory() as directory:
            softmax = step.write(Path(directory))
            self.bilm = PlainBiLM(Path(directory))
        self.weight, self.bias = nn.Parameter(softmax["weight"]), nn.Parameter(softmax["bias"])
        self.characters, self.dropout = step.batches.corpus.characters, step.model.dropout
        self.to(step.device)

    def forward(self, question: "ours.Question") -> tuple[Tensor, list[State]]:
        """Return the mean loss of the two directions, and the states to go on from."""
        batch, device, losses, finals = question.batch, self.bias.device, [], []
        kept = ~torch.from_numpy(batch.starts).to(device)
        for direction in (0, 1):
            ids = torch.from_numpy(self.characters[batch.words[direction]].astype(np.int64)).to(device)
            x = self.bilm.embed_ids(ids.flatten(0, 1)).view(*ids.shape[:2], -1)
            states = [(hidden[direction], cell[direction]) for hidden, cell in question.states]
            rows = [len(x)] * x.shape[1]
            layers = list(self.bilm.read(direction, x, rows, states or None, kept, self.dropout))
            outputs = functional.dropout(layers[-1][0].flatten(0, 1), self.dropout, self.training)
            targets = torch.from_numpy(batch.targets[direction]).to(device).flatten()
            losses.append(self._loss(outputs, targets, question.candidates))
            finals.append([state for _, state in layers])
        joined = [tuple(torch.stack(part).detach() for part in zip(*both, strict=True)) for both in zip(*finals)]  # noqa: B905
        return (losses[0] + losses[1]) / 2, joined  # type: ignore[return-value] # pairs of hidden and cell

    def _loss(self, hidden: Tensor, targets: Tensor, candidates: Any) -> Tensor:
        n, words = len(targets), candidates.words.to(targets.device)
        ids = torch.cat([targets, words])
        rows = functional.embedding(ids, self.weight)
        biases = self.bias[ids] - candidates.log_expected(ids)
        truth = (hidden * rows[:n]).sum(1) + biases[:n]
        logits = functional.linear(hidden, rows[n:], biases[n:])
        logits = logits.masked_fill(targets[:, None] == words, -torch.inf)
        logits = torch.cat([truth[:, None], logits], dim=1)
        return functional.cross_entropy(logits, torch.zeros_like(targets))


class PlainStep:
    """Steps of training from a copy of the weights of ours: forward, backward, clipping, update."""

    def __init__(self, ours_: "ours.Step") -> None:
        self.ours, self.model = ours_, PlainLanguageModel(ours_)
        self.optimizer = ours.make_optimizer(self.model.parameters(), ours_.config.optimizer)
        self.step = 0
        self.states: list[State] = []

    def advance(self) -> None:
        """Take one step."""
        config = self.ours.config
        question = ours.Question(self.ours.batches.at(self.step), self.states, self.ours.candidates(self.step))
        dtype = getattr(torch, config.training.precision)
        with torch.autocast(self.ours.device.type, dtype, enabled=dtype != torch.float32):
            loss, self.states = self.model(question)
        self.optimizer.zero_grad(set_to_none=True)
        (loss * config.training.unroll_steps).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), config.optimizer.clip_norm or math.inf)
        self.optimizer.step()
        self.step += 1

    def check(self) -> None:
        """Stop unless both give the same loss, states and gradients: in float32, without dropout, on the same batch and
        candidates, from the same carried states, so large that the clip cuts many cells."""
        question = self.ours.question()
        loss, finals = self.ours.answer(question)
        self.model.eval()
        plain_loss, plain_finals = self.model(question)
        plain_loss.backward()
        self.model.train()
        compare("loss", loss, plain_loss.detach(), TOLERANCE)
        for number, (state, plain_state) in enumerate(zip(finals, plain_finals, strict=True)):
            for part, plain_part in zip(state, plain_state, strict=True):
                compare(f"state of layer {number}", part, plain_part, TOLERANCE)
        with tempfile.TemporaryDirectory() as directory:
            gradients = {f"softmax {name}": x for name, x in self.ours.write(Path(directory), gradients=True).items()}
            gradients |= read_arrays(Path(directory))
        named = {**self.model.bilm.weights, "softmax weight": self.model.weight, "softmax bias": self.model.bias}
        for name, gradient in gradients.items():
            plain = ours.gradient_of(named[name])
            compare(f"gradient of {name}", gradient.to(plain.device), plain, GRADIENT_TOLERANCE)
        self.ours.model.zero_grad()
        self.model.zero_grad()


def compare(name: str, ours_: Tensor, plain: Tensor, tolerance: float) -> None:
    """Stop where two tensors differ by more than `tolerance`, relative to the largest entry."""
    found = float(torch.linalg.vector_norm(ours_ - plain, torch.inf) / torch.linalg.vector_norm(plain, torch.inf))
    if not found <= tolerance:
        sys.exit(f"{name}: spacy-elmo and the plain step differ by {found:.1e}, more than {tolerance}; nothing timed")
