"""Layers in, rows out: what travels from `elmo` to listeners, and what the cache keeps, one row a token.

A row holds the token embedding once (`width / 2` numbers) and behind it each LSTM layer (`width`): layer 0 is the
embedding twice side by side, and half of that says it all.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float32]


def row_width(n_outputs: int, width: int) -> int:
    """Numbers in a row of a biLM with `n_outputs` layers (the embedding counted) of this width."""
    return width // 2 + (n_outputs - 1) * width


def count_outputs(row_width: int, width: int) -> int | None:
    """Layers in rows of this width, the embedding counted; None where no number of layers fits."""
    n_outputs, rest = divmod(row_width + width - width // 2, width)
    return None if rest or n_outputs < 2 else n_outputs


def columns(row_width: int, width: int) -> list[slice]:
    """Where in a row each layer lies: the embedding, then the LSTM layers."""
    half = width // 2
    return [slice(0, half), *(slice(start, start + width) for start in range(half, row_width, width))]


def to_rows(layers: Tensor) -> Tensor:
    """layers: `[n_outputs, n_tokens, width]`. Returns `[n_tokens, row_width]`."""
    half = layers.shape[2] // 2
    return torch.cat([layers[0, :, :half], *layers[1:]], dim=1)


def to_layers(rows: Tensor, width: int) -> Tensor:
    """rows: `[n_tokens, row_width]`. Returns `[n_outputs, n_tokens, width]`."""
    embedding, *upper = (rows[:, layer] for layer in columns(rows.shape[1], width))
    return torch.stack([torch.cat([embedding, embedding], dim=1), *upper])
