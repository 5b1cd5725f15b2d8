"""Model, batches and settings in, trained model out: the loop, its log and its checkpoints."""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spacy_elmo.bilm.softmax import Candidates
from spacy_elmo.bilm.time_steps import State
from spacy_elmo.errors import PretrainingError
from spacy_elmo.pretraining import checkpoint
from spacy_elmo.pretraining.batches import Batch, Batches
from spacy_elmo.pretraining.config import Config
from spacy_elmo.pretraining.distributed import Group
from spacy_elmo.pretraining.language_model import LanguageModel
from spacy_elmo.pretraining.optimizer import learning_rate, make_optimizer
from spacy_elmo.pretraining.precision import Precision
from spacy_elmo.pretraining.process import StopRequest, stop_on_signals
from spacy_elmo.support.files import write_text
from spacy_elmo.support.progress import progress_bar

METRICS = "metrics.jsonl"

_SAMPLES, _DROPOUT = 2, 3  # what a stream of random numbers is for; batches.py has the others
_SATURATED = 0.5  # share of a layer's cells at the clip from which on it tells hardly anything apart
_LOWER = "a lower learning_rate, or warmup_steps, may prevent it"
_AGREE_EVERY = 10  # steps after which processes that train together ask each other whether to stop or to save


class StoppedError(PretrainingError):
    """A signal asked to stop; a checkpoint is written."""


