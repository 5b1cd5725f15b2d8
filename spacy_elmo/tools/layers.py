"""All layers of a token in, the one vector that a tool shows out."""

from typing import Any

import numpy as np
import numpy.typing as npt

from spacy_elmo.errors import ElmoError

Array = npt.NDArray[Any]


def pick(layers: Array, how: str) -> Array:
    """Return `[n_tokens, width]` of `[n_layers + 1, n_tokens, width]`.

    how: "average" of all layers, "top", or the number of one ("0" is the token embedding).

    Raises:
        ElmoError: there is no such layer.
    """
    number = layer_number(how, len(layers))
    picked: Array = layers.mean(axis=0, dtype=np.float32) if number is None else layers[number]
    return picked


def layer_number(how: str, n_layers: int) -> int | None:
    """Return which of so many layers is meant, None for the average of all; arguments and errors as of `pick`."""
    if how == "average":
        return None
    number = str(n_layers - 1) if how == "top" else how
    if not number.isdecimal() or int(number) >= n_layers:
        raise ElmoError(f"layers is {how!r}, expected average, top, or a number from 0 to {n_layers - 1}")
    return int(number)
