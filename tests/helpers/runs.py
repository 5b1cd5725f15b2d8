"""Pretraining runs: the contents of their checkpoints."""

import math

import torch

from spacy_elmo.pretraining import checkpoint
from spacy_elmo.pretraining.checkpoint import Checkpoint


def weights(out):
    """Return all weights and the optimizer's state in the checkpoint, by name."""
    state = Checkpoint.read(out / checkpoint.NAME)
    found = {f"model.{name}": tensor for name, tensor in state.model.items()}
    for number, memory in state.optimizer["state"].items():
        found |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in memory.items()}
    found |= {f"average.{name}": tensor for name, tensor in (state.average or {}).items()}
    for layer, parts in enumerate(state.states):
        found |= {f"states.{layer}.{part}": tensor for part, tensor in enumerate(parts)}
    return found


def save_soon(trainer):
    trainer._saved = -math.inf
