"""The directory of a run: its files, and whether a run may start or resume there."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from spacy_elmo.errors import PretrainingError
from spacy_elmo.pretraining import checkpoint
from spacy_elmo.pretraining.config import Config
from spacy_elmo.pretraining.distributed import is_elastic
from spacy_elmo.pretraining.logs import cut_log
from spacy_elmo.support.files import write_text
from spacy_elmo.support.locks import claimed

METRICS = "metrics.jsonl"
HELDOUT_METRICS = "heldout.jsonl"
CONFIG = "pretrain.cfg"
_LOCK = ".running"


@dataclass(frozen=True)
class RunFolder:
    """The directory of a run's files, including the model."""

    path: Path

    @property
    def config(self) -> Path:
        """The settings."""
        return self.path / CONFIG

    @property
    def checkpoint(self) -> Path:
        """Everything the run needs to continue."""
        return self.path / checkpoint.NAME

    @property
    def metrics(self) -> Path:
        """The log with one line per logging step."""
        return self.path / METRICS

    @property
    def heldout_metrics(self) -> Path:
        """The log with one line per evaluation."""
        return self.path / HELDOUT_METRICS

    @property
    def best(self) -> Path:
        """The model with the best held-out perplexity, in a directory like this one."""
        return self.path / "best"

    @property
    def vocabulary(self) -> Path:
        """The words that the model predicts."""
        return self.path / "vocab.txt"

    @property
    def corpus(self) -> Path:
        """The text as numbers."""
        return self.path / "corpus"

    @contextmanager
    def open(self, config: Config, resume: bool, begins_with_a_model: bool) -> Iterator[None]:
        """Make the directory of a new run, or find the run to resume, and remove what a killed process left.

        Within the `with` block no other process can train in the directory.

        Raises:
            PretrainingError: a new run finds a run or a model in the directory, or there is no run to resume; another
                process trains in it; or it cannot be written to.
        """
        self._check(resume)  # before anything is made
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(self._held())
                self._check(resume)  # another run may have ended meanwhile
                for rest in self.path.glob(".*.part"):
                    shutil.rmtree(rest) if rest.is_dir() else rest.unlink()
                # From here on the run can be resumed. A run that starts from another model can be resumed only from
                # its first checkpoint on: before that, --resume alone would not know that model.
                if begins_with_a_model and not resume:
                    # Left by a run without such a model that was killed before its first step.
                    self.config.unlink(missing_ok=True)
                elif not self._is_there():
                    write_text(self.config, config.text())
            except OSError as error:
                raise PretrainingError(f"{self.path}: cannot be created ({error})") from None
            yield

    def _is_there(self) -> bool:
        return self.config.exists() or self.checkpoint.exists()

    def _check(self, resume: bool) -> None:
        if not resume or (is_elastic() and not self._is_there()):
            self._refuse_used()
        elif not self._is_there():
            raise PretrainingError(f"{self.path}: no run in this directory to resume")

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Lock a separate file: all other files, and the directory, are replaced or locked when they are written."""
        lock = self.path / _LOCK
        in_use = "another process is training in this directory; wait until it ends, or name another directory"
        with claimed(lock, Path.touch, PretrainingError(f"{self.path}: {in_use}")):
            try:
                yield
            finally:
                with suppress(OSError):
                    lock.unlink()

    def _refuse_used(self) -> None:
        if any(path.exists() for path in (self.metrics, self.heldout_metrics, self.checkpoint)):
            raise PretrainingError(
                f"{self.path}: this directory holds a run; continue it with --resume, or name another directory"
            )
        if any((self.path / name).exists() for name in ("options.json", "weights.hdf5", "best")):
            raise PretrainingError(
                f"{self.path}: this directory holds a model, which a run would overwrite; name another directory"
            )

    def begin_logs(self, config: Config, tokens: float, evaluation_is_due: bool) -> None:
        """Write the settings, and drop the lines of the logs that the run will write again.

        tokens: words that the run has read; evaluation_is_due: whether it evaluates before it reads more.

        Raises:
            PretrainingError: a log is damaged, or a file cannot be written.
        """
        cut_log(self.metrics, tokens)
        cut_log(self.heldout_metrics, tokens - evaluation_is_due)
        with self.writing():
            write_text(self.config, config.text())

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Raise a PretrainingError that names the run if a file can't be written within the `with` block."""
        try:
            yield
        except OSError as error:
            raise PretrainingError(
                f"{self.path}: cannot be written ({error}); --resume continues from the last checkpoint"
            ) from None
