"""Turns tokenized sentences into the arrays to write."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from spacy_elmo.bilm import BiLM, CarriedState
from spacy_elmo.bilm.transfer import floats_on_cpu
from spacy_elmo.support.device import choose_device
from spacy_elmo.support.layers import Choice
from spacy_elmo.tools.embedding.settings import EmbedSettings

Array = npt.NDArray[Any]
WORDS = ("all", "top", "mean")


@dataclass(frozen=True)
class Layout:
    """Form of the array of a line: `[n_outputs, n_tokens, width]`, or `[n_tokens, width]` if n_outputs is None."""

    n_outputs: int | None
    width: int
    dtype: str

    def shape(self, n_tokens: int) -> tuple[int, ...]:
        """Return the shape of the array of a line of `n_tokens`."""
        return (n_tokens, self.width) if self.n_outputs is None else (self.n_outputs, n_tokens, self.width)

    @property
    def token_bytes(self) -> int:
        """Bytes per token."""
        return (self.n_outputs or 1) * self.width * np.dtype(self.dtype).itemsize


class Encoder:
    """Encodes sentences with a biLM.

    layers: one of WORDS, or the number of a layer; see `parse_layers`.
    settings: it uses `float16`, `max_batch_tokens`, `carry_state` (from call to call, row by row) and `device`. The
        device is chosen in the process that does the work; see `on_device`.
    """

    def __init__(self, bilm: BiLM, layers: Choice, settings: EmbedSettings) -> None:
        n_outputs = bilm.options.n_outputs if layers == "all" else None
        self.layout = Layout(n_outputs, bilm.options.width, "float16" if settings.float16 else "float32")
        self._bilm, self._layers, self._max_batch_tokens = bilm, layers, settings.max_batch_tokens
        self._state, self._device = CarriedState() if settings.carry_state else None, settings.device

    def on_device(self) -> "Encoder":
        """Move the biLM to the device. Call it in the process that does the work.

        Raises:
            ElmoError: there is no such device.
        """
        self._bilm.to(choose_device(self._device))
        return self

    def __call__(self, sentences: Sequence[Sequence[str]]) -> list[Array]:
        """Return the array of each sentence, independent of earlier calls.

        The rounding of a word's vector depends on the batch in which it is computed. A cached vector would carry that
        rounding into later calls. If a biLM amplifies it, a resumed run would differ from an uninterrupted one.
        """
        self._bilm.clear_word_table()
        arrays: list[Any] = [None] * len(sentences)
        for batch in self._bilm.stream(sentences, self._max_batch_tokens, self._state, keep_boundaries=False):
            values = floats_on_cpu(self._reduce(batch.layers))
            for number, part in zip(batch.numbers, values.split(batch.lengths, dim=-2), strict=True):
                arrays[number] = part.numpy().astype(self.layout.dtype)  # a copy
            del batch, values, part  # free them before the next batch is computed
        return arrays

    def _reduce(self, layers: torch.Tensor) -> torch.Tensor:
        if self._layers == "all":
            return layers
        if self._layers == "mean":
            return layers.mean(dim=0)
        return layers[-1 if self._layers == "top" else int(self._layers)]
