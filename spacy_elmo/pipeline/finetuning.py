"""A biLM with gradients and an optimizer in, trained weights out: which parts of it are trained, and one step of it."""

from typing import Any

import torch
from thinc.api import Optimizer, torch2xp, xp2torch
from thinc.compat import has_cupy_gpu

from spacy_elmo.pipeline.weights import Weights


class FineTuning:
    """What of a biLM is trained, and how fast.

    trainable: whether any of it is; lr_scale: its learning rate is so many times the training's.
    n_top: how many parts are trained, LSTM layers from above, then the character CNN; None: all.
    """

    def __init__(self, trainable: bool = False, lr_scale: float = 1.0, n_top: int | None = None) -> None:
        self.trainable, self.lr_scale, self.n_top = trainable, lr_scale, n_top

    @property
    def learns(self) -> bool:
        """Whether any weight is to be trained now."""
        return self.trainable and self.n_top != 0

    def begin(self, weights: Weights) -> None:
        """Let gradients reach the weights that are trained. Before this they are as good as frozen, and as fast."""
        if not weights.is_learning:
            weights.identity_before = weights.identity
        weights.is_learning = True
        self.grant_gradients(weights)

    def grant_gradients(self, weights: Weights) -> None:
        """Let gradients reach the weights that are trained by now, and no others, once training has begun."""
        if not weights.is_learning:
            return
        for number, part in enumerate((*reversed(weights.bilm.layers), weights.bilm.embedder)):
            part.requires_grad_(self.trainable and (self.n_top is None or number < self.n_top))
        weights.is_learning = self.n_top != 0

    def step(self, weights: Weights, key: int, optimizer: Optimizer) -> None:
        """Let the optimizer change the weights that have gradients; key: what its own state of them is found by.

        On a GPU the optimizer works there if CuPy is installed (as thinc's PyTorch shim), else on the CPU.
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
    """A copy for the optimizer, which works in place: CuPy's where it can be, else NumPy's."""
    copied = tensor.detach().clone()
    return torch2xp(copied) if copied.is_cuda and has_cupy_gpu else copied.cpu().numpy()


def to_tensor(array: Any, like: torch.Tensor) -> torch.Tensor:
    """The values of a NumPy or CuPy array where another tensor lies."""
    return xp2torch(array, device=like.device)
