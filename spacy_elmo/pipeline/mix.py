"""All layers in, one vector a token out: the mix that goes on `token.vector`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spacy_elmo.errors import ElmoError

Layers = str | int | Sequence[float]
NAMED = ("mean", "top", "concat")


@dataclass(frozen=True)
class FixedMix:
    """A mix that is not learned.

    layers: "mean" of all layers, "top" layer, "concat" of all layers side by side, the index of one layer
        (0 is the token embedding, negative counts from the top), or one weight a layer: the sum of weight
        times layer, the weights taken as they are.
    """

    layers: Layers

    def __post_init__(self) -> None:
        if isinstance(self.layers, str):
            right = self.layers in NAMED
        elif isinstance(self.layers, int):
            right = not isinstance(self.layers, bool)
        else:
            right = len(self.layers) > 0 and all(math.isfinite(weight) for weight in self.layers)
        if not right:
            raise ElmoError(
                f'elmo: layers is {self.layers!r}, expected "mean", "top", "concat", a layer index or a list of weights'
            )

    def check(self, n_outputs: int) -> None:
        """Raise an ElmoError where a biLM with `n_outputs` layers (the embedding counted) cannot be mixed so."""
        if isinstance(self.layers, int):
            if not -n_outputs <= self.layers < n_outputs:
                raise ElmoError(
                    f"elmo: layers is {self.layers}, but the biLM has layers 0 (token embedding) to {n_outputs - 1}"
                )
        elif not isinstance(self.layers, str) and len(self.layers) != n_outputs:
            raise ElmoError(
                f"elmo: layers lists {len(self.layers)} weights, but the biLM has {n_outputs} layers, "
                "the token embedding counted"
            )

    def __call__(self, layers: Tensor) -> Tensor:
        """layers: `[n_layers + 1, n_tokens, layer_width]`. Returns `[n_tokens, width]`."""
        if self.layers == "mean":
            return layers.mean(dim=0)
        if self.layers == "concat":
            return layers.transpose(0, 1).flatten(start_dim=1)
        if self.layers == "top":
            return layers[-1]
        if isinstance(self.layers, int):
            return layers[self.layers]
        weights = torch.tensor(self.layers, dtype=layers.dtype, device=layers.device)
        mixed: Tensor = torch.tensordot(weights, layers, dims=1)
        return mixed
