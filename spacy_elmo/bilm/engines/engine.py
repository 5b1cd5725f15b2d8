"""The interface of an engine."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from spacy_elmo.bilm.products import Precision
from spacy_elmo.bilm.time_steps import State, TimeStep, time_steps

# The input half of the gates is computed for several time steps at once. Their number is a compromise, found by
# measurement: the result should stay in cache until the recurrence reads it, but a product should also have enough rows
# for the weights that it reads.
_GATE_BUFFER_BYTES, _GATE_ROWS = 2 * 2**20, 128

V = TypeVar("V")


class Layer(Protocol):
    """A layer of the biLM, as engines see it. `bilm.lstm.BidirectionalLSTMLayer` explains its attributes."""

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
        """Whether a second copy of the weights is not allowed."""

    def packed(self, x: Tensor) -> Any:
        """Return the packed products of each direction for `x`, kept from call to call; None if there are none."""

    def keep(self, name: str, make: Callable[[], V]) -> V | None:
        """Return the result of `make`, kept from call to call."""


@dataclass(frozen=True)
class Call:
    """The input of a layer.

    x: `[2, n_tokens, n_in]`, time step by time step; the rows of a step have the longest sequence first; `x[1]` has the
        sequences reversed.
    batch_sizes: rows of each time step, in descending order.
    state: initial state of the rows, hidden `[2, rows, projection_dim]` and cell `[2, rows, dim]`; do not change it.
    starts: `[n_tokens]` bool on the CPU, packed as `x`: whether a row resets its state before this token.
    """

    x: Tensor
    batch_sizes: Sequence[int]
    state: State
    starts: Tensor | None = None

    @property
    def rows(self) -> int:
        """Rows of the first time step, which has the most."""
        return self.batch_sizes[0]

    def steps(self) -> list[TimeStep]:
        """Return the time steps."""
        return time_steps(self.batch_sizes, self.starts)


class Engine(ABC):
    """A way to run the recurrence of a layer. The result equals that of `lstm.plain_recurrence`, to 1e-5."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the engine, which is the name of its file."""

    @abstractmethod
    def reasons_against(self, layer: Layer, call: Call) -> list[str]:
        """Return why it cannot run this call, or is not the fastest; empty if it should run it."""

    @abstractmethod
    def run(self, layer: Layer, call: Call) -> tuple[Tensor, State]:
        """Return the outputs `[2, n_tokens, projection_dim]`, packed as `x`, and the final state of each row."""

    def precision(self, layer: Layer, call: Call) -> str:
        """Return the precision of the products in a call: "float32", "int8", "bfloat16", ..."""
        return name_of(layer.weight.dtype)

    def prepare(self, layer: Layer) -> None:
        """Make now what the engine keeps from call to call."""
        return


def name_of(dtype: torch.dtype) -> str:
    """Return the name of a torch dtype, as in a config."""
    return str(dtype).removeprefix("torch.")


def block_rows(dim: int, dtype: torch.dtype) -> int:
    """Return for how many rows an engine with torch's operators computes the input half of the gates at once."""
    return max(_GATE_BUFFER_BYTES // (2 * 4 * dim * dtype.itemsize), _GATE_ROWS)


def reasons_against_a_copy(layer: Layer) -> list[str]:
    """Return why a copy of the weights must not be made and kept; empty if it may."""
    reasons = []
    if not layer.is_frozen:
        reasons.append("it is for frozen weights, but these may change (their requires_grad is True)")
    if layer.is_lean:
        reasons.append("it would copy large weights that are shared with the parent process")
    return reasons
