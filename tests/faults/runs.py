"""Long runs that are interrupted and resumed with `--resume`. Their results are compared with an uninterrupted run."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401  (optimizers import it at their first step; here, all forked processes share it)
from common import Subject, content, facts, write_model

from spacy_elmo import formats
from spacy_elmo.errors import ElmoError
from spacy_elmo.pretraining import corpus as corpus_module
from spacy_elmo.pretraining import model_writer
from spacy_elmo.pretraining.checkpoint import Checkpoint
from spacy_elmo.pretraining.config import Config, CorpusConfig, LoggingConfig, ModelConfig, TrainingConfig
from spacy_elmo.pretraining.logs import read_log
from spacy_elmo.pretraining.run import pretrain
from spacy_elmo.pretraining.run_folder import RunFolder
from spacy_elmo.pretraining.vocabulary import Vocabulary
from spacy_elmo.support import files
from spacy_elmo.tools.embed import embed_file
from spacy_elmo.tools.embedding.spool import directory_of

_CONFIG = Config(
    ModelConfig(dim=8, projection_dim=4, filters=((1, 4), (2, 4)), embedding_dim=4),
    CorpusConfig(min_count=1),
    TrainingConfig(n_epochs=1.0, batch_size=4, unroll_steps=10, n_negative_samples_batch=0, device="cpu"),
    logging=LoggingConfig(log_every=1, checkpoint_minutes=0.0, evaluate_every=2),
)


def _in_use(error: ElmoError) -> bool:
    return "another process" in str(error)


class Pretrain(Subject):
    """`pretrain`, which saves a checkpoint at each step, and then `pretrain --resume` in the same folder.

    begins_with_a_model: whether it gets `--init-from`.
    """

    kept, ended = {"nothing", "begun", "under way", "done"}, {"done"}

    def __init__(self, name: str, begins_with_a_model: bool = False) -> None:
        self.name, self.begins_with_a_model = name, begins_with_a_model

    def make(self, folder: Path) -> None:
        """Make the text, a model to start with, and an uninterrupted run."""
        for part, n_lines in (("train", 16), ("heldout", 2)):
            (folder / "corpus" / part).mkdir(parents=True)
            lines = (" ".join(f"{part}{number}_{place}" for place in range(9)) + "\n" for number in range(n_lines))
            (folder / "corpus" / part / "a.txt").write_text("".join(lines))
        write_model(folder / "first", cell_clip=3.0, seed=0)
        models: list[tuple[object, ...]] = []
        write = model_writer.write_model

        def write_and_look(place: Path, *arguments: Any) -> None:
            write(place, *arguments)
            models.append(facts(formats.open_model(place)))

        model_writer.write_model = write_and_look
        self._run(folder, folder / "whole/out")
        (folder / "models.json").write_text(json.dumps(models))

    def write(self, folder: Path) -> None:
        """Start or resume the run."""
        self._run(folder, folder / "out")

    def write_among_others(self, folder: Path, turn: int) -> None:
        """Do the same, but one at a time. The second one gets an error."""
        try:
            self.write(folder)
        except ElmoError as error:
            began_meanwhile = _in_use(error) or "this directory holds a run" in str(error)
            if not began_meanwhile:
                raise

    def _run(self, folder: Path, out: Path) -> None:
        run = RunFolder(out)
        resume = run.checkpoint.exists() or (run.config.exists() and not self.begins_with_a_model)
        first = folder / "first" if self.begins_with_a_model else None
        pretrain(folder / "corpus", out, _CONFIG, resume=resume, init_from=first, show_progress=False)

    def state(self, folder: Path) -> str:
        """Return how far it got. All files must belong to the run and fit together."""
        run, whole = RunFolder(folder / "out"), RunFolder(folder / "whole/out")
        step = Checkpoint.read(run.checkpoint).step if run.checkpoint.exists() else 0
        last = Checkpoint.read(whole.checkpoint).step
        has_all = _compare_logs(run.heldout_metrics, whole.heldout_metrics) == len(read_log(whole.heldout_metrics))
        if _compare_logs(run.metrics, whole.metrics) < step:
            return f"the log is behind the checkpoint of step {step}"
        encoded = content(files.settled(run.corpus, corpus_module._FILES))
        if encoded not in ({}, content(whole.corpus)):
            return "another corpus"
        seen = self._models(folder, run)
        if step == last and encoded and seen == self._models(folder, whole) and has_all:
            return "done"
        if step or seen:
            return "under way" if step else "a model without a checkpoint"
        return "begun" if run.config.exists() or encoded else "nothing"

    def _models(self, folder: Path, run: RunFolder) -> list[int]:
        """Return which of the models that the run writes are there, last and best."""
        known = [tuple(model) for model in json.loads((folder / "models.json").read_text())]
        places = [
            place for place in (run.path, run.best) if (files.settled(place, formats.LAYOUT) / "weights.hdf5").exists()
        ]
        return [
            known.index(files.read_whole(place, formats.LAYOUT, lambda place: facts(formats.open_model(place))))
            for place in places
        ]


def _compare_logs(path: Path, whole: Path) -> int:
    """Return the number of lines of a log. Each must equal that of the uninterrupted run."""
    lines, expected = ([_figures(line) for _, line in read_log(one)] if one.exists() else [] for one in (path, whole))
    if lines != expected[: len(lines)]:
        raise ValueError(f"{path}: its lines differ from the uninterrupted run: {lines} {expected}")
    return len(lines)


def _figures(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != "tokens_per_second"}


class Encode(Subject):
    """The encoded corpus of a run, written over that of another text."""

    name = "encoded corpus of pretrain"

    def make(self, folder: Path) -> None:
        """Make two texts and their encoded corpora."""
        for name in ("old", "new"):
            (folder / f"{name}.txt").write_text("".join(f"{name}{number} is here .\n" for number in range(300)))
            self._encode(folder, name, name)
        shutil.copytree(folder / "old", folder / "target")

    def write(self, folder: Path) -> None:
        """Encode the new text."""
        self._encode(folder, "new", "target")

    def write_among_others(self, folder: Path, turn: int) -> None:
        """Encode the two texts in turn."""
        self._encode(folder, ("new", "old")[turn % 2], "target")

    def state(self, folder: Path) -> str:
        """Return which of the two is there, byte for byte."""
        found = files.read_whole(folder / "target", corpus_module._FILES, content)
        names = [name for name in ("old", "new") if content(folder / name) == found]
        return names[0] if names else "a mixture"

    def _encode(self, folder: Path, name: str, place: str) -> None:
        text = folder / f"{name}.txt"
        words = sorted(set(text.read_text().split()))
        corpus_module.encode([text], Vocabulary(["<S>", "</S>", "<UNK>", *words]), 50, folder / place)


class Embed(Subject):
    """`embed --resume` into a new file or over a file of another job.

    changes: whether it runs another job when it is run again.
    """

    def __init__(self, name: str, suffix: str = ".h5", is_over_another: bool = False, changes: bool = False) -> None:
        self.name, self.suffix, self.is_over_another, self.changes = name, suffix, is_over_another, changes
        self.kept, self.ended = {"old" if is_over_another else "nothing", "all"}, {"top" if changes else "all"}

    def make(self, folder: Path) -> None:
        """Make the text, a model, the files of the uninterrupted jobs, and the file of another job."""
        write_model(folder / "model", cell_clip=3.0, seed=0)
        (folder / "text.txt").write_text("".join(f"the bank number {number} is here .\n" for number in range(24)))
        for name, layers in (("all", "all"), ("top", "top"), ("old", "0")):
            self._embed(folder, name, layers)
        (folder / "job").write_text("all")
        if self.is_over_another:
            shutil.copyfile(self._place(folder, "old"), self._place(folder, "out"))

    def write(self, folder: Path) -> None:
        """Do the job. If a run of another job was interrupted and it is refused, delete that run's files."""
        layers, out = (folder / "job").read_text(), self._place(folder, "out")
        if not self.is_over_another and out.exists() and not directory_of(out).exists():
            return  # it is done; without --force, that is an error
        try:
            self._embed(folder, "out", layers, force=self.is_over_another, resume=True)
        except ElmoError as error:
            if not self.is_over_another and "already exists" in str(error):
                return  # killed when only the empty directory was left: it is done
            if not self.changes or "the interrupted run differs in --layers" not in str(error):
                raise
            self._embed(folder, "out", layers, force=True)

    def write_among_others(self, folder: Path, turn: int) -> None:
        """Do the same, but one at a time. The second one gets an error."""
        try:
            self.write(folder)
        except ElmoError as error:
            if not (_in_use(error) or "already exists" in str(error)):  # done between the look and the call
                raise

    def between(self, folder: Path) -> None:
        """Perhaps switch to another job."""
        if self.changes:
            (folder / "job").write_text("top")

    def state(self, folder: Path) -> str:
        """Return whose file is there, byte for byte."""
        try:
            found = self._place(folder, "out").read_bytes()
        except FileNotFoundError:
            return "nothing"
        names = [name for name in ("old", "all", "top") if self._place(folder, name).read_bytes() == found]
        return names[0] if names else "a mixture"

    def _embed(self, folder: Path, name: str, layers: str, **settings: bool) -> None:
        model = str(folder / "model")
        embed_file(folder / "text.txt", self._place(folder, name), model=model, layers=layers, batch_size=6, **settings)

    def _place(self, folder: Path, name: str) -> Path:
        return folder / f"{name}{self.suffix}"
