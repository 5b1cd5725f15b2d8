"""One LSTM layer of the biLM: runs both directions over packed sequences."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spacy_elmo.bilm import engines
from spacy_elmo.bilm.engines import Call, Engine
from spacy_elmo.bilm.gates import with_forget_bias
from spacy_elmo.bilm.kernels import warn_if_missing
from spacy_elmo.bilm.packed import PackedModule
from spacy_elmo.bilm.parameters import empty_parameter
from spacy_elmo.bilm.products import DirectionProducts, Product
from spacy_elmo.bilm.time_steps import State

_STEP_BYTES = 16 * 2**20  # of the gates of one direction in a time step on a CPU


class BidirectionalLSTMLayer(PackedModule[list[DirectionProducts]]):
    """A forward and a backward LSTM with projection and clipping (TensorFlow's `LSTMCell`; Peters et al. 2018, 3.1).

    The directions are rows 0 and 1 of every parameter. They only share the time step. The columns of a gate product are
    input, forget, output, candidate, so that one sigmoid covers the first three.

    weight: `[2, n_in + projection_dim, 4 * dim]`; bias: `[2, 4 * dim]`.
    projection: `[2, dim, projection_dim]`, or None if the cell's output is not projected.

    forget_bias: added to the forget gate: 1 as in TensorFlow, or 0 if the bias includes it.
    always_projects: see `LSTMOptions`.
    """

    matrices = ("weight", "projection")
    forget_bias: float = 1.0  # for layers that an earlier version pickled

    def __init__(
        self,
        n_in: int,
        dim: int,
        projection_dim: int,
        cell_clip: float | None = None,
        proj_clip: float | None = None,
        forget_bias: float = 1.0,
        always_projects: bool = False,
    ) -> None:
        super().__init__()
        self.n_in, self.dim, self.projection_dim = n_in, dim, projection_dim
        projects = always_projects or projection_dim != dim
        self.forget_bias = forget_bias
        self.cell_clip = cell_clip
        self.proj_clip = proj_clip if projects else None  # as in TensorFlow, it clips the projection
        self.weight = empty_parameter(2, n_in + projection_dim, 4 * dim)
        self.bias = empty_parameter(2, 4 * dim)
        self.projection = empty_parameter(2, dim, projection_dim) if projects else None

    def forward(
        self, x: Tensor, batch_sizes: Sequence[int], state: State | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Run both directions over packed sequences, with the fastest engine that can run the call.

        x: `[2, n_tokens, n_in]`, time step by time step; the rows of a step have the longest sequence first; `x[1]` has
            the sequences reversed.
        batch_sizes: rows of each time step, in descending order.
        state: initial state of the rows; None is zero.
        starts: `[n_tokens]` bool on the CPU, packed as `x`: whether a row resets its state before this token.

        Returns the outputs `[2, n_tokens, projection_dim]`, packed as `x`, and the final state of each row.
        """
        call = self.call(x, batch_sizes, state, starts)
        engine = engines.choose(self, call)
        if x.is_cpu and not torch.is_grad_enabled():
            warn_if_missing()
        return engine.run(self, call) if engine else plain_recurrence(self, call)

    def call(
        self, x: Tensor, batch_sizes: Sequence[int], state: State | None = None, starts: Tensor | None = None
    ) -> Call:
        """Return the arguments of `forward` in the form that engines take."""
        zeros = (x.new_zeros(2, batch_sizes[0], width) for width in (self.projection_dim, self.dim))
        hidden, cell = state or zeros
        return Call(x, batch_sizes, (hidden, cell), starts)

    @property
    def max_rows(self) -> int | None:
        """Largest useful number of sequences in a batch on a CPU: more are not faster, but take memory."""
        if self.weight.device.type != "cpu":
            return None
        return max(1, _STEP_BYTES // (4 * self.dim * torch.float32.itemsize))

    def pack(self, make: type[Product]) -> list[DirectionProducts]:
        """Return the products of each direction."""
        bias = with_forget_bias(self.bias, self.forget_bias)[:, 0]
        return [
            DirectionProducts(
                make(self.weight[direction, : self.n_in], bias[direction]),
                make(self.weight[direction, self.n_in :]),
                None if self.projection is None else make(self.projection[direction], limit=self.proj_clip),
            )
            for direction in range(2)
        ]

    def prepare(self) -> None:
        """Prepare the weights now for the engine that will run predictions."""
        if self.weight.device.type != "cpu":
            return
        warn_if_missing()
        with torch.no_grad():
            if engine := self.engine:
                engine.prepare(self)

    @property
    def engine(self) -> Engine | None:
        """The engine that runs a sentence; None: the plain recurrence."""
        with torch.no_grad():
            empty = torch.empty(2, 1, self.n_in, dtype=torch.float32, device=self.weight.device)
            return engines.choose(self, self.call(empty, [1]))

    def initialize(self, generator: torch.Generator) -> None:
        """Draw random weights as in TensorFlow's `LSTMCell`: Glorot uniform, biases zero."""
        matrices = [self.weight] if self.projection is None else [self.weight, self.projection]
        for matrix in matrices:
            limit = (6.0 / (matrix.shape[1] + matrix.shape[2])) ** 0.5
            nn.init.uniform_(matrix, -limit, limit, generator=generator)
        nn.init.zeros_(self.bias)


def plain_recurrence(layer: BidirectionalLSTMLayer, call: Call) -> tuple[Tensor, State]:
    """Run the recurrence of the paper with torch's plain operators. Every engine gives the same result to 1e-5.

    It can run every call, and its gradients come from autograd. Arguments and results are those of
    `engines.Engine.run`.
    """
    hidden, cell = call.state
    outputs = []
    ended_hidden, ended_cell = [], []  # final states of rows whose sequence has ended, shortest sequence first
    for step in call.steps():
        ended_hidden.append(hidden[:, step.rows :])
        ended_cell.append(cell[:, step.rows :])
        hidden, cell = step.keep(hidden[:, : step.rows]), step.keep(cell[:, : step.rows])

        read = torch.cat([call.x[:, step.tokens], hidden], dim=-1).to(layer.weight)
        gates = torch.bmm(read, layer.weight) + layer.bias[:, None]
        input_gate, forget_gate, output_gate, candidate = gates.chunk(4, dim=-1)

        cell = torch.sigmoid(forget_gate + layer.forget_bias) * cell + torch.sigmoid(input_gate) * torch.tanh(candidate)
        cell = _clip(cell, layer.cell_clip)
        hidden = torch.sigmoid(output_gate) * torch.tanh(cell)
        if layer.projection is not None:
            hidden = _clip(torch.bmm(hidden.to(layer.projection), layer.projection), layer.proj_clip)
        outputs.append(hidden)
    final_hidden = torch.cat([hidden, *reversed(ended_hidden)], dim=1)
    final_cell = torch.cat([cell, *reversed(ended_cell)], dim=1)
    return torch.cat(outputs, dim=1).to(call.x), (final_hidden.to(call.x), final_cell.to(call.x))


def _clip(x: Tensor, limit: float | None) -> Tensor:
    return x if limit is None else x.clamp(-limit, limit)
