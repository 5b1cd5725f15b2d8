"""Callbacks of a training: saturation check, log, TensorBoard. The evaluations are in model_writer.py."""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spacy_elmo.errors import PretrainingError
from spacy_elmo.pretraining.batches import Batch
from spacy_elmo.pretraining.logs import append_line
from spacy_elmo.pretraining.run_folder import RunFolder
from spacy_elmo.pretraining.steps import Steps

_SATURATED = 0.5  # with more of a layer's cells at the limit, it hardly tells inputs apart
_FLAT = 9.0  # without a clip: above about this, the tanh of a cell is 1 in float32, and its gradient 0


class DivergedError(PretrainingError):
    """Training has diverged; the message says what was found and what may prevent it."""


class Callback:
    """Called by the trainer at certain moments; each method does nothing unless a subclass overrides it."""

    def on_log(self, steps: Steps, batch: Batch, line: dict[str, float]) -> None:
        """Called after every `log_every` steps and after the last. batch: what that step read; line: figures to log."""

    def on_evaluation(self, steps: Steps) -> bool:
        """Called every `evaluate_every` steps or after each epoch, and at the end; return whether the run must end."""
        return False

    def on_stop(self, steps: Steps) -> None:
        """Called when a signal has asked to stop, after a checkpoint is written."""

    def on_end(self, steps: Steps) -> None:
        """Called after the last evaluation."""


class SaturationCheck(Callback):
    """Raises a DivergedError if most cells of a layer are at the clip or, without a clip, where tanh is flat.

    Checks the carried state, and the state after a batch from zero state. Every process checks its own rows.
    """

    def on_log(self, steps: Steps, batch: Batch, line: dict[str, float]) -> None:
        """Check the states after the last step, and the states after its batch from zero state."""
        if steps.states is None:
            return
        clip = steps.model.bilm.options.lstm.cell_clip
        limit, where = (_FLAT, f"beyond {_FLAT:g}") if clip is None else (0.999 * clip, f"at the clip ({clip})")
        fresh = dataclasses.replace(batch, starts=np.zeros_like(batch.starts))
        steps.model.eval()
        with torch.no_grad():
            table, generator = steps.batches.corpus.characters, torch.Generator(steps.group.device)
            _, from_zero = steps.model.read(fresh, table, None, generator)
        steps.model.train()
        for kind, states in (("carried", steps.states), ("zero", from_zero)):
            for layer, (_, cell) in enumerate(states, start=1):
                for direction, share in zip(("forward", "backward"), _share_beyond(cell, limit), strict=True):
                    if share > _SATURATED:
                        raise DivergedError(
                            f"{share:.0%} of the cells of {direction} layer {layer} are {where} from "
                            f"{kind} state; raise reset_probability, or lower the learning_rate"
                        )


def _share_beyond(cell: Tensor, limit: float) -> list[float]:
    """Return the share of the cells at least that far from zero, by direction; cell: `[2, rows, dim]`."""
    return (cell.abs() >= limit).float().mean(dim=(1, 2)).tolist()


class MetricsLog(Callback):
    """Writes `metrics.jsonl`."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def on_log(self, steps: Steps, batch: Batch, line: dict[str, float]) -> None:
        """Add a line."""
        append_line(self.folder.metrics, line)


class TensorBoard(Callback):
    """Writes TensorBoard's files.

    Raises:
        PretrainingError: the package is not installed.
    """

    def __init__(self, folder: RunFolder) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise PretrainingError(
                "[logging] tensorboard is true, but the package tensorboard is not installed (pip install tensorboard)"
            ) from None
        self._writer: Any = SummaryWriter(str(folder.path / "tensorboard"))

    def on_log(self, steps: Steps, batch: Batch, line: dict[str, float]) -> None:
        """Add a point to each curve."""
        for name in ("loss", "perplexity", "tokens_per_second", "learning_rate"):
            self._writer.add_scalar(name, line[name], steps.step)
        self._writer.flush()
