"""Packed inputs in, packed outputs and final state out: one layer of the biLM, both directions in one step."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from spacy_elmo.bilm.parameters import empty_parameter

# The input half of the gates is computed for several time steps at once. How many is a balance, found by
# measurement: the buffer they fill should stay in cache until the recurrence reads it, but a product should also
# be large beside the weights it streams through.
_GATE_BUFFER_BYTES = 2 * 2**20
_FORGET_BIAS = 1.0  # TensorFlow's LSTMCell adds it in the cell; it is not in the weights file

State = tuple[Tensor, Tensor]  # hidden [2, rows, projection_dim], cell [2, rows, dim]


class BidirectionalLSTMLayer(nn.Module):
    """A forward and a backward LSTM with projection and clipping (TensorFlow's `LSTMCell`).

    The directions are rows 0 and 1 of every parameter; they share nothing but the time step. The columns of
    a gate product are input, forget, output, candidate, so that one sigmoid serves the first three.

    weight: `[2, n_in + projection_dim, 4 * dim]`; bias: `[2, 4 * dim]`;
    projection: `[2, dim, projection_dim]`, or None where dim equals projection_dim.
    """

    def __init__(
        self,
        n_in: int,
        dim: int,
        projection_dim: int,
        cell_clip: float | None = None,
        proj_clip: float | None = None,
    ) -> None:
        super().__init__()
        self.n_in, self.dim, self.projection_dim = n_in, dim, projection_dim
        self.cell_clip = cell_clip
        self.proj_clip = proj_clip if projection_dim != dim else None  # as TensorFlow: it clips the projection
        self.weight = empty_parameter(2, n_in + projection_dim, 4 * dim)
        self.bias = empty_parameter(2, 4 * dim)
        self.projection = empty_parameter(2, dim, projection_dim) if projection_dim != dim else None

    def forward(self, x: Tensor, batch_sizes: Sequence[int], state: State | None = None) -> tuple[Tensor, State]:
        """Run both directions over packed sequences.

        x: `[2, n_tokens, n_in]`, time step by time step, the rows of a step sorted by falling sequence
            length; `x[1]` holds the sequences reversed.
        batch_sizes: rows of each time step, falling.
        state: initial state of the rows; None is zero.

        Returns the outputs `[2, n_tokens, projection_dim]`, packed as `x`, and the state each row ended in.
        """
        rows = batch_sizes[0]
        hidden, cell = state or (x.new_zeros(2, rows, self.projection_dim), x.new_zeros(2, rows, self.dim))
        step = self._step if torch.is_grad_enabled() else self._step_in_place
        cell = cell.clone()
        outputs: list[Tensor] = []
        ended: list[State] = []  # what the rows hold whose sequence is over, shortest sequence first
        for gates, n_rows in self._gate_inputs(x, batch_sizes):
            if n_rows < cell.shape[1]:
                ended.append((hidden[:, n_rows:], cell[:, n_rows:]))
                hidden, cell = hidden[:, :n_rows], cell[:, :n_rows]
            hidden, cell = step(gates, hidden, cell)
            outputs.append(hidden)
        ended.append((hidden, cell))
        final = tuple(torch.cat(part, dim=1) for part in zip(*reversed(ended), strict=True))
        return torch.cat(outputs, dim=1), (final[0], final[1])

    def _gate_inputs(self, x: Tensor, batch_sizes: Sequence[int]) -> Iterator[tuple[Tensor, int]]:
        """Yield, for each time step, the part of its gates that needs no recurrence, and its number of rows.

        Without gradients all steps share one buffer: a step's gates are overwritten once later ones are asked for.
        """
        weight = self.weight[:, : self.n_in]
        bias = self.bias.clone()
        bias[:, self.dim : 2 * self.dim] += _FORGET_BIAS
        bias = bias.unsqueeze(1)
        row_bytes = 2 * 4 * self.dim * x.element_size()
        blocks = _time_blocks(batch_sizes, max(_GATE_BUFFER_BYTES, self.n_in * row_bytes) // row_bytes)
        n_rows = max(sum(sizes) for _, sizes in blocks)
        buffer = None if torch.is_grad_enabled() else x.new_empty(n_rows * 2 * 4 * self.dim)
        for start, sizes in blocks:
            inputs = x[:, start : start + sum(sizes)]
            out = None if buffer is None else buffer[: inputs.shape[1] * 2 * 4 * self.dim].view(2, -1, 4 * self.dim)
            gates = torch.baddbmm(bias, inputs, weight, out=out)
            yield from zip(gates.split(sizes, dim=1), sizes, strict=True)

    def _step(self, gates: Tensor, hidden: Tensor, cell: Tensor) -> State:
        """Advance one time step, differentiably. gates: `[2, rows, 4 * dim]`."""
        gates = torch.baddbmm(gates, hidden, self.weight[:, self.n_in :])
        enter, forget, leave = gates[..., : 3 * self.dim].sigmoid().chunk(3, dim=-1)
        cell = _clip(forget * cell + enter * gates[..., 3 * self.dim :].tanh(), self.cell_clip, torch.clamp)
        return self._project(leave * cell.tanh()), cell

    def _step_in_place(self, gates: Tensor, hidden: Tensor, cell: Tensor) -> State:
        """Advance one time step, writing over `gates` and `cell`: the same numbers without new memory."""
        gates.baddbmm_(hidden, self.weight[:, self.n_in :])
        enter, forget, leave = gates[..., : 3 * self.dim].sigmoid_().chunk(3, dim=-1)
        cell.mul_(forget).addcmul_(enter, gates[..., 3 * self.dim :].tanh_())
        _clip(cell, self.cell_clip, torch.clamp_)
        return self._project(torch.tanh(cell).mul_(leave)), cell

    def _project(self, x: Tensor) -> Tensor:
        return x if self.projection is None else _clip(torch.bmm(x, self.projection), self.proj_clip, torch.clamp)

    def initialize(self, generator: torch.Generator) -> None:
        """Draw random weights as TensorFlow's `LSTMCell` does: Glorot uniform, biases zero."""
        matrices = [self.weight] if self.projection is None else [self.weight, self.projection]
        for matrix in matrices:
            limit = (6.0 / (matrix.shape[1] + matrix.shape[2])) ** 0.5
            nn.init.uniform_(matrix, -limit, limit, generator=generator)
        nn.init.zeros_(self.bias)


def _clip(x: Tensor, limit: float | None, clamp: Callable[[Tensor, float, float], Tensor]) -> Tensor:
    return x if limit is None else clamp(x, -limit, limit)


def _time_blocks(batch_sizes: Sequence[int], max_rows: int) -> list[tuple[int, list[int]]]:
    """Group time steps into blocks of at most `max_rows` rows (one step at least): first row, and rows of each step."""
    blocks: list[tuple[int, list[int]]] = []
    start = 0
    for size in batch_sizes:
        if blocks and sum(blocks[-1][1]) + size <= max_rows:
            blocks[-1][1].append(size)
        else:
            blocks.append((start, [size]))
        start += size
    return blocks
