"""Weights step by step in, their moving average out, to be evaluated and written in their place."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from spacy_elmo.pretraining.checkpoint import check_tensors


class WeightAverage:
    """The exponential moving average of a network's weights; in the first steps, when they are hardly trained, with a
    smaller decay, as TensorFlow's `ExponentialMovingAverage` with `num_updates`."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights = dict(network.named_parameters())
        self._averages = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Count in the weights behind this step, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = [weight.detach() for weight in self._weights.values()]
        torch._foreach_lerp_(list(self._averages.values()), weights, 1.0 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the network has the average for its weights."""
        weights = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._set(self._averages)
        try:
            yield
        finally:
            self._set(weights)

    @torch.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        for name, weight in self._weights.items():
            weight.copy_(
                values[name]
            )  # in place: the optimizer knows these tensors, and what is packed sees the change

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averages by name."""
        return self._averages

    def restore(self, averages: dict[str, Tensor], source: str) -> None:
        """Go on from averages that were saved.

        Raises:
            PretrainingError: they are not those of this network.
        """
        check_tensors(averages, self._averages, source)
        for name, average in self._averages.items():
            average.copy_(averages[name])
