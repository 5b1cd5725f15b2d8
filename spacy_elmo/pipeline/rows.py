"""Layers in, rows out: what `elmo` sends to listeners and what the cache keeps, one row per token.

A row has the token embedding once (`width / 2` numbers), then each LSTM layer (`width`). Layer 0 is the embedding twice
side by side, so half of it is enough.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float32]


def row_width(n_outputs: int, width: int) -> int:
    """Return the size of a row of a biLM with `n_outputs` layers (counting the embedding) of this width."""
    return width // 2 + (n_outputs - 1) * width


def count_outputs(row_width: int, width: int) -> int | None:
    """Return the number of layers in rows of this width, counting the embedding; None if no number of layers fits."""
    n_outputs, rest = divmod(row_width + width - width // 2, width)
    return None if rest or n_outputs < 2 else n_outputs


def columns(row_width: int, width: int) -> list[slice]:
    """Return where each layer is in a row: the embedding, then the LSTM layers."""
    half = width // 2
    return [slice(0, half), *(slice(start, start + width) for start in range(half, row_width, width))]


def mixing_matrix(xp: Any, weights: Any) -> Any:
    """Return the matrix `[2, 2 * n_outputs - 1]` that turns the parts of a row into those of the sum of weight times
    layer. A part has `width / 2` numbers. One product with it reads the rows once, which matters more than its zeros.
    (They turn an infinite number of one direction into NaN in both.)

    xp: numpy or cupy; weights: `[n_outputs]`.
    """
    matrix = xp.zeros((2, 2 * len(weights) - 1), dtype="f")
    matrix[:, 0] = weights[0]
    matrix[0, 1::2] = matrix[1, 2::2] = weights[1:]
    return matrix


def to_rows(layers: Tensor) -> Tensor:
    """layers: `[n_outputs, n_tokens, width]`. Returns `[n_tokens, row_width]`."""
    half = layers.shape[2] // 2
    return torch.cat([layers[0, :, :half], *layers[1:]], dim=1)


def to_layers(rows: Tensor, width: int) -> Tensor:
    """rows: `[n_tokens, row_width]`. Returns `[n_outputs, n_tokens, width]`."""
    embedding, *upper = (rows[:, layer] for layer in columns(rows.shape[1], width))
    return torch.stack([torch.cat([embedding, embedding], dim=1), *upper])
