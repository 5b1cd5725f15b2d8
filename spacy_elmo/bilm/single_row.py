"""Weights of an LSTM layer and one sentence in, its outputs out: the compiled path of a single row.

It is there where the package was built with GCC on x86-64 Linux.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from spacy_elmo.bilm.packed import is_prediction

try:
    from spacy_elmo.bilm import _single_row as _compiled
except ImportError:  # no compiler when the package was built
    _compiled = None  # type: ignore[assignment]


def can_compile(x: Tensor) -> bool:
    """Whether the compiled part is there and is to be used for `x`: without gradients, in float32 on a CPU."""
    return _compiled is not None and is_prediction(x)


class SingleRow:
    """One direction of a layer, for one sentence at a time, in float32 on a CPU.

    weight: `[projection_dim, 4 * dim]`, the recurrent part; gates are input, forget, output, candidate.
    projection: `[dim, projection_dim]`, or None.
    """

    def __init__(
        self, weight: Tensor, projection: Tensor | None, cell_clip: float | None, proj_clip: float | None
    ) -> None:
        self._width, self._dim = weight.shape[0], weight.shape[1] // 4
        self._cell_clip = math.inf if cell_clip is None else cell_clip
        self._proj_clip = math.inf if proj_clip is None else proj_clip
        self._weight = _in_tiles(weight)
        self._projection = None if projection is None else _in_tiles(projection)

    def run(self, inputs: Tensor, hidden: Tensor, cell: Tensor, outputs: Tensor) -> None:
        """Fill in `outputs` and bring the state up to date.

        inputs: `[n_steps, 4 * dim]`, what the gates add to their recurrent part; hidden: `[projection_dim]`;
        cell: `[dim]`; outputs: `[n_steps, projection_dim]`. All contiguous.
        """
        arrays = (inputs, self._weight, self._projection, hidden, cell, outputs)
        shapes = [(len(inputs), 4 * self._dim), (self._width,), (self._dim,), (len(inputs), self._width)]
        fit = [array.shape for array in (inputs, hidden, cell, outputs)] == shapes and all(
            array is None or (array.is_contiguous() and array.dtype == torch.float32) for array in arrays
        )
        if not fit:  # the compiled part would read and write what is not its own
            raise ValueError(f"expected contiguous float32 tensors of shapes {shapes}")
        addresses = [0 if array is None else array.data_ptr() for array in arrays]
        _compiled.run(len(inputs), self._dim, self._width, self._cell_clip, self._proj_clip, *addresses)


def _in_tiles(matrix: Tensor) -> Tensor:
    """`[n_tiles, rows, TILE]`: the columns in groups, the last one filled up with zeros."""
    rows, columns = matrix.shape
    filled = functional.pad(matrix, (0, -columns % _compiled.TILE))
    return filled.view(rows, -1, _compiled.TILE).transpose(0, 1).contiguous()
