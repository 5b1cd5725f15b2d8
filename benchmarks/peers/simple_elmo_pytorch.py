"""simple-elmo-pytorch: a copy of AllenNLP's biLM, without the mix of layers on top of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from peers import Sentences, batches_of


class Engine:
    """See peers/__init__.py."""

    def __init__(self, directory: Path, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        bilm, self.to_ids = self._bilm_class()
        self.bilm = bilm(str(directory / "options.json"), str(directory / "weights.hdf5")).eval()

    def _bilm_class(self) -> tuple[Any, Any]:
        from simple_elmo_pytorch import ElmoBiLmSentence, batch_to_ids

        return ElmoBiLmSentence, batch_to_ids

    def run(self, sentences: Sentences) -> Any:
        """Encode one batch; the layers have BOS and EOS."""
        return self.bilm(self.to_ids(sentences))["activations"]

    def encode(self, sentences: Sentences) -> Iterator[Any]:
        """Encode batch by batch, each from zero state."""
        for batch in batches_of(sentences):
            self.bilm._elmo_lstm.reset_states()
            layers = np.stack([layer.numpy() for layer in self.run(batch)])
            for row, sentence in enumerate(batch):
                yield layers[:, row, 1 : len(sentence) + 1]
