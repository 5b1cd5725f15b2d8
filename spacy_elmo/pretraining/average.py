"""Moving average of the weights, which is evaluated and written instead of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from spacy_elmo.pretraining.checkpoint import check_tensors


class WeightAverage:
    """The exponential moving average of a network's weights.

    The decay is smaller in the first steps, when the weights are hardly trained, as in TensorFlow's
    `ExponentialMovingAverage` with `num_updates`.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights = dict(network.named_parameters())
        self._averages = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after this step, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = [weight.detach() for weight in self._weights.values()]
        torch._foreach_lerp_(list(self._averages.values()), weights, 1.0 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Replace the network's weights by their average within the `with` block."""
        weights = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._set(self._averages)
        try:
            yield
        finally:
            self._set(weights)

    @torch.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        for name, weight in self._weights.items():
            # In place: the optimizer holds these tensors, and packed weights notice the change.
            weight.copy_(values[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averages by name."""
        return self._averages

    def restore(self, averages: dict[str, Tensor], source: str) -> None:
        """Load saved averages.

        Raises:
            PretrainingError: the averages belong to another network.
        """
        check_tensors(averages, self._averages, source)
        for name, average in self._averages.items():
            average.copy_(averages[name])
