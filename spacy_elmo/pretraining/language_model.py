"""The biLM with its softmax in training: computes loss and LSTM states of a batch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from spacy_elmo.bilm import BiLM
from spacy_elmo.bilm.char_cnn import CharacterCNN
from spacy_elmo.bilm.softmax import Candidates, Softmax
from spacy_elmo.bilm.time_steps import State
from spacy_elmo.bilm.transfer import to_device
from spacy_elmo.errors import PretrainingError
from spacy_elmo.pretraining.batches import Batch
from spacy_elmo.pretraining.corpus import Table


class LanguageModel(nn.Module):
    """biLM and softmax, the same softmax for both directions (bilm-tf's `LanguageModel`).

    dropout: on the input of each LSTM layer (also as the skip connection uses it) and on the last output.

    Raises:
        PretrainingError: the biLM does not have bilm-tf's character CNN.
    """

    def __init__(self, bilm: BiLM, softmax: Softmax, dropout: float = 0.0) -> None:
        super().__init__()
        if not isinstance(bilm.embedder, CharacterCNN):
            what = "reads whole words" if bilm.options.token_embedder is None else "is a model of ELMoForManyLangs"
            raise PretrainingError(f"only a biLM with bilm-tf's character CNN can be pretrained; this one {what}")
        self.bilm, self.softmax, self.dropout = bilm, softmax, dropout

    @property
    def _embedder(self) -> CharacterCNN:
        return self.bilm.embedder  # type: ignore[return-value] # checked in the constructor

    def forward(
        self,
        batch: Batch,
        characters: Table,
        states: Sequence[State] | None = None,
        candidates: Candidates | None = None,
        seed: int = 0,
    ) -> tuple[Tensor, list[State]]:
        """Return the mean loss of the two directions in nats, and the detached states to continue from.

        characters: of the corpus' lexicon; states: of each layer, None for zero; candidates: for the sampled softmax,
        None for the full softmax; seed: of the dropout.
        """
        generator = torch.Generator(self.bilm.device).manual_seed(seed)
        hidden, finals = self.read(batch, characters, states, generator)
        targets = to_device(torch.from_numpy(batch.targets.transpose(0, 2, 1).reshape(-1)), hidden.device)
        return self.softmax(hidden.flatten(0, 1), targets, candidates), finals

    def read(
        self, batch: Batch, characters: Table, states: Sequence[State] | None, generator: torch.Generator
    ) -> tuple[Tensor, list[State]]:
        """Return the softmax's input, `[2, unroll_steps * rows, projection_dim]` ordered by time, and the final states.

        See `forward`.
        """
        _, rows, steps = batch.words.shape
        distinct, number = np.unique(batch.words.transpose(0, 2, 1), return_inverse=True)
        embeddings = self._embedder.embed_ids(characters[distinct])
        layers = list(
            self.bilm.run_layers(
                embeddings[to_device(torch.from_numpy(number.reshape(2, -1)), embeddings.device)],
                [rows] * steps,
                states or [None] * len(self.bilm.layers),
                torch.from_numpy(batch.starts.T.flatten()),
                lambda x: self._drop(x, generator),
            )
        )
        return self._drop(layers[-1][0], generator), [(hidden.detach(), cell.detach()) for _, (hidden, cell) in layers]

    def _drop(self, x: Tensor, generator: torch.Generator) -> Tensor:
        if not (self.training and self.dropout):
            return x
        keep = 1.0 - self.dropout
        return x * torch.empty_like(x).bernoulli_(keep, generator=generator).div_(keep)
