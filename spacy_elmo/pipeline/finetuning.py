"""A biLM with gradients and an optimizer in, trained weights out: which parts are trained, and one training step."""

from typing import Any

import torch
from thinc.api import Optimizer, torch2xp, xp2torch
from thinc.compat import has_cupy_gpu

from spacy_elmo.pipeline.weights import Weights


class FineTuning:
    """Which parts of a biLM are trained, and how fast.

    trainable: whether any of it is trained; lr_scale: its learning rate is `lr_scale` times the training's.
    n_top: how many parts are trained: LSTM layers from the top down, then the character CNN; None: all.
    """

    def __init__(self, trainable: bool = False, lr_scale: float = 1.0, n_top: int | None = None) -> None:
        self.trainable, self.lr_scale, self.n_top = trainable, lr_scale, n_top

    @property
    def learns(self) -> bool:
        """Whether any weight is trained now."""
        return self.trainable and self.n_top != 0

    def begin(self, weights: Weights) -> None:
        """Turn on gradients for the weights that are trained. Until then, they are as fast as frozen ones."""
        if not weights.is_learning:
            weights.identity_before = weights.identity
        weights.is_learning = True
        self.grant_gradients(weights)

    def grant_gradients(self, weights: Weights) -> None:
        """Once training has begun, turn on gradients for the weights that are trained now, and for no others."""
        if not weights.is_learning:
            return
        for number, part in enumerate((*reversed(weights.bilm.layers), weights.bilm.embedder)):
            part.requires_grad_(self.trainable and (self.n_top is None or number < self.n_top))
        weights.is_learning = self.n_top != 0

    def step(self, weights: Weights, key: int, optimizer: Optimizer) -> None:
        """Let the optimizer change the weights that have gradients; key: of the optimizer's state for them.

        On a GPU, the optimizer works there if CuPy is installed (as in thinc's PyTorch shim), otherwise on the CPU.
        """
        with torch.no_grad():
            for name, parameter in weights.bilm.named_parameters():
                if parameter.grad is None:
                    continue
                changed, _ = optimizer(
                    (key, name), _to_array(parameter), _to_array(parameter.grad), lr_scale=self.lr_scale
                )
                parameter.copy_(to_tensor(changed, parameter))
                parameter.grad = None
                weights.has_learned = True


def _to_array(tensor: torch.Tensor) -> Any:
    """Return a copy for the optimizer, which works in place: a CuPy array if possible, otherwise a NumPy array."""
    copied = tensor.detach().clone()
    return torch2xp(copied) if copied.is_cuda and has_cupy_gpu else copied.cpu().numpy()


def to_tensor(array: Any, like: torch.Tensor) -> torch.Tensor:
    """Return the values of a NumPy or CuPy array as a tensor on the device of another tensor."""
    return xp2torch(array, device=like.device)
