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
    if how == "average":
        average: Array = layers.mean(axis=0, dtype=np.float32)
        return average
    number = str(len(layers) - 1) if how == "top" else how
    if not number.isdecimal() or int(number) >= len(layers):
        raise ElmoError(f"layers is {how!r}, expected average, top, or a number from 0 to {len(layers) - 1}")
    one: Array = layers[int(number)]
    return one
