"""The directory of a run: which files are where, and whether a run may begin or go on there."""

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
    """Where a run keeps what it writes; the model lies in it, too."""

    path: Path

    @property
    def config(self) -> Path:
        """Its settings."""
        return self.path / CONFIG

    @property
    def checkpoint(self) -> Path:
        """All that it needs to go on."""
        return self.path / checkpoint.NAME

    @property
    def metrics(self) -> Path:
        """A line each logging step."""
        return self.path / METRICS

    @property
    def heldout_metrics(self) -> Path:
        """A line each evaluation."""
        return self.path / HELDOUT_METRICS

    @property
    def best(self) -> Path:
        """The model of the best held-out perplexity, a directory like this one."""
        return self.path / "best"

    @property
    def vocabulary(self) -> Path:
        """The words that it predicts."""
        return self.path / "vocab.txt"

    @property
    def corpus(self) -> Path:
        """Its text as numbers."""
        return self.path / "corpus"

    @contextmanager
    def open(self, config: Config, resume: bool, begins_with_a_model: bool) -> Iterator[None]:
        """Make the directory of a new run, or find the one to resume, and clear what a killed process left; within, no
        other process can train in it.

        Raises:
            PretrainingError: there is a run or a model where a new one shall begin, or none to resume; another process
                trains in it; or it cannot be written to.
        """
        self._check(resume)  # before anything is made
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(self._held())
                self._check(resume)  # another may have come to its end meanwhile
                for rest in self.path.glob(".*.part"):
                    shutil.rmtree(rest) if rest.is_dir() else rest.unlink()
                # From here on the run can be resumed. One that begins with another model can be from its first
                # checkpoint on: before, --resume alone would not know of that model.
                if begins_with_a_model and not resume:
                    self.config.unlink(missing_ok=True)  # of a run without it that was killed before its first step
                elif not self._is_there():
                    write_text(self.config, config.text())
            except OSError as error:
                raise PretrainingError(f"{self.path}: cannot be made ({error})") from None
            yield

    def _is_there(self) -> bool:
        return self.config.exists() or self.checkpoint.exists()

    def _check(self, resume: bool) -> None:
        if not resume or (is_elastic() and not self._is_there()):
            self._refuse_used()
        elif not self._is_there():
            raise PretrainingError(f"{self.path}: there is no run in it to resume")

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Lock a file of its own: all others, and the directory too, are replaced or locked by who writes them."""
        lock = self.path / _LOCK
        in_use = "another process is training in it; wait for its end, or name another directory"
        with claimed(lock, Path.touch, PretrainingError(f"{self.path}: {in_use}")):
            try:
                yield
            finally:
                with suppress(OSError):
                    lock.unlink()

    def _refuse_used(self) -> None:
        if any(path.exists() for path in (self.metrics, self.heldout_metrics, self.checkpoint)):
            raise PretrainingError(f"{self.path}: there is a run in it; --resume goes on with it, or name another one")
        if any((self.path / name).exists() for name in ("options.json", "weights.hdf5", "best")):
            raise PretrainingError(
                f"{self.path}: there is a model in it, which a run would overwrite; name another one"
            )

    def begin_logs(self, config: Config, tokens: float, evaluation_is_due: bool) -> None:
        """Record the settings, and drop from the logs what the run will do again.

        tokens: that it has read; evaluation_is_due: whether it evaluates before it reads more.

        Raises:
            PretrainingError: a log is damaged, or a file cannot be written.
        """
        cut_log(self.metrics, tokens)
        cut_log(self.heldout_metrics, tokens - evaluation_is_due)
        with self.writing():
            write_text(self.config, config.text())

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Within, name the run where a file of it cannot be written."""
        try:
            yield
        except OSError as error:
            raise PretrainingError(f"{self.path}: cannot be written ({error}); --resume goes on from there") from None
