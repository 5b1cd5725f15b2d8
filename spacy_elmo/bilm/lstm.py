"""Packed inputs in, packed outputs and final state out: one layer of the biLM, both directions in one step."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spacy_elmo.bilm import graphed
from spacy_elmo.bilm.compiled import SingleRow, can_compile, run_rows, update_rows
from spacy_elmo.bilm.packed import PackedModule, Product
from spacy_elmo.bilm.parameters import empty_parameter
from spacy_elmo.bilm.time_steps import State, TimeStep, time_blocks, time_steps, tokens_of

# The input half of the gates is computed for several time steps at once. How many is a balance, found by
# measurement: the buffer they fill should stay in cache until the recurrence reads it, but a product should also
# have rows enough for the weights it streams through.
_GATE_BUFFER_BYTES, _GATE_ROWS = 2 * 2**20, 128
_STEP_BYTES = 8 * 2**20  # of the gates of one direction in a time step on a CPU
# So few sentences run through the compiled part, one after the other, which reads its own copy of the weights with one
# thread, where they fit in a cache (64 MiB); from memory, two threads of torch read faster.
_MAX_SINGLE, _MAX_TILED = 4, 16 * 2**20
# How many rows of a matrix oneDNN sums up at a time: all of them, or so many of a large one.
_BLOCKS = (2**20, 1024, 512, 256)
_FORGET_BIAS = 1.0  # TensorFlow's LSTMCell adds it in the cell; it is not in the weights file


class BidirectionalLSTMLayer(PackedModule[list["_PackedDirection"]]):
    """A forward and a backward LSTM with projection and clipping (TensorFlow's `LSTMCell`).

    The directions are rows 0 and 1 of every parameter; they share nothing but the time step. The columns of
    a gate product are input, forget, output, candidate, so that one sigmoid serves the first three.

    weight: `[2, n_in + projection_dim, 4 * dim]`; bias: `[2, 4 * dim]`;
    projection: `[2, dim, projection_dim]`, or None where dim equals projection_dim.
    """

    matrices = ("weight", "projection")

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

    def forward(
        self, x: Tensor, batch_sizes: Sequence[int], state: State | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Run both directions over packed sequences.

        x: `[2, n_tokens, n_in]`, time step by time step, the rows of a step sorted by falling sequence
            length; `x[1]` holds the sequences reversed.
        batch_sizes: rows of each time step, falling.
        state: initial state of the rows; None is zero.
        starts: `[n_tokens]` bool on the CPU, packed as `x`: where a row forgets its state before it reads on.

        Returns the outputs `[2, n_tokens, projection_dim]`, packed as `x`, and the state each row ended in.
        """
        rows = batch_sizes[0]
        hidden, cell = state or (x.new_zeros(2, rows, self.projection_dim), x.new_zeros(2, rows, self.dim))
        steps = time_steps(batch_sizes, starts)
        if packed := self.packed(x):
            if rows <= _MAX_SINGLE and starts is None and (single := self._single_rows(packed, x)):
                return self._run_rows(packed, single, x, hidden, cell, steps)
            return self._run_packed(packed, x, hidden, cell, steps)
        if starts is None and (run_graphed := self._graphed(x, rows)):
            return run_graphed(x, (hidden, cell), steps)
        run = self._run_differentiably if torch.is_grad_enabled() else self._run_in_place
        return run(x, hidden, cell, steps)

    @property
    def max_rows(self) -> int | None:
        """How many sequences a batch should have at most on a CPU: more are no faster, and take memory."""
        if self.weight.device.type != "cpu":
            return None
        return max(1, _STEP_BYTES // (4 * self.dim * torch.float32.itemsize))

    def _run_differentiably(
        self, x: Tensor, hidden: Tensor, cell: Tensor, steps: list[TimeStep]
    ) -> tuple[Tensor, State]:
        """Run with gradients; under autocast, products and gates have its type, while cells and results keep `x`'s."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        parts = (x, hidden, self.weight, self.bias, self.projection)
        x_, hidden_, *parameters = (None if part is None else part.to(dtype) for part in parts)
        clips = (self.cell_clip, self.proj_clip)
        y, last_hidden, last_cell = _Recurrence.apply(x_, hidden_, cell, *parameters, steps, clips)  # type: ignore[no-untyped-call]
        return y.to(x.dtype), (last_hidden.to(x.dtype), last_cell)

    def _run_in_place(self, x: Tensor, hidden: Tensor, cell: Tensor, steps: list[TimeStep]) -> tuple[Tensor, State]:
        """Run without gradients: nothing is kept but the outputs. All of it in the type of the weights."""
        weight, dim, given = self.weight[:, self.n_in :], self.dim, x.dtype
        x, hidden, cell = x.to(weight), hidden.to(weight), cell.to(weight, copy=True)
        outputs: list[Tensor] = []
        ended: list[State] = []  # what the rows hold whose sequence is over, shortest sequence first
        gates = x.new_empty(2, 0, 4 * dim)
        for inputs, step in zip(self._gate_inputs(x, steps), steps, strict=True):
            if step.rows != gates.shape[1]:
                ended.append((hidden[:, step.rows :], cell[:, step.rows :]))
                hidden, cell = hidden[:, : step.rows], cell[:, : step.rows]
                gates = x.new_empty(2, step.rows, 4 * dim)
                enter, forget, leave, candidate = gates.chunk(4, dim=-1)
                three, squashed = gates[..., : 3 * dim], torch.empty_like(cell)
            hidden, cell = step.keep(hidden), step.keep(cell)
            # Not `baddbmm_` on `inputs`: on a CPU, only a product that lies in one piece uses all threads for few rows.
            torch.bmm(hidden, weight, out=gates).add_(inputs)
            three.sigmoid_()
            _clip(cell.mul_(forget).addcmul_(enter, candidate.tanh_()), self.cell_clip)
            hidden = torch.tanh(cell, out=squashed).mul_(leave)
            outputs.append(hidden := self._project(hidden))
        ended.append((hidden, cell))
        final = [torch.cat(part, dim=1).to(given) for part in zip(*reversed(ended), strict=True)]
        return torch.cat(outputs, dim=1).to(given), (final[0], final[1])

    def _graphed(self, x: Tensor, rows: int) -> graphed.GraphedSteps | None:
        """What runs frozen weights on a GPU, where it can and gains by it; float64 is for a call or two."""
        is_wanted = (
            x.is_cuda
            and not torch.is_grad_enabled()
            and rows <= graphed.max_rows(self.dim, self.weight.dtype)
            and self.weight.dtype != torch.float64
            and not torch.cuda.is_current_stream_capturing()
        )

        def make() -> graphed.GraphedSteps:
            bias = _with_forget_bias(self.bias).to(self.weight.dtype)
            return graphed.GraphedSteps(self.weight, bias, self.projection, self.n_in, self.cell_clip, self.proj_clip)

        return self._packed.get(self.parameters(), make, is_wanted, "graphed")

    def _project(self, hidden: Tensor) -> Tensor:
        if self.projection is None:
            return hidden.clone()
        return _clip(torch.bmm(hidden, self.projection), self.proj_clip)

    def _gate_inputs(self, x: Tensor, steps: list[TimeStep]) -> Iterator[Tensor]:
        """Yield the part of each time step's gates that needs no recurrence, `[2, rows, 4 * dim]`."""
        weight, bias = self.weight[:, : self.n_in], _with_forget_bias(self.bias).to(x)
        for some in time_blocks(steps, self._block_rows(x)):
            yield from torch.baddbmm(bias, x[:, tokens_of(some)], weight).split([step.rows for step in some], dim=1)

    def _block_rows(self, x: Tensor) -> int:
        """Of how many rows the input half of the gates is computed at once."""
        return max(_GATE_BUFFER_BYTES // (2 * 4 * self.dim * x.element_size()), _GATE_ROWS)

    def pack(self, make: type[Product]) -> list["_PackedDirection"]:
        """Return the products of each direction."""
        bias = _with_forget_bias(self.bias)[:, 0]
        return [
            _PackedDirection(
                make(self.weight[direction, : self.n_in], bias[direction]),
                make(self.weight[direction, self.n_in :]),
                None if self.projection is None else make(self.projection[direction], limit=self.proj_clip),
            )
            for direction in range(2)
        ]

    def _run_packed(
        self, packed: list["_PackedDirection"], x: Tensor, hidden: Tensor, cell: Tensor, steps: list[TimeStep]
    ) -> tuple[Tensor, State]:
        """Run without gradients through packed products, one direction after the other."""
        outputs = x.new_empty(2, x.shape[1], self.projection_dim)
        hidden, cell = (part.to(x, copy=True).contiguous() for part in (hidden, cell))
        for direction, products in enumerate(packed):
            state = hidden[direction], cell[direction]
            for some in time_blocks(steps, self._block_rows(x)):
                tokens = tokens_of(some)
                self._run_steps(products, x[direction, tokens], state, some, outputs[direction, tokens])
        return outputs, (hidden, cell)

    def _run_steps(
        self, products: "_PackedDirection", x: Tensor, state: State, steps: list[TimeStep], outputs: Tensor
    ) -> None:
        """Fill in `outputs` and bring the state up to date; row by row it stays what it was at the row's last step."""
        update = update_rows if can_compile(x) else _update_rows
        sizes = [step.rows for step in steps]
        for step, inputs, found in zip(steps, products.inputs(x).split(sizes), outputs.split(sizes), strict=True):
            hidden, cell = (part[: step.rows] for part in state)
            if step.kept is not None:
                hidden.copy_(step.keep(hidden)), cell.copy_(step.keep(cell))
            new = update(products.recurrent(hidden), inputs, cell, self.cell_clip)
            found.copy_(products.projection(new) if products.projection else new)
            hidden.copy_(found)

    def _run_rows(
        self,
        packed: list["_PackedDirection"],
        single: list[SingleRow],
        x: Tensor,
        hidden: Tensor,
        cell: Tensor,
        steps: list[TimeStep],
    ) -> tuple[Tensor, State]:
        """Run the same, one row after the other, both directions at once."""
        outputs = x.new_empty(2, x.shape[1], self.projection_dim)
        hidden, cell = (part.to(x, copy=True).contiguous() for part in (hidden, cell))
        for row in range(steps[0].rows):
            tokens = torch.tensor([step.start + row for step in steps if row < step.rows], device=x.device)
            for some in tokens.split(self._block_rows(x)):
                found = x.new_empty(2, len(some), self.projection_dim)
                inputs = [products.inputs(x[direction, some]) for direction, products in enumerate(packed)]
                run_rows(single, inputs, (hidden[:, row], cell[:, row]), found)
                outputs[:, some] = found
        return outputs, (hidden, cell)

    def _single_rows(self, packed: list["_PackedDirection"], x: Tensor) -> list[SingleRow] | None:
        """What runs a single row in each direction, to the same bits as the packed products do; none where the compiled
        part is not there, not for this, or does not come to these bits."""
        is_wanted = can_compile(x) and self.precision == "float32" and self.weight.numel() < _MAX_TILED

        def tile() -> list[SingleRow]:
            rows = [self._single_row(direction) for direction in range(2)]
            for block in _BLOCKS:
                for one in rows:
                    one.block = block
                if self._agree(packed, rows):
                    return rows
            return []

        return self._packed.get(self.parameters(), tile, is_wanted, "single row")

    def _single_row(self, direction: int) -> SingleRow:
        projection = None if self.projection is None else self.projection[direction]
        return SingleRow(self.weight[direction, self.n_in :], projection, self.cell_clip, self.proj_clip)

    def _agree(self, packed: list["_PackedDirection"], rows: list[SingleRow]) -> bool:
        """Whether both come to the same bits, on a few steps of random input, and of none, which drowns nothing."""
        generator = torch.Generator("cpu").manual_seed(0)
        shapes = ((4, self.n_in), (1, self.projection_dim), (1, self.dim))
        parts = [self.bias.new_empty(2, *shape, dtype=torch.float32) for shape in shapes]
        x, hidden, cell = (part.normal_(generator=generator) for part in parts)
        arguments = hidden, cell, time_steps([1] * 4, None)
        return all(
            torch.equal(one, other)
            for inputs in (x, torch.zeros_like(x))
            for one, other in zip(
                self._run_packed(packed, inputs, *arguments)[1],
                self._run_rows(packed, rows, inputs, *arguments)[1],
                strict=True,
            )
        )

    def initialize(self, generator: torch.Generator) -> None:
        """Draw random weights as TensorFlow's `LSTMCell` does: Glorot uniform, biases zero."""
        matrices = [self.weight] if self.projection is None else [self.weight, self.projection]
        for matrix in matrices:
            limit = (6.0 / (matrix.shape[1] + matrix.shape[2])) ** 0.5
            nn.init.uniform_(matrix, -limit, limit, generator=generator)
        nn.init.zeros_(self.bias)


@dataclass(frozen=True)
class _PackedDirection:
    """The products of one direction.

    inputs, recurrent: of the input, with the biases, and of the hidden state before it: what the gates are the sum of.
    projection: with the clip; None where there is none.
    """

    inputs: Product
    recurrent: Product
    projection: Product | None


class _Recurrence(torch.autograd.Function):
    """The same numbers with gradients, the backward pass written out by hand.

    Left to itself, torch keeps and revisits some twenty tensors a time step and adds to the gradient of the
    weights at each. Here each step's part of the gates' gradient goes into one array, and the gradients of the
    weights and of `x` follow from it in a few large products.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        hidden: Tensor,
        cell: Tensor,
        weight: Tensor,
        bias: Tensor,
        projection: Tensor | None,
        steps: list[TimeStep],
        clips: tuple[float | None, float | None],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute outputs and last states as `_run_in_place` does, and keep gates, cells and outputs of every step."""
        (_, n_tokens, n_in), dim = x.shape, cell.shape[2]
        gates = x.new_empty(2, n_tokens, 4 * dim)
        cells, squashed = cell.new_empty(2, n_tokens, dim), x.new_empty(2, n_tokens, dim)
        outputs = x.new_empty(2, n_tokens, hidden.shape[2])
        ctx.initial, last_hidden, last_cell = (hidden, cell), hidden.clone(), cell.clone()
        torch.baddbmm(_with_forget_bias(bias), x, weight[:, :n_in], out=gates)
        for step in steps:
            now = step.tokens
            hidden, cell = step.keep(hidden[:, : step.rows]), step.keep(cell[:, : step.rows])
            enter, forget, leave, candidate = _activate(gates[:, now].baddbmm_(hidden, weight[:, n_in:]))
            cell = torch.mul(cell, forget, out=cells[:, now]).addcmul_(enter, candidate)
            hidden = _tanh_(squashed[:, now].copy_(_clip(cell, clips[0]))) * leave
            if projection is not None:
                hidden = _clip(torch.bmm(hidden, projection), clips[1])
            outputs[:, now] = hidden
            last_hidden[:, : step.rows], last_cell[:, : step.rows] = hidden, cell
        ctx.save_for_backward(x, weight, projection, gates, cells, squashed, outputs)
        ctx.steps, ctx.clips = steps, clips
        return outputs, last_hidden, last_cell

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Walk the time steps backwards; a `d_` is the gradient of what it is named after."""
        x, weight, projection, gates, cells, squashed, outputs = ctx.saved_tensors
        (d_outputs, d_hidden, d_cell), n_in = (grad.clone() for grad in grads), x.shape[2]
        initial_hidden, initial_cell = ctx.initial
        d_gates = torch.empty_like(gates)
        recurrent = weight[:, n_in:].transpose(1, 2).contiguous()  # or torch lays it out anew at each time step
        for number in reversed(range(len(ctx.steps))):
            step = ctx.steps[number]
            now, rows = step.tokens, step.rows
            found = cells[:, ctx.steps[number - 1].tokens][:, :rows] if number else initial_cell[:, :rows]
            d_now = d_outputs[:, now].add_(d_hidden[:, :rows])
            if projection is not None:
                d_now = torch.bmm(_through_clip(d_now, outputs[:, now], ctx.clips[1]), projection.transpose(1, 2))
            d_carried = _step_back(
                gates[:, now], cells[:, now], squashed[:, now], step.keep(found), d_now, d_cell[:, :rows],
                ctx.clips[0], d_gates[:, now],
            )  # fmt: skip
            d_cell[:, :rows] = step.keep(d_carried)
            d_hidden[:, :rows] = step.keep(torch.bmm(d_gates[:, now], recurrent))
        read = torch.cat([x, _found_hidden(ctx.steps, initial_hidden, outputs)], dim=2)
        d_weight = torch.bmm(read.transpose(1, 2), d_gates)
        d_projection = None
        if projection is not None:
            dim = cells.shape[2]
            d_projection = torch.bmm((squashed * gates[..., 2 * dim : 3 * dim]).transpose(1, 2), d_outputs)
        d_bias = torch.bmm(x.new_ones(2, 1, x.shape[1]), d_gates).squeeze(1)
        d_x = torch.bmm(d_gates, weight[:, :n_in].transpose(1, 2)) if ctx.needs_input_grad[0] else None
        return d_x, d_hidden, d_cell, d_weight, d_bias, d_projection, None, None


def _step_back(
    gates: Tensor,
    cell: Tensor,
    squashed: Tensor,
    found: Tensor,
    d_output: Tensor,
    d_cell: Tensor,
    clip: float | None,
    d_gates: Tensor,
) -> Tensor:
    """Fill in `d_gates` of one time step, before the nonlinearities; return the gradient of the cell it found.

    gates: activated; cell: after the clip, and squashed: its tanh; found: cell of the step before.
    """
    ops = torch.ops.aten
    enter, forget, leave, candidate = gates.chunk(4, dim=-1)
    d_enter, d_forget, d_leave, d_candidate = d_gates.chunk(4, dim=-1)
    ops.sigmoid_backward.grad_input(d_output * squashed, leave, grad_input=d_leave)
    d_cell = _through_clip(d_cell + ops.tanh_backward(d_output.mul_(leave), squashed), cell, clip)
    ops.sigmoid_backward.grad_input(d_cell * candidate, enter, grad_input=d_enter)
    ops.sigmoid_backward.grad_input(d_cell * found, forget, grad_input=d_forget)
    ops.tanh_backward.grad_input(d_cell * enter, candidate, grad_input=d_candidate)
    return d_cell.mul_(forget)


def _found_hidden(steps: list[TimeStep], initial: Tensor, outputs: Tensor) -> Tensor:
    """The hidden state that each step found, `[2, n_tokens, projection_dim]`."""
    found = [steps[0].keep(initial)]
    for before, step in itertools.pairwise(steps):
        found.append(step.keep(outputs[:, before.tokens][:, : step.rows]))
    return torch.cat(found, dim=1)


def _activate(gates: Tensor) -> Sequence[Tensor]:
    """Apply the nonlinearities in place; return input, forget and output gate and the candidate."""
    enter, forget, leave, candidate = gates.chunk(4, dim=-1)
    gates[..., : 3 * candidate.shape[-1]].sigmoid_()
    _tanh_(candidate)
    return enter, forget, leave, candidate


def _update_rows(gates: Tensor, inputs: Tensor, cell: Tensor, cell_clip: float | None) -> Tensor:
    """As `compiled.update_rows`, by torch's operators."""
    enter, forget, leave, candidate = _activate(gates.add_(inputs))
    _clip(cell.mul_(forget).addcmul_(enter, candidate), cell_clip)
    return _tanh_(cell.clone()).mul_(leave)


def _tanh_(x: Tensor) -> Tensor:
    """Hyperbolic tangent in place, by way of torch's sigmoid, which is several times faster on a CPU."""
    return x.mul_(2.0).sigmoid_().mul_(2.0).sub_(1.0)


def _clip(x: Tensor, limit: float | None) -> Tensor:
    """Clip in place."""
    return x if limit is None else x.clamp_(-limit, limit)


def _through_clip(grad: Tensor, clipped: Tensor, limit: float | None) -> Tensor:
    """Set the gradient to zero where the clip has cut, in place."""
    if limit is None:
        return grad
    return torch.ops.aten.hardtanh_backward.grad_input(grad, clipped, -limit, limit, grad_input=grad)  # type: ignore[no-any-return]


def _with_forget_bias(bias: Tensor) -> Tensor:
    """`[2, 1, 4 * dim]`, with what TensorFlow adds to the forget gate."""
    dim = bias.shape[1] // 4
    bias = bias.detach().clone()
    bias[:, dim : 2 * dim] += _FORGET_BIAS
    return bias.unsqueeze(1)
