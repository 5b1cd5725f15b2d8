"""Tokenized sentences in, the arrays to be written out."""

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
    """Form of the array of a line: `[n_outputs, n_tokens, width]`, or `[n_tokens, width]` where n_outputs is None."""

    n_outputs: int | None
    width: int
    dtype: str

    def shape(self, n_tokens: int) -> tuple[int, ...]:
        """Shape of the array of a line of so many tokens."""
        return (n_tokens, self.width) if self.n_outputs is None else (self.n_outputs, n_tokens, self.width)

    @property
    def token_bytes(self) -> int:
        """Bytes that a token takes."""
        return (self.n_outputs or 1) * self.width * np.dtype(self.dtype).itemsize


class Encoder:
    """A biLM and what is wanted of it.

    layers: one of WORDS, or the number of a layer; see `parse_layers`.
    settings: of these, `float16`, `max_batch_tokens`, `carry_state` (from call to call, row by row) and `device`, which
        is chosen where the work is done, see `on_device`.
    """

    def __init__(self, bilm: BiLM, layers: Choice, settings: EmbedSettings) -> None:
        n_outputs = bilm.options.n_outputs if layers == "all" else None
        self.layout = Layout(n_outputs, bilm.options.width, "float16" if settings.float16 else "float32")
        self._bilm, self._layers, self._max_batch_tokens = bilm, layers, settings.max_batch_tokens
        self._state, self._device = CarriedState() if settings.carry_state else None, settings.device

    def on_device(self) -> "Encoder":
        """Move the biLM to the device, in the process that works with it.

        Raises:
            ElmoError: there is no such device.
        """
        self._bilm.to(choose_device(self._device))
        return self

    def __call__(self, sentences: Sequence[Sequence[str]]) -> list[Array]:
        """Return the array of each sentence; what came before has no part in it.

        A word's vector is rounded in the company it is computed in. Remembered, it would carry that into later calls,
        and text that a biLM amplifies would differ between a resumed run and an uninterrupted one.
        """
        self._bilm.clear_word_table()
        arrays: list[Any] = [None] * len(sentences)
        for batch in self._bilm.stream(sentences, self._max_batch_tokens, self._state):
            values = floats_on_cpu(self._reduce(batch.layers))
            for number, part in zip(batch.numbers, values.split(batch.lengths, dim=-2), strict=True):
                arrays[number] = part[..., 1:-1, :].numpy().astype(self.layout.dtype)  # a copy, without BOS and EOS
            del batch, values, part  # or they are still there beside the next ones
        return arrays

    def _reduce(self, layers: torch.Tensor) -> torch.Tensor:
        if self._layers == "all":
            return layers
        if self._layers == "mean":
            return layers.mean(dim=0)
        return layers[-1 if self._layers == "top" else int(self._layers)]
