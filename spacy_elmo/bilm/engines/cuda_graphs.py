"""Runs many time steps of a layer in one launch on a GPU.

A time step is a dozen kernels, and launching one from Python takes longer than running it. So blocks of time steps are
captured as CUDA graphs, one for each number of rows (rounded up), and each block is one launch.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spacy_elmo.bilm.engines.engine import Call, Engine, Layer, reasons_against_a_copy
from spacy_elmo.bilm.gates import with_forget_bias
from spacy_elmo.bilm.threads import ForkSafeLock
from spacy_elmo.bilm.time_steps import State, TimeStep
from spacy_elmo.bilm.transfer import to_device

# Bytes of the gates in a time step: above this, its kernels run longer than their launch takes. Bytes of the input half
# of the gates in a block.
_STEP_BYTES, _BLOCK_BYTES = 8 * 2**20, 32 * 2**20
_MAX_STEPS = 16


_capturing = ForkSafeLock()  # a process can only capture one graph at a time


class CudaGraphs(Engine):
    """Frozen weights on a GPU; each layer keeps its graphs."""

    name = "cuda_graphs"

    def reasons_against(self, layer: Layer, call: Call) -> list[str]:
        """See `Engine`."""
        if not call.x.is_cuda:
            return [f"it is for a GPU, but the weights are on {call.x.device}"]
        reasons = [] if layer.is_frozen else reasons_against_a_copy(layer)
        if torch.is_grad_enabled():
            reasons.append("it computes no gradients, but gradients are on (torch.inference_mode() turns them off)")
        if call.starts is not None:
            reasons.append("rows reset their state inside the sequences")
        if call.rows > (most := max_rows(layer.dim, layer.weight.dtype)):
            reasons.append(f"graphs gain nothing with {call.rows} rows in a time step, which is more than {most}")
        if layer.weight.dtype == torch.float64:
            reasons.append("float64 is only used for a few calls")
        if torch.cuda.is_current_stream_capturing():
            reasons.append("another CUDA graph is being captured")
        return reasons

    def run(self, layer: Layer, call: Call) -> tuple[Tensor, State]:
        """See `Engine`."""

        def make() -> GraphedSteps:
            bias = with_forget_bias(layer.bias, layer.forget_bias).to(layer.weight.dtype)
            clips = layer.cell_clip, layer.proj_clip
            return GraphedSteps(layer.weight, bias, layer.projection, layer.n_in, *clips)

        graphed = layer.keep(self.name, make)
        assert graphed is not None  # otherwise there was a reason against this engine
        return graphed(call.x, call.state, call.steps())


@dataclass(frozen=True)
class _Block:
    """Time steps that are launched together. The rows of each are padded to the same number.

    places: `[n_steps * rows]`, position of the token of each row, or -1 for padding.
    """

    n_steps: int
    rows: int
    places: npt.NDArray[np.int64]

    @classmethod
    def of(cls, steps: Sequence[TimeStep], n_steps: int, rows: int) -> "_Block":
        """Lay out at most `n_steps` time steps of at most `rows` rows."""
        starts, sizes = np.zeros((2, n_steps, 1), dtype=np.int64)
        starts[: len(steps), 0] = [step.start for step in steps]
        sizes[: len(steps), 0] = [step.rows for step in steps]
        row = np.arange(rows)
        return cls(n_steps, rows, np.where(row < sizes, starts + row, -1).ravel())


def max_rows(dim: int, dtype: torch.dtype) -> int:
    """Return the largest number of rows in a time step with which graphs gain anything."""
    return max(1, _STEP_BYTES // _row_bytes(dim, dtype))


def _row_bytes(dim: int, dtype: torch.dtype) -> int:
    return 2 * 4 * dim * dtype.itemsize


class GraphedSteps:
    """The recurrence of one layer, both directions in one step, for one state of its weights.

    weight, projection: of `BidirectionalLSTMLayer`; bias: `[2, 1, 4 * dim]`, with that of the forget gate.
    Several threads and streams may call it. While it captures, nothing else in the process may wait for the whole
    device. On a CPU, the same blocks run without capture, for tests.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        projection: Tensor | None,
        n_in: int,
        cell_clip: float | None,
        proj_clip: float | None,
    ) -> None:
        self._input_weight, self._weight, self._bias = weight[:, :n_in], weight[:, n_in:], bias
        self._projection = projection
        self._limits = [math.inf if clip is None else clip for clip in (cell_clip, proj_clip)]
        self._width, self._dim = self._weight.shape[1], weight.shape[2] // 4
        self._max_rows = max_rows(self._dim, weight.dtype)
        self._block_rows = max(1, _BLOCK_BYTES // _row_bytes(self._dim, weight.dtype))
        self._lock = ForkSafeLock()
        self._runs: dict[int, Callable[[], Tensor]] = {}
        if weight.is_cuda:
            self._pool = torch.cuda.graph_pool_handle()  # the blocks share their memory
            self._stream, self._done = torch.cuda.Stream(weight.device), torch.cuda.Event()
        with torch.inference_mode(False):  # so that these can be written to in any mode
            self._hidden = weight.new_zeros(2, self._max_rows, self._width)
            self._cell = weight.new_zeros(2, self._max_rows, self._dim)
            self._inputs = weight.new_zeros(2 * 4 * self._dim * self._block_rows)
            self._is_taken = weight.new_zeros(self._block_rows, dtype=torch.bool)

    def __call__(self, x: Tensor, state: State, steps: Sequence[TimeStep]) -> tuple[Tensor, State]:
        """Run the recurrence; arguments and results are those of `Engine.run`. There are at most `max_rows` rows, and
        none resets its state."""
        given, rows = x.dtype, steps[0].rows
        blocks = list(self._plan(steps))
        places = np.concatenate([block.places for block in blocks])
        sizes = [len(block.places) for block in blocks]
        to_blocks, from_blocks = (
            to_device(torch.from_numpy(part), x.device) for part in (places, np.flatnonzero(places >= 0))
        )
        padded = x.to(self._weight.dtype)[:, to_blocks.clamp(min=0)]
        found = padded.new_empty(2, len(places), self._width)
        is_taken = to_blocks >= 0
        with self._in_turn(x):
            self._hidden[:, :rows], self._cell[:, :rows] = state
            for block, *parts, outputs in zip(
                blocks, padded.split(sizes, dim=1), is_taken.split(sizes), found.split(sizes, dim=1), strict=True
            ):
                outputs.copy_(self._run(block, *parts))
            hidden, cell = (part[:, :rows].to(given, copy=True) for part in (self._hidden, self._cell))
        return found[:, from_blocks].to(given), (hidden, cell)

    @contextmanager
    def _in_turn(self, x: Tensor) -> Iterator[None]:
        """Lock the arrays against other threads and streams, and turn autocast off."""
        with self._lock, torch.cuda.device_of(x), torch.autocast(x.device.type, enabled=False):
            if x.is_cuda:
                self._done.wait()
            yield
            if x.is_cuda:
                self._done.record()

    def _plan(self, steps: Sequence[TimeStep]) -> Iterator[_Block]:
        start = 0
        while start < len(steps):
            n_steps, rows = self._shape(steps[start].rows)
            yield _Block.of(steps[start : start + n_steps], n_steps, rows)
            start += n_steps

    def _shape(self, rows: int) -> tuple[int, int]:
        """Return time steps and rows of a block for this many rows. There are at most five sizes between n and 2 n."""
        unit = max(1, 2 ** (rows.bit_length() - 3))
        rows = min(rows + -rows % unit, self._max_rows)
        return min(_MAX_STEPS, self._block_rows // rows), rows

    def _run(self, block: _Block, x: Tensor, is_taken: Tensor) -> Tensor:
        """Update the state; return the outputs, `[2, n_steps * rows, width]`, which are valid until the next call."""
        shape = block.n_steps, block.rows
        inputs = self._inputs[: 2 * 4 * self._dim * len(is_taken)].view(2, len(is_taken), 4 * self._dim)
        torch.baddbmm(self._bias, x, self._input_weight, out=inputs)
        self._is_taken[: len(is_taken)] = is_taken
        if block.rows not in self._runs:
            run = partial(self._run_steps, inputs.view(2, *shape, -1), self._is_taken[: len(is_taken)].view(*shape, 1))
            self._runs[block.rows] = self._captured(run) if x.is_cuda else run
        return self._runs[block.rows]()

    def _run_steps(self, inputs: Tensor, is_taken: Tensor) -> Tensor:
        """Run the time steps. inputs: of the gates, `[2, n_steps, rows, 4 * dim]`; is_taken: `[n_steps, rows, 1]`."""
        rows, (cell_limit, limit) = inputs.shape[2], self._limits
        hidden, cell = self._hidden[:, :rows], self._cell[:, :rows]
        outputs = []
        for one, is_now in zip(inputs.unbind(1), is_taken, strict=True):
            gates = torch.baddbmm(one, hidden, self._weight)
            input_gate, forget_gate, output_gate, candidate = gates.chunk(4, dim=-1)
            gates[..., : 3 * self._dim].sigmoid_()
            new = torch.mul(cell, forget_gate).addcmul_(input_gate, candidate.tanh_()).clamp_(-cell_limit, cell_limit)
            output = torch.tanh(new).mul_(output_gate)
            if self._projection is not None:
                output = torch.bmm(output, self._projection).clamp_(-limit, limit)
            outputs.append(output)
            hidden, cell = torch.where(is_now, output, hidden), torch.where(is_now, new, cell)
        self._hidden[:, :rows], self._cell[:, :rows] = hidden, cell
        return torch.stack(outputs, dim=1).flatten(1, 2)

    def _captured(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Capture a run as a graph; return a function that replays it on the same arrays."""
        graph = torch.cuda.CUDAGraph()
        with _capturing:
            kept = self._hidden.clone(), self._cell.clone()
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                run()  # warm-up: loading and setup in the first call cannot be captured
            torch.cuda.current_stream().wait_stream(self._stream)
            self._hidden.copy_(kept[0]), self._cell.copy_(kept[1])
            # Without a named stream, torch uses a stream of the device that captured first.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                outputs = run()

        def replay() -> Tensor:
            graph.replay()
            return outputs

        return replay
