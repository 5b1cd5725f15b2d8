"""The learned mix of all layers into one vector per token (Peters et al. 2018, eq. 1)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spacy_elmo.errors import ElmoError

LAYER_NORM_EPSILON = 1e-12  # bilm-tf's


def scalar_mix(
    layers: Tensor,
    weights: Tensor,
    gamma: Tensor | float = 1.0,
    mask: Tensor | None = None,
    do_layer_norm: bool = False,
) -> Tensor:
    """Compute `gamma * sum_j softmax(s)_j h_j`, as bilm-tf's `weight_layers` and AllenNLP's `ScalarMix` do.

    layers: `[n_layers + 1, ..., width]`; weights: `[n_layers + 1]`, before the softmax (s_j); gamma: scale.
    mask: `[...]` bool, which positions are tokens; None: all. Only layer normalization uses it.
    do_layer_norm: normalize each layer by its mean and variance over all tokens and dimensions. The result for a
        sentence then depends on the rest of the batch. AllenNLP includes the positions of BOS and EOS, but bilm-tf does
        not.

    Returns `[..., width]`.
    """
    if do_layer_norm:
        layers = torch.stack([normalize_layer(layer, mask) for layer in layers])
    mixed: Tensor = gamma * torch.tensordot(weights.softmax(0), layers, dims=1)
    return mixed


def normalize_layer(layer: Tensor, mask: Tensor | None = None) -> Tensor:
    """Normalize a layer `[..., width]` to mean 0 and variance 1 over its tokens. mask: `[...]` bool, which positions
    are tokens. The other positions are shifted and scaled in the same way."""
    tokens = layer if mask is None else layer[mask]
    if not tokens.numel():
        return layer
    variance, mean = torch.var_mean(tokens, correction=0)
    return (layer - mean) / torch.sqrt(variance + LAYER_NORM_EPSILON)


class ScalarMix(nn.Module):
    """Learned mix of layers."""

    def __init__(
        self,
        n_outputs: int,
        do_layer_norm: bool = False,
        initial_weights: Sequence[float] | None = None,
        initial_gamma: float = 1.0,
        trainable: bool = True,
    ) -> None:
        """Start with the given weights.

        n_outputs: number of layers to mix, including the token embedding.
        do_layer_norm: see `scalar_mix`.
        initial_weights: initial s_j; None is zeros, which gives the mean of the layers.
        initial_gamma: initial gamma.
        trainable: whether s_j and gamma are learned.

        Raises:
            ElmoError: the number of initial weights differs from the number of layers.
        """
        super().__init__()
        weights = [0.0] * n_outputs if initial_weights is None else list(initial_weights)
        if len(weights) != n_outputs:
            raise ElmoError(
                f"scalar mix: {len(weights)} initial weights, expected one for each of the {n_outputs} layers "
                "(including the token embedding)"
            )
        self.do_layer_norm = do_layer_norm
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float32), requires_grad=trainable)
        self.gamma = nn.Parameter(torch.tensor(float(initial_gamma)), requires_grad=trainable)

    def forward(self, layers: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the layers; see `scalar_mix`."""
        return scalar_mix(layers, self.weights, self.gamma, mask, self.do_layer_norm)

    def regularization(self, l2_coef: float) -> Tensor:
        """Return what bilm-tf adds to the loss of a task: `l2_coef` times the sum of the squares of s_j."""
        return l2_coef * self.weights.square().sum()
