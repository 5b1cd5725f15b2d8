"""The optimizer steps of a run. Between any two of them it can write a checkpoint and continue from it exactly."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from spacy_elmo.bilm.softmax import Candidates
from spacy_elmo.bilm.time_steps import State
from spacy_elmo.errors import PretrainingError
from spacy_elmo.pretraining.average import WeightAverage
from spacy_elmo.pretraining.batches import Batch, Batches
from spacy_elmo.pretraining.checkpoint import Checkpoint, load_tensors
from spacy_elmo.pretraining.config import Config
from spacy_elmo.pretraining.distributed import Group
from spacy_elmo.pretraining.language_model import LanguageModel
from spacy_elmo.pretraining.optimizer import learning_rate, make_optimizer, restore_optimizer
from spacy_elmo.pretraining.precision import Precision
from spacy_elmo.support.messages import quoted, shown

_SAMPLES, _DROPOUT = 2, 3  # purposes of the streams of random numbers; batches.py has the others


class Steps:
    """The optimizer steps of a run, in one of its processes, and all state that changes from step to step.

    precision: of the matrix products; stored in the checkpoint.
    origin: entries of the model card about the model that the run started from, if any; stored in the checkpoint.
    """

    def __init__(
        self,
        model: LanguageModel,
        batches: Batches,
        config: Config,
        precision: Precision,
        group: Group,
        origin: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.batches, self.config, self.group = model.train(), batches, config, group
        self.precision, self.origin = precision, origin
        self.optimizer = make_optimizer(model.parameters(), config.optimizer)
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=precision == "float16")
        self.step = 0
        self.states: list[State] | None = None
        exact = torch.float32 if group.device.type == "mps" else torch.float64  # a Mac's GPU has no float64
        self._since_log = torch.zeros(2, dtype=exact, device=group.device)  # sum of losses, and number of steps
        decay = config.training.average_decay
        self.average = WeightAverage(model, decay) if decay is not None else None
        self._network: nn.Module = model  # computes the loss
        if group.size > 1:
            self._network = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)

    @property
    def n_steps(self) -> int:
        """Number of steps of the whole run."""
        training = self.config.training
        steps = max(round(training.n_epochs * self.batches.steps_per_epoch), int(training.n_epochs > 0))
        return steps if training.max_steps is None else min(steps, training.max_steps)

    @property
    def tokens_per_step(self) -> int:
        """Predictions of one direction per step, in all processes."""
        return self.batches.rows * self.batches.unroll_steps

    @property
    def progress(self) -> dict[str, float]:
        """How far the run has come: steps, predictions of one direction, epochs."""
        return {
            "step": self.step,
            "tokens": self.step * self.tokens_per_step,
            "epoch": round(self.step / self.batches.steps_per_epoch, 4),
        }

    @property
    def are_done(self) -> bool:
        """Whether all steps are taken."""
        return self.step >= self.n_steps

    @property
    def evaluation_is_due(self) -> bool:
        """Whether an evaluation comes next: every `evaluate_every` steps or after each epoch, and at the end."""
        every = self.config.logging.evaluate_every or self.batches.steps_per_epoch
        return self.are_done or (self.step > 0 and self.step % every == 0)

    def advance(self) -> Batch:
        """Take one step of the optimizer; return the batch it read."""
        batch = self.batches.at(self.step)
        training, device = self.config.training, self.group.device
        seed = int(self._random(_DROPOUT, self.group.rank).integers(2**62))
        dtype = getattr(torch, self.precision)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            table = self.batches.corpus.characters
            loss, self.states = self._network(batch, table, self.states, self.candidates(), seed)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss * training.unroll_steps).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip_norm or math.inf)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = learning_rate(self.config.optimizer, self.step, self.n_steps)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._since_log += torch.stack([loss.detach(), torch.ones_like(loss)])
        self.step += 1
        if self.average:
            self.average.update(self.step)
        return batch

    def averaged(self) -> AbstractContextManager[None]:
        """Give the model the weights to evaluate and write within the `with` block: their average, if there is one."""
        return self.average.in_place() if self.average else nullcontext()

    def candidates(self) -> Candidates | None:
        """Draw the words of the sampled softmax at this step, the same in all processes; None for the full softmax."""
        n_samples, n_words = self.config.training.n_negative_samples_batch, len(self.model.softmax.bias)
        if not 0 < n_samples < n_words:
            return None
        return Candidates.draw(n_samples, n_words, self._random(_SAMPLES))

    def _random(self, *stream: int) -> np.random.Generator:
        """Return a generator of random numbers that depends only on the seed, the step and the purpose."""
        return np.random.default_rng([self.config.training.seed, *stream, self.step])

    def mean_loss(self) -> float:
        """Return the mean loss since `forget_losses`, 0 without a step; all processes must call this together."""
        total, steps = self.group.sum(self._since_log.clone()).tolist()
        return float(total / steps) if steps else 0.0

    def forget_losses(self) -> None:
        """Start a new mean."""
        self._since_log.zero_()

    def checkpoint(self) -> Checkpoint:
        """Return the checkpoint; all processes must call this together, and the main process' result is complete."""
        corpus = self.batches.corpus
        return Checkpoint(
            options=self.model.bilm.options.to_dict(),
            vocabulary=corpus.vocabulary.digest,
            step=self.step,
            rows=self.batches.rows,
            tokens_per_step=self.tokens_per_step,
            n_positions=corpus.n_positions,
            origin=self.origin,
            optimizer_name=self.config.optimizer.name,
            precision=self.precision,
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            states=self.group.join_rows(self.states or []),
            since_log=self.group.sum(self._since_log.clone()) / self.group.size,
            average=self.average.state_dict() if self.average else None,
        )

    def restore(self, saved: Checkpoint) -> str | None:
        """Continue from a checkpoint.

        Returns a warning if something cannot be restored exactly: with another number of rows, that is the place in the
        text and the carried states.

        Raises:
            PretrainingError: the checkpoint is damaged, or has another architecture, vocabulary, text or optimizer.
        """
        self._check_is_of_this_run(saved)
        load_tensors(self.model, saved.model, f"{saved.source}: model")
        restore_optimizer(self.optimizer, saved.optimizer, saved.optimizer_name, saved.source)
        if self.average:  # a checkpoint without an average starts with its weights
            weights = {name: saved.model[name] for name, _ in self.model.named_parameters()}
            self.average.restore(weights if saved.average is None else saved.average, f"{saved.source}: average")
        if saved.scaler:  # empty if the run was not in float16
            self.scaler.load_state_dict(saved.scaler)
        self.origin = saved.origin
        if (saved.rows, saved.tokens_per_step) == (self.batches.rows, self.tokens_per_step):
            self._check_states(saved)
            self.step = saved.step
            device, own = self.group.device, self.batches.own
            self.states = [(hidden[:, own].to(device), cell[:, own].to(device)) for hidden, cell in saved.states]
            self._since_log = saved.since_log.to(device, self._since_log.dtype)
            return None
        self.step = math.ceil(saved.step * saved.tokens_per_step / self.tokens_per_step)
        return (
            f"the checkpoint was written with {saved.rows} rows of {saved.tokens_per_step // saved.rows} words, this "
            f"run has {self.batches.rows} of {self.batches.unroll_steps}: it continues from zero states, at about "
            "the same place in the text"
        )

    def _check_is_of_this_run(self, saved: Checkpoint) -> None:
        ours, corpus = self.model.bilm.options.to_dict(), self.batches.corpus
        for section in ("lstm", "char_cnn"):
            for key, value in ours[section].items():
                if (theirs := saved.options[section].get(key)) != value:
                    raise PretrainingError(
                        f"{saved.source} has another architecture: {key} is {quoted(theirs)} there, but {value} in "
                        "the config; use the config (and --init-from) of that run, or start a new run from its model"
                    )
        if saved.vocabulary != corpus.vocabulary.digest:
            raise PretrainingError(
                f"{saved.source} was made with another vocabulary; restore that vocabulary, or start a new run"
            )
        if saved.optimizer_name != self.config.optimizer.name:
            raise PretrainingError(
                f"{saved.source} was made with another optimizer, {shown(saved.optimizer_name)}; set that optimizer, "
                "or start a new run"
            )
        if saved.n_positions != corpus.n_positions:
            raise PretrainingError(
                f"{saved.source} was made with another text; restore that text, or start a new run from its model"
            )

    def _check_states(self, saved: Checkpoint) -> None:
        lstm = self.model.bilm.options.lstm
        expected = (
            [[(2, saved.rows, lstm.projection_dim), (2, saved.rows, lstm.dim)]] * lstm.n_layers * (saved.step > 0)
        )
        if [[tuple(one.shape) for one in state] for state in saved.states] != expected:
            raise PretrainingError(f"{saved.source}: states do not fit {saved.rows} rows of this model; is it damaged?")
