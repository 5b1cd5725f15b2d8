"""All layers in, one vector a token out: the mix that a task learns (Peters et al. 2018, eq. 1)."""

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
    mask: `[...]` bool, which positions are tokens; None: all. Only layer normalization asks.
    do_layer_norm: normalize each layer by its mean and variance over all tokens and dimensions there are: the same
        sentence comes out otherwise in another batch. AllenNLP counts the positions of BOS and EOS in, bilm-tf not.

    Returns `[..., width]`.
    """
    if do_layer_norm:
        layers = torch.stack([normalize_layer(layer, mask) for layer in layers])
    mixed: Tensor = gamma * torch.tensordot(weights.softmax(0), layers, dims=1)
    return mixed


def normalize_layer(layer: Tensor, mask: Tensor | None = None) -> Tensor:
    """Bring a layer `[..., width]` to mean 0 and variance 1 over its tokens, `mask` `[...]`; what is masked is
    shifted and scaled with the others."""
    tokens = layer if mask is None else layer[mask]
    if not tokens.numel():
        return layer
    variance, mean = torch.var_mean(tokens, correction=0)
    return (layer - mean) / torch.sqrt(variance + LAYER_NORM_EPSILON)


class ScalarMix(nn.Module):
    """Learned mix of layers.

    n_outputs: layers to mix, the token embedding counted.
    initial_weights: s_j at the start; None is zeros, which is the mean of the layers.
    trainable: whether s_j and gamma are learned.

    Raises:
        ElmoError: there are more or fewer initial weights than layers.
    """

    def __init__(
        self,
        n_outputs: int,
        do_layer_norm: bool = False,
        initial_weights: Sequence[float] | None = None,
        initial_gamma: float = 1.0,
        trainable: bool = True,
    ) -> None:
        super().__init__()
        weights = [0.0] * n_outputs if initial_weights is None else list(initial_weights)
        if len(weights) != n_outputs:
            raise ElmoError(
                f"scalar mix: {len(weights)} initial weights, expected one for each of the {n_outputs} layers, "
                "the token embedding counted"
            )
        self.do_layer_norm = do_layer_norm
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float32), requires_grad=trainable)
        self.gamma = nn.Parameter(torch.tensor(float(initial_gamma)), requires_grad=trainable)

    def forward(self, layers: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix; see `scalar_mix`."""
        return scalar_mix(layers, self.weights, self.gamma, mask, self.do_layer_norm)

    def regularization(self, l2_coef: float) -> Tensor:
        """What bilm-tf adds to the task's loss: `l2_coef` times the sum of the squares of s_j."""
        return l2_coef * self.weights.square().sum()
