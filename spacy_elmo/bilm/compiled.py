"""What lies between the products of an LSTM layer, and all time steps of a single row, compiled.

It is there where the package was built with GCC on x86-64 Linux.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from spacy_elmo.bilm.packed import is_prediction

try:
    from spacy_elmo.bilm import _compiled
except ImportError:  # no compiler when the package was built
    _compiled = None  # type: ignore[assignment]


def can_compile(x: Tensor) -> bool:
    """Whether the compiled part is to be used for `x`: without gradients, in float32 on a CPU with wide vectors."""
    return _compiled is not None and bool(_compiled.IS_FASTER) and is_prediction(x)


def update_rows(gates: Tensor, inputs: Tensor, cell: Tensor, cell_clip: float | None) -> Tensor:
    """Bring cells up to date; return what they let out, `[rows, dim]`.

    gates, inputs: `[rows, 4 * dim]`: input, forget, output, candidate, before their nonlinearities: the part that comes
    from the hidden state, and the rest; cell: `[rows, dim]`.
    """
    (rows, dim), outputs = cell.shape, torch.empty_like(cell)
    shapes = [(rows, 4 * dim), (rows, 4 * dim), (rows, dim), (rows, dim)]
    addresses = _addresses([gates, inputs, cell, outputs], shapes)
    _compiled.update_rows(torch.get_num_threads(), rows, dim, _limit(cell_clip), *addresses)
    return outputs


class SingleRow:
    """One direction of a layer, for one row at a time, in float32 on a CPU.

    weight: `[projection_dim, 4 * dim]`, the recurrent part; gates are input, forget, output, candidate.
    projection: `[dim, projection_dim]`, or None.
    block: rows of a matrix that are summed up by themselves; all of them, unless set.
    """

    def __init__(
        self, weight: Tensor, projection: Tensor | None, cell_clip: float | None, proj_clip: float | None
    ) -> None:
        self._width, self._dim = weight.shape[0], weight.shape[1] // 4
        self._clips, self.block = (_limit(cell_clip), _limit(proj_clip)), max(weight.shape[0], self._dim)
        self._weight = _in_tiles(weight)
        self._projection = None if projection is None else _in_tiles(projection)

    def prepare(self, inputs: Tensor, hidden: Tensor, cell: Tensor, outputs: Tensor) -> "_compiled.Direction":
        """What the compiled part takes; the arguments are one direction's of `run_rows`."""
        n_steps, dim, width = len(inputs), self._dim, self._width
        shapes = [(n_steps, 4 * dim), (width,), (dim,), (n_steps, width)]
        first, *others = _addresses([inputs, hidden, cell, outputs], shapes)
        weight, projection = (0 if one is None else one.data_ptr() for one in (self._weight, self._projection))
        return (n_steps, dim, width, self.block, *self._clips, first, weight, projection, *others)


def run_rows(
    directions: Sequence[SingleRow], inputs: Sequence[Tensor], state: tuple[Tensor, Tensor], outputs: Tensor
) -> None:
    """Run a row in both directions, in two threads where torch has as many; fill in `outputs` and bring the state up
    to date.

    inputs: `[n_steps, 4 * dim]` of each direction, what the gates add to their recurrent part.
    state: hidden `[2, projection_dim]` and cell `[2, dim]`; outputs: `[2, n_steps, projection_dim]`.
    """
    forward, backward = (
        one.prepare(*arguments) for one, *arguments in zip(directions, inputs, *state, outputs, strict=True)
    )
    _compiled.run(torch.get_num_threads(), forward, backward)


def _addresses(arrays: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """Addresses of tensors, which must have these shapes: the compiled part reads and writes what is there."""
    for array, shape in zip(arrays, shapes, strict=True):
        if array.shape != shape or array.dtype != torch.float32 or not array.is_contiguous():
            raise ValueError(f"expected contiguous float32 of shape {shape}, not {array.dtype} of {tuple(array.shape)}")
    return [array.data_ptr() for array in arrays]


def _limit(clip: float | None) -> float:
    return math.inf if clip is None else clip


def _in_tiles(matrix: Tensor) -> Tensor:
    """`[n_tiles, rows, TILE]`: the columns in groups, the last one filled up with zeros."""
    rows, columns = matrix.shape
    filled = functional.pad(matrix.float(), (0, -columns % _compiled.TILE))
    return filled.view(rows, -1, _compiled.TILE).transpose(0, 1).contiguous()
