"""What an engine is given, what it has to say, and what it returns."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from spacy_elmo.bilm.products import Precision
from spacy_elmo.bilm.time_steps import State, TimeStep, time_steps

# The input half of the gates is computed for several time steps at once. How many is a balance, found by measurement:
# the buffer they fill should stay in cache until the recurrence reads it, but a product should also have rows enough
# for the weights it streams through.
_GATE_BUFFER_BYTES, _GATE_ROWS = 2 * 2**20, 128

V = TypeVar("V")


class Layer(Protocol):
    """A layer of the biLM as engines know it: `bilm.lstm.BidirectionalLSTMLayer`, which explains its attributes."""

    n_in: int
    dim: int
    projection_dim: int
    cell_clip: float | None
    proj_clip: float | None
    forget_bias: float
    weight: nn.Parameter
    bias: nn.Parameter
    projection: nn.Parameter | None
    precision: Precision

    @property
    def is_frozen(self) -> bool:
        """Whether something may be made of the weights and kept."""

    @property
    def is_lean(self) -> bool:
        """Whether there must not be a second copy of the weights."""

    def packed(self, x: Tensor) -> Any:
        """Packed products of each direction for `x`, kept from call to call; None where there are none."""

    def keep(self, name: str, make: Callable[[], V]) -> V | None:
        """What is made of the weights, kept from call to call."""


@dataclass(frozen=True)
class Call:
    """What a layer is to read.

    x: `[2, n_tokens, n_in]`, time step by time step, the rows of a step sorted by falling sequence length; `x[1]` holds
        the sequences reversed.
    batch_sizes: rows of each time step, falling.
    state: of the rows at first, hidden `[2, rows, projection_dim]` and cell `[2, rows, dim]`; not to be changed.
    starts: `[n_tokens]` bool on the CPU, packed as `x`: where a row forgets its state before it reads on.
    """

    x: Tensor
    batch_sizes: Sequence[int]
    state: State
    starts: Tensor | None = None

    @property
    def rows(self) -> int:
        """Rows of the first time step, the most that there are."""
        return self.batch_sizes[0]

    def steps(self) -> list[TimeStep]:
        """The time steps."""
        return time_steps(self.batch_sizes, self.starts)


class Engine(ABC):
    """A way to run a layer's recurrence: the outputs and final states of `lstm.plain_recurrence`, to 1e-5."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the engine, which is that of its file."""

    @abstractmethod
    def reasons_against(self, layer: Layer, call: Call) -> list[str]:
        """Why it cannot run this call, or would not be the fastest; empty where it should."""

    @abstractmethod
    def run(self, layer: Layer, call: Call) -> tuple[Tensor, State]:
        """Return the outputs `[2, n_tokens, projection_dim]`, packed as `x`, and the state each row ended in."""

    def precision(self, layer: Layer, call: Call) -> str:
        """What the products of a call that it runs are computed in: "float32", "int8", "bfloat16", ..."""
        return name_of(layer.weight.dtype)

    def prepare(self, layer: Layer) -> None:
        """Make now what it keeps from call to call."""
        return


def name_of(dtype: torch.dtype) -> str:
    """Name of a type of torch's, as in a config."""
    return str(dtype).removeprefix("torch.")


def block_rows(dim: int, dtype: torch.dtype) -> int:
    """Of how many rows an engine of torch's operators computes the input half of the gates at once."""
    return max(_GATE_BUFFER_BYTES // (2 * 4 * dim * dtype.itemsize), _GATE_ROWS)


def reasons_against_a_copy(layer: Layer) -> list[str]:
    """Why nothing may be made of the weights and kept; empty where it may."""
    reasons = []
    if not layer.is_frozen:
        reasons.append("it is for frozen weights, and these may change (their requires_grad is True)")
    if layer.is_lean:
        reasons.append("the large weights are shared with the process that started this one, and it would copy them")
    return reasons
