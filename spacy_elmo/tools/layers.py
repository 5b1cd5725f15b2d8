"""Reduces all layers of a token to one vector."""

from typing import Any

import numpy as np
import numpy.typing as npt

from spacy_elmo.support.layers import Choice, parse_layers

Array = npt.NDArray[Any]


def parse_one(how: Choice, n_outputs: int) -> Choice:
    """Return "mean", "top" or the number of one of `n_outputs` layers. Arguments and errors are those of
    `parse_layers`."""
    return parse_layers(how, ("mean", "top"), n_outputs)


def pick(layers: Array, how: Choice) -> Array:
    """Reduce `[n_layers + 1, n_tokens, width]` to `[n_tokens, width]`.

    how: "mean" of all layers, "top", or the number of a layer (0 is the token embedding).

    Raises:
        ElmoError: there is no such layer.
    """
    chosen = parse_one(how, len(layers))
    if chosen == "mean":
        mean: Array = layers.mean(axis=0, dtype=np.float32)
        return mean
    one: Array = layers[-1 if chosen == "top" else int(chosen)]
    return one
