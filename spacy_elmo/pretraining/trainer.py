"""The training loop: takes the steps of a run, and decides when to log, evaluate, save and stop."""

import math
import signal
import time
from collections.abc import Sequence

import torch

from spacy_elmo.bilm.memory import return_freed_memory
from spacy_elmo.errors import PretrainingError
from spacy_elmo.pretraining.batches import Batch
from spacy_elmo.pretraining.callbacks import Callback, DivergedError
from spacy_elmo.pretraining.process import StopRequest, stop_on_signals
from spacy_elmo.pretraining.run_folder import RunFolder
from spacy_elmo.pretraining.steps import Steps
from spacy_elmo.support.progress import progress_bar

_LOWER = "a lower learning_rate, or warmup_steps, may prevent it"
_AGREE_EVERY = 10  # steps after which processes that train together agree whether to stop or save


class StoppedError(PretrainingError):
    """A signal asked to stop, and a checkpoint was written. The exit status is the shells' status for that signal."""

    def __init__(self, message: str, number: signal.Signals | None = None) -> None:
        super().__init__(message)
        if number is not None:  # the signal reached this process, not another one of the run
            self.exit_status = 128 + number


class Trainer:
    """Takes the steps of a pretraining run to the end, in one process.

    folder: for the checkpoints; callbacks: of this process, called in this order.
    """

    def __init__(self, steps: Steps, folder: RunFolder, callbacks: Sequence[Callback], show_progress: bool) -> None:
        self.steps, self.folder, self.callbacks = steps, folder, callbacks
        self.show_progress = show_progress and steps.group.is_main
        self._saved = self._logged = time.perf_counter()
        self._logged_step = steps.step

    def run(self) -> None:
        """Train to the last step, with evaluations; start with an evaluation if the run was stopped before it.

        Raises:
            PretrainingError: the loss is not a finite number, a callback raises, or a checkpoint cannot be written.
            StoppedError: a signal asked to stop.
        """
        try:
            ended_early = self._take_steps()
            if not ended_early:
                self._evaluate()
            for callback in self.callbacks:
                callback.on_end(self.steps)
        except DivergedError as error:
            kept = self.folder.checkpoint
            last = f"the last good checkpoint is {kept}" if kept.is_file() else "there is no checkpoint yet"
            raise PretrainingError(f"stopped at step {self.steps.step:,}: {error}; {last}") from None

    def _take_steps(self) -> bool:
        """Take the remaining steps; return whether an evaluation ended the run before the last one."""
        steps = self.steps
        total, done = steps.n_steps * steps.tokens_per_step, steps.step * steps.tokens_per_step
        bar = progress_bar(self.show_progress, "pretraining", total, initial=done, unit=" words")
        with stop_on_signals() as request, bar:
            while not steps.are_done:
                if steps.evaluation_is_due and self._evaluate():
                    self.save()
                    return True
                batch = self._take_step()
                bar.update(steps.tokens_per_step)
                if steps.step % steps.config.logging.log_every == 0 or steps.are_done:
                    bar.set_postfix_str(f"perplexity {self._log(batch):.1f}")
                stop, save = self._agree(request)
                if stop or save or steps.are_done:
                    self.save()
                if stop:
                    self._stop(request)
        return False

    def _take_step(self) -> Batch:
        return self.steps.advance()

    def _evaluate(self) -> bool:
        """Let the callbacks evaluate the current model; return whether one of them ends the run."""
        self._check_weights()
        ends = [callback.on_evaluation(self.steps) for callback in self.callbacks]
        return self.steps.group.of_main(any(ends))

    def _stop(self, request: StopRequest) -> None:
        for callback in self.callbacks:
            callback.on_stop(self.steps)
        steps = self.steps
        raise StoppedError(
            f"stopped at step {steps.step:,} of {steps.n_steps:,}; continue with --resume", request.signal
        )

    def _log(self, batch: Batch) -> float:
        """Give the callbacks the figures since the last call; return the perplexity."""
        steps = self.steps
        loss = self._finite_loss()
        now = time.perf_counter()
        rate = (steps.step - self._logged_step) * steps.tokens_per_step / (now - self._logged)
        line: dict[str, float] = {
            **steps.progress,
            "loss": loss,
            "perplexity": math.exp(min(loss, 700)),
            "tokens_per_second": round(rate, 1),
            "learning_rate": steps.optimizer.param_groups[0]["lr"],
        }
        for callback in self.callbacks:
            callback.on_log(steps, batch, line)
        steps.forget_losses()
        self._logged, self._logged_step = now, steps.step
        return line["perplexity"]

    def _finite_loss(self) -> float:
        if not math.isfinite(loss := self.steps.mean_loss()):
            raise DivergedError(f"the loss is {loss}; {_LOWER}")
        return loss

    def _check_weights(self) -> None:
        """Raise if a weight is not finite: the loss of a step does not depend on the weights that the step makes."""
        finite = [parameter.isfinite().all() for parameter in self.steps.model.parameters()]
        if not torch.stack(finite).all():
            raise DivergedError(f"weights are no longer finite numbers; {_LOWER}")

    def _agree(self, request: StopRequest) -> tuple[bool, bool]:
        """Return whether all processes stop now, and whether they save."""
        steps = self.steps
        due = time.perf_counter() - self._saved >= 60 * steps.config.logging.checkpoint_minutes
        if steps.group.size == 1:
            return bool(request), due
        if steps.step % _AGREE_EVERY:
            return False, False
        wishes = torch.tensor([bool(request), due and steps.group.is_main], dtype=torch.int, device=steps.group.device)
        stop, save = steps.group.sum(wishes).tolist()
        return bool(stop), bool(save)

    def save(self) -> None:
        """Write a checkpoint; all processes take part, and the main one writes.

        Raises:
            PretrainingError: the loss or a weight is not finite, or the file cannot be written; the previous checkpoint
                is kept.
        """
        self._finite_loss()
        self._check_weights()
        checkpoint = self.steps.checkpoint()
        if self.steps.group.is_main:
            checkpoint.write(self.folder.checkpoint)
        del checkpoint
        return_freed_memory()  # steps differ in how many distinct words they read, so holes between arrays add up
        self._saved = time.perf_counter()