class Trainer:
    """One process' part of a pretraining run; `run` starts it, or goes on with it after `restore`.

    precision: of the products, where the config leaves it to the hardware; kept in the checkpoint.
    out: directory of the run, for its log and checkpoints.
    origin: what the model card is to say of the model that the weights come from, if any; kept in the checkpoint.
    """

    def __init__(
        self,
        model: LanguageModel,
        batches: Batches,
        config: Config,
        precision: Precision,
        group: Group,
        out: Path,
        show_progress: bool,
        origin: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.batches, self.config, self.group, self.out = model, batches, config, group, out
        self.precision, self.show_progress, self.origin = precision, show_progress, origin
        self.optimizer = make_optimizer(model.parameters(), config.optimizer)
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=precision == "float16")
        self.step = 0
        self.states: list[State] | None = None
        self._since_log = torch.zeros(2, dtype=torch.float64, device=group.device)  # sum of losses, and of steps
        self._logged, self._logged_step = time.perf_counter(), 0
        self._saved = self._logged
        self._writer = _tensorboard(out) if config.logging.tensorboard and group.is_main else None

    @property
    def n_steps(self) -> int:
        """Steps of the whole run."""
        training = self.config.training
        steps = max(round(training.n_epochs * self.batches.steps_per_epoch), int(training.n_epochs > 0))
        return steps if training.max_steps is None else min(steps, training.max_steps)

    @property
    def tokens_per_step(self) -> int:
        """Predictions of one direction at a step, in all processes."""
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
    def is_to_evaluate(self) -> bool:
        """Whether an evaluation is due before anything else: at the end of an epoch, or of the run."""
        return self.step >= self.n_steps or (self.step > 0 and self.step % self.batches.steps_per_epoch == 0)

    def run(self, after_epoch: Callable[[], None]) -> None:
        """Train to the last step; the log and the checkpoints are in `out`.

        after_epoch: called by the main process behind each epoch but the last; where a run stopped there, by the one
            that goes on with it.

        Raises:
            PretrainingError: the loss is no number any more, a direction saturates, or a checkpoint cannot be written.
            StoppedError: a signal asked to stop.
        """
        network = self._parallel()
        total, done = self.n_steps * self.tokens_per_step, self.step * self.tokens_per_step
        bar = progress_bar(self.show_progress and self.group.is_main, "pretraining", total, initial=done, unit=" words")
        self._logged = self._saved = time.perf_counter()
        self._logged_step = self.step
        with stop_on_signals() as request, bar:
            while self.step < self.n_steps:
                if self.is_to_evaluate:
                    self._end_epoch(after_epoch)
                batch = self.batches.at(self.step)
                self._since_log += self._train_on(batch, network)
                self.step += 1
                bar.update(self.tokens_per_step)
                if self.step % self.config.logging.log_every == 0 or self.step == self.n_steps:
                    bar.set_postfix_str(self._log(batch))
                stop, save = self._agree(request)
                if stop or save or self.step == self.n_steps:
                    self.save()
                if stop:
                    raise StoppedError(f"stopped at step {self.step:,} of {self.n_steps:,}; --resume goes on")

    def _end_epoch(self, after_epoch: Callable[[], None]) -> None:
        self._check_weights()
        if self.group.is_main:
            after_epoch()
        self.group.wait()

    def _parallel(self) -> nn.Module:
        self.model.train()
        if self.group.size == 1:
            return self.model
        return nn.parallel.DistributedDataParallel(self.model, gradient_as_bucket_view=True)

    def _train_on(self, batch: Batch, network: nn.Module) -> Tensor:
        """Take one step of the optimizer; return its loss, and 1 for the step."""
        training, device = self.config.training, self.group.device
        seed = int(self._random(_DROPOUT, self.group.rank).integers(2**62))
        dtype = getattr(torch, self.precision)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            table = self.batches.corpus.characters
            loss, self.states = network(batch, table, self.states, self._candidates(), seed)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss * training.unroll_steps).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip_norm or math.inf)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = learning_rate(self.config.optimizer, self.step, self.n_steps)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return torch.stack([loss.detach(), torch.ones_like(loss)])

    def _candidates(self) -> Candidates | None:
        """Words to score against, the same in all processes; None where all are scored."""
        n_samples, n_words = self.config.training.n_negative_samples_batch, len(self.model.softmax.bias)
        if not 0 < n_samples < n_words:
            return None
        return Candidates.draw(n_samples, n_words, self._random(_SAMPLES))

    def _random(self, *stream: int) -> np.random.Generator:
        """Random numbers of this step: they depend on the seed, the step and what they are for, on nothing else."""
        return np.random.default_rng([self.config.training.seed, *stream, self.step])

    def _log(self, batch: Batch) -> str:
        """Write a line of the log and check that all is well; return what to show beside the progress bar."""
        loss = self._mean_loss()
        self._check_saturation(batch)
        now = time.perf_counter()
        rate = (self.step - self._logged_step) * self.tokens_per_step / (now - self._logged)
        self._logged, self._logged_step = now, self.step
        self._since_log.zero_()
        line = {
            **self.progress,
            "loss": loss,
            "perplexity": math.exp(min(loss, 700)),
            "tokens_per_second": round(rate, 1),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        if self.group.is_main:
            append_line(self.out / METRICS, line)
        if self._writer is not None:
            for name in ("loss", "perplexity", "tokens_per_second", "learning_rate"):
                self._writer.add_scalar(name, line[name], self.step)
            self._writer.flush()
        return f"perplexity {line['perplexity']:.1f}"

    def _mean_loss(self) -> float:
        """Mean loss since the last line of the log, over all processes.

        Raises:
            PretrainingError: it is no number.
        """
        total, steps = self.group.sum(self._since_log.clone()).tolist()
        loss = total / steps if steps else 0.0
        if not math.isfinite(loss):
            raise self._failure(f"the loss is {loss}", _LOWER)
        return float(loss)

    def _check_weights(self) -> None:
        """Raise where a weight is no number: the loss of a step knows nothing of the weights that the step made."""
        if not torch.stack([parameter.isfinite().all() for parameter in self.model.parameters()]).all():
            raise self._failure("weights are no numbers any more", _LOWER)

    def _check_saturation(self, batch: Batch) -> None:
        """Raise where most cells of a layer are at the clip, with carried state or after a batch from zero state."""
        clip = self.model.bilm.options.lstm.cell_clip
        if clip is None or self.states is None:
            return
        fresh = dataclasses.replace(batch, starts=np.zeros_like(batch.starts))
        self.model.eval()
        with torch.no_grad():
            table = self.batches.corpus.characters
            _, from_zero = self.model.read(fresh, table, None, torch.Generator(self.group.device))
        self.model.train()
        for kind, states in (("carried", self.states), ("zero", from_zero)):
            for layer, (_, cell) in enumerate(states, start=1):
                for direction, share in zip(("forward", "backward"), _at_clip(cell, clip), strict=True):
                    if share > _SATURATED:
                        raise self._failure(
                            f"{share:.0%} of the cells of {direction} layer {layer} are at the clip ({clip}) from "
                            f"{kind} state",
                            "raise reset_probability, or lower the learning_rate",
                        )

    def _failure(self, what: str, advice: str) -> PretrainingError:
        kept = self.out / checkpoint.NAME
        last = f"the last good checkpoint is {kept}" if kept.is_file() else "there is no checkpoint yet"
        return PretrainingError(f"stopped at step {self.step:,}: {what}; {advice}; {last}")

    def _agree(self, request: StopRequest) -> tuple[bool, bool]:
        """Whether all processes stop now, and whether they save."""
        due = time.perf_counter() - self._saved >= 60 * self.config.logging.checkpoint_minutes
        if self.group.size == 1:
            return bool(request), due
        if self.step % _AGREE_EVERY:
            return False, False
        wishes = torch.tensor([bool(request), due and self.group.is_main], dtype=torch.int, device=self.group.device)
        stop, save = self.group.sum(wishes).tolist()
        return bool(stop), bool(save)

    def save(self) -> None:
        """Write a checkpoint; all processes take part, the main one writes."""
        self._mean_loss()
        self._check_weights()
        states = self.group.join_rows(self.states or [])
        since_log = self.group.sum(self._since_log.clone()) / self.group.size
        if self.group.is_main:
            state = {
                "format": checkpoint.FORMAT,
                "options": self.model.bilm.options.to_dict(),
                "vocabulary": self.batches.corpus.vocabulary.digest,
                "step": self.step,
                "rows": self.batches.rows,
                "tokens_per_step": self.tokens_per_step,
                "n_positions": self.batches.corpus.n_positions,
                "origin": self.origin,
                "optimizer_name": self.config.optimizer.name,
                "precision": self.precision,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "states": states,
                "since_log": since_log,
            }
            checkpoint.save(self.out / checkpoint.NAME, state)
        self._saved = time.perf_counter()

    def restore(self, state: dict[str, Any]) -> str | None:
        """Go on from a checkpoint.

        Returns what cannot be as it was, if anything: with another number of rows, the place in the text and
        the carried states.

        Raises:
            PretrainingError: it is of another architecture, vocabulary or optimizer.
        """
        self._check_fits(state)
        self.model.load_state_dict(state["model"])
        self.origin = state["origin"]
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, ours in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(ours)  # betas and the like are the config's, as everywhere
        if state["scaler"]:  # empty where the run was not in float16
            self.scaler.load_state_dict(state["scaler"])
        if (state["rows"], state["tokens_per_step"]) == (self.batches.rows, self.tokens_per_step):
            self.step = state["step"]
            device, own = self.group.device, self.batches.own
            self.states = [(hidden[:, own].to(device), cell[:, own].to(device)) for hidden, cell in state["states"]]
            self._since_log = state["since_log"].to(device)
            note = None
        else:
            self.step = math.ceil(state["step"] * state["tokens_per_step"] / self.tokens_per_step)
            theirs = f"{state['rows']} rows of {state['tokens_per_step'] // state['rows']} words"
            note = (
                f"the checkpoint was written with {theirs}, this run has {self.batches.rows} of "
                f"{self.batches.unroll_steps}: it goes on from zero states, and at about the same place in the text"
            )
        return note

    def _check_fits(self, state: dict[str, Any]) -> None:
        source = self.out / checkpoint.NAME
        ours, theirs = self.model.bilm.options.to_dict(), state["options"]
        for section in ("lstm", "char_cnn"):
            for key, value in ours[section].items():
                if theirs[section].get(key) != value:
                    raise PretrainingError(
                        f"{source} is of another architecture: {key} is {theirs[section].get(key)} there, {value} in "
                        "the config; name the config (and --init-from) of that run, or start a new one from its model"
                    )
        if state["vocabulary"] != self.batches.corpus.vocabulary.digest:
            raise PretrainingError(f"{source} was made with another vocabulary; restore it, or start a new run")
        if state["optimizer_name"] != self.config.optimizer.name:
            raise PretrainingError(
                f"{source} was made with another optimizer, {state['optimizer_name']}; restore it, or start a new run"
            )
        if state["n_positions"] != self.batches.corpus.n_positions:
            raise PretrainingError(f"{source} was made on another text; restore it, or start a new run from its model")


def _at_clip(cell: Tensor, clip: float) -> list[float]:
    """Share of the cells at the clip, by direction; cell: `[2, rows, dim]`."""
    return (cell.abs() >= 0.999 * clip).double().mean(dim=(1, 2)).tolist()


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Add a JSON object to a `.jsonl` file.

    Raises:
        PretrainingError: it cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise PretrainingError(f"{path}: cannot be written ({error})") from None


def cut_log(path: Path, tokens: float) -> None:
    """Drop from a `.jsonl` file what lies behind so many words, and a line cut short by a crash."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry["tokens"] <= tokens:
            kept.append(line + "\n")
    write_text(path, "".join(kept))


def _tensorboard(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise PretrainingError(
            "[logging] tensorboard is true, but the package is not installed (pip install tensorboard)"
        ) from None
    return SummaryWriter(str(out / "tensorboard"))
