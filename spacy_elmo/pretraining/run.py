"""Paths and settings in, a directory with a trained model out: what the `pretrain` command does."""

import copy
import dataclasses
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from spacy_elmo import formats
from spacy_elmo.bilm import BiLM
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.errors import CorpusError, PretrainingError
from spacy_elmo.formats import OpenedModel
from spacy_elmo.pretraining import checkpoint
from spacy_elmo.pretraining.batches import Batches, Resets
from spacy_elmo.pretraining.config import Config, ModelConfig
from spacy_elmo.pretraining.corpus import PREPARED, Corpus, encode
from spacy_elmo.pretraining.distributed import Group, is_elastic, join_group
from spacy_elmo.pretraining.evaluation import Evaluation, Evaluator
from spacy_elmo.pretraining.language_model import LanguageModel
from spacy_elmo.pretraining.precision import Precision, explain_emulation, fastest_precision
from spacy_elmo.pretraining.trainer import METRICS, StoppedError, Trainer, append_line, cut_log
from spacy_elmo.pretraining.vocabulary import Vocabulary, count_words
from spacy_elmo.support.files import settled, write_text
from spacy_elmo.support.text import PathLike, find_files, read_sentences
from spacy_elmo.version import VERSION

HELDOUT_METRICS = "heldout.jsonl"
CONFIG = "pretrain.cfg"


@dataclass(frozen=True)
class CorpusFiles:
    """The texts of a run: what to train on, and, where there are such, the vocabulary and what to evaluate on."""

    train: list[Path]
    vocabulary: Path | None
    heldout: list[Path]

    @classmethod
    def find(cls, corpus: PathLike, config: Config) -> "CorpusFiles":
        """Look where `prepare` puts them (`train/`, `heldout/`, `vocab.txt`), or where the config says.

        Raises:
            CorpusError: nothing is found.
        """
        root = settled(Path(corpus), PREPARED)
        prepared = (root / "train").is_dir()
        vocabulary = Path(config.corpus.vocabulary) if config.corpus.vocabulary else root / "vocab.txt"
        heldout = Path(config.corpus.heldout) if config.corpus.heldout else root / "heldout"
        train = find_files(root / "train" if prepared else corpus)
        return cls(
            [path for path in train if path != vocabulary],
            vocabulary if config.corpus.vocabulary or vocabulary.is_file() else None,
            find_files(heldout) if config.corpus.heldout or heldout.is_dir() else [],
        )


def pretrain(
    corpus: PathLike,
    out: PathLike,
    config: Config,
    *,
    resume: bool = False,
    init_from: PathLike | None = None,
    show_progress: bool = True,
) -> None:
    """Train a biLM on pre-tokenized text and write it to `out`, where `weights = out` finds it.

    corpus: file, directory or glob pattern of pre-tokenized text, or the directory that `prepare` wrote.
    out: takes the model (`options.json`, `weights.hdf5`, `vocab.txt`, `softmax.hdf5`, `model_card.json`), the log
        (`metrics.jsonl`, `heldout.jsonl`), the checkpoint, the config and the encoded corpus.
    resume: go on from the checkpoint in `out`; from the beginning, if the run was stopped before its first one, or,
        under `torchrun`, which starts a failed process again with the same arguments, if there is no run yet.
    init_from: a model to go on from, on new text; its architecture is taken instead of the config's, its softmax
        where it has one, word by word where the vocabularies differ.

    Under `torchrun` each process calls this with the same arguments.

    Raises:
        ElmoError: see `Trainer.run`; or a text, a setting, the model or the checkpoint is unfit.
    """
    with join_group(config.training.device) as group:
        run = _Run(Path(out), config, group, show_progress)
        run.look_around(CorpusFiles.find(corpus, config), resume, init_from is not None)
        run.choose_precision()
        run.prepare(init_from)
        run.train()


class _Run:
    """The parts of one run, put together in order."""

    def __init__(self, out: Path, config: Config, group: Group, show_progress: bool) -> None:
        self.out, self.config, self.group, self.show_progress = out, config, group, show_progress
        self.has_warned = False  # that zero and carried state disagree, which need not be bad

    def look_around(self, files: CorpusFiles, resume: bool, has_origin: bool) -> None:
        """Make the directory of a new run, or find the one to resume."""
        self.files = files
        if self.group.is_main:
            self._look_around(resume, has_origin)
        # The checkpoint may be on the main process' disk only.
        saved = self.group.is_main and resume and (self.out / checkpoint.NAME).is_file()
        self.saved = self.group.of_main(checkpoint.load(self.out / checkpoint.NAME) if saved else None)

    def _look_around(self, resume: bool, has_origin: bool) -> None:
        files = self.files
        is_there = any((self.out / name).exists() for name in (CONFIG, checkpoint.NAME))
        if not resume or (is_elastic() and not is_there):
            self._refuse_used()
        elif not is_there:
            raise PretrainingError(f"{self.out}: there is no run in it to resume")
        if files.heldout and not any(True for _ in read_sentences(files.heldout)):
            raise CorpusError(f"{files.heldout[0]}: no sentence in the held-out text; expected one a line")
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            for rest in self.out.glob(".*.part"):  # of a run that was killed while it wrote
                shutil.rmtree(rest) if rest.is_dir() else rest.unlink()
            # From here on the run can be resumed. One that begins with another model can be from its first checkpoint
            # on: before, --resume alone would not know of that model.
            if has_origin and not resume:
                (self.out / CONFIG).unlink(missing_ok=True)  # of a run without it that was killed before its first step
            elif not is_there:
                self._write_config()
        except OSError as error:
            raise PretrainingError(f"{self.out}: cannot be made ({error})") from None

    def _refuse_used(self) -> None:
        if any((self.out / name).exists() for name in (METRICS, HELDOUT_METRICS, checkpoint.NAME)):
            raise PretrainingError(f"{self.out}: there is a run in it; --resume goes on with it, or name another one")
        if any((self.out / name).exists() for name in ("options.json", "weights.hdf5")):
            raise PretrainingError(f"{self.out}: there is a model in it, which a run would overwrite; name another one")

    def _write_config(self) -> None:
        write_text(self.out / CONFIG, self.config.text())

    def choose_precision(self) -> None:
        """Take the precision that the config names; for "auto" that of the checkpoint, or else the fastest here.

        So a run goes on with the numbers it would have had, also on a machine that is faster in another precision.
        """
        asked = self.config.training.precision
        saved: Precision | None = self.saved.get("precision") if self.saved else None  # older checkpoints have none
        if saved not in (None, *get_args(Precision)):
            raise PretrainingError(f"{self.out / checkpoint.NAME}: unknown precision {saved!r}; damaged?")
        automatic = saved or fastest_precision(self.group)
        self.precision = automatic if asked == "auto" else asked
        source = ", as in the checkpoint" if asked == "auto" and saved else ""
        if asked == "auto" and self.show_progress and self.group.is_main:
            print(f'ℹ [training] precision = "auto": {self.precision}{source}', file=sys.stderr)
        if reason := explain_emulation(self.precision, self.group):
            advice = 'set it to "float32"' if automatic == self.precision else 'set it to "auto" or "float32"'
            self._say(f'[training] precision is "{self.precision}"{source}, but {reason}; {advice}')

    def prepare(self, init_from: PathLike | None) -> None:
        """Encode the corpus and make the model."""
        opened = formats.open_model(init_from) if init_from is not None else None
        first = opened.bilm() if opened is not None else None
        self.origin = None
        if first is not None:
            self.origin = _origin(str(init_from), first.card)
            architecture = ModelConfig.of(first.options, str(init_from))
            if architecture != self.config.model:
                self._say(f"{init_from}: its architecture is taken, not the [model] of the config")
            self.config = dataclasses.replace(self.config, model=architecture)
        options = self.config.model.options()
        self.vocabulary = self._vocabulary()
        self.corpus = self._encode(self.config.model.max_characters_per_token)
        bilm = BiLM(options, seed=self.config.training.seed) if first is None else first.requires_grad_()
        softmax = Softmax(len(self.vocabulary), options.lstm.projection_dim, self.config.training.seed + 1)
        if opened is not None:
            self._take_over_softmax(softmax, opened)
        self.model = LanguageModel(bilm, softmax, self.config.training.dropout).to(self.group.device)

    def _vocabulary(self) -> Vocabulary:
        if self.files.vocabulary is not None:
            return Vocabulary.from_file(self.files.vocabulary)
        made = self.out / "vocab.txt"
        if self.group.local_rank == 0 and not (self.saved and made.is_file()):
            counts = count_words(read_sentences(self.files.train))
            vocabulary = Vocabulary.from_counts(counts, self.config.corpus.min_count, self.config.corpus.max_size)
            with self._writing():
                made.parent.mkdir(parents=True, exist_ok=True)
                write_text(made, vocabulary.text())
        self.group.wait()
        return Vocabulary.from_file(made)

    def _encode(self, max_characters: int) -> Corpus:
        """The main process encodes, then one on each machine that does not share its disk; all open the result."""
        directory = self.out / "corpus"
        arguments = (self.files.train, self.vocabulary, max_characters, directory)
        for turn in (self.group.is_main, self.group.local_rank == 0):
            if turn:
                encode(*arguments, self.show_progress and self.group.is_main)
            self.group.wait()
        corpus = encode(*arguments)
        if self.config.training.n_negative_samples_batch and self.vocabulary.is_out_of_order(corpus.counts()):
            self._say(
                f"{self.vocabulary.source}: its order is far from that of falling counts in this corpus, on which the "
                "sampled softmax relies; make the vocabulary from the corpus, or set n_negative_samples_batch = 0"
            )
        return corpus

    def _take_over_softmax(self, softmax: Softmax, opened: OpenedModel) -> None:
        """Copy the rows of the words that both vocabularies have."""
        if not opened.has_softmax or opened.vocabulary is None:
            self._say(f"{opened.name}: has no softmax or no vocabulary; the softmax starts from random weights")
            return
        theirs, source = Vocabulary(opened.vocabulary, f"vocabulary of {opened.name}"), opened.softmax()
        shared = [(row, theirs.ids[word]) for row, word in enumerate(self.vocabulary.words) if word in theirs.ids]
        here, there = torch.tensor(shared).T
        with torch.no_grad():
            softmax.weight[here] = source.weight[there]
            softmax.bias[here] = source.bias[there]

    def train(self) -> None:
        """Train, evaluate and write the model."""
        training, group = self.config.training, self.group
        own = slice(group.rank * training.batch_size, (group.rank + 1) * training.batch_size)
        resets = Resets(training.reset, training.reset_probability)
        rows = group.size * training.batch_size
        batches = Batches(
            self.corpus, rows, training.unroll_steps, resets, self.config.corpus.shuffle, training.seed, own
        )
        self.trainer = Trainer(
            self.model, batches, self.config, self.precision, group, self.out, self.show_progress, self.origin
        )
        if self.saved:
            note = self.trainer.restore(self.saved)
            if note:
                self._say(note)
        elif self.origin:
            self.trainer.save()
        self.saved = None
        if group.is_main:
            with self._writing():
                self._open_logs()
        try:
            self.trainer.run(after_epoch=self._evaluate_and_write)
        except StoppedError:
            if group.is_main:
                self._write(None)
            raise
        if group.is_main:
            self._evaluate_and_write()
        group.wait()

    def _open_logs(self) -> None:
        """Record the settings, and drop from the logs what the run will do again."""
        self._write_config()
        tokens = self.trainer.progress["tokens"]
        cut_log(self.out / METRICS, tokens)
        cut_log(self.out / HELDOUT_METRICS, tokens - self.trainer.is_to_evaluate)

    def _evaluate_and_write(self) -> None:
        evaluation = self._evaluate() if self.files.heldout else None
        self._write(evaluation)

    def _evaluate(self) -> Evaluation:
        """Perplexity on the held-out text, logged, and compared from zero and with carried state."""
        evaluator = Evaluator(self.model.bilm, self.model.softmax, self.vocabulary)
        sentences = (words for words, _ in read_sentences(self.files.heldout))
        evaluation = evaluator.perplexity(sentences, self.config.logging.evaluate_tokens, self.show_progress)
        figures = evaluation.to_dict()
        line = {**self.trainer.progress, "predictions": figures.pop("tokens"), **figures}
        append_line(self.out / HELDOUT_METRICS, line)
        if evaluation.warning and (evaluation.is_bad_from_zero or not self.has_warned):
            self.has_warned = True
            self._say(evaluation.warning)
        return evaluation

    def _write(self, evaluation: Evaluation | None) -> None:
        """Write the model as it is."""
        bilm, training, optimizer = self.model.bilm, self.config.training, self.config.optimizer
        options = dataclasses.replace(
            bilm.options,
            training={
                "all_clip_norm_val": optimizer.clip_norm,
                "batch_size": training.batch_size,
                "dropout": training.dropout,
                "learning_rate": optimizer.learning_rate,
                "n_epochs": training.n_epochs,
                "n_negative_samples_batch": training.n_negative_samples_batch,
                "n_tokens_vocab": len(self.vocabulary),
                "n_train_tokens": self.corpus.n_tokens,
                "sample_softmax": training.n_negative_samples_batch > 0,
                "unroll_steps": training.unroll_steps,
            },
        )
        trained = copy.copy(bilm)
        trained.options, trained.card = options, self._card(evaluation)
        with self._writing():
            formats.write(trained, self.out, vocabulary=self.vocabulary.words, softmax=self.model.softmax)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Name the run where a file of it cannot be written."""
        try:
            yield
        except OSError as error:
            raise PretrainingError(f"{self.out}: cannot be written ({error}); --resume goes on from there") from None

    def _card(self, evaluation: Evaluation | None) -> dict[str, Any]:
        trainer = self.trainer
        progress = trainer.progress
        card: dict[str, Any] = {
            "name": self.out.resolve().name,
            "description": "A biLM trained with spacy-elmo.",
            "training_text": f"{self.corpus.n_tokens:,} tokens in {', '.join(path.name for path in self.files.train)}",
            "training": f"spacy-elmo {VERSION}, {trainer.step:,} of {trainer.n_steps:,} steps, "
            f"{progress['epoch']} epochs in {trainer.precision}; settings in {CONFIG}",
            "tokens_seen": progress["tokens"],
        }
        card.update(trainer.origin or {})
        if evaluation is not None:
            card["heldout_perplexity"] = evaluation.to_dict()
        return card

    def _say(self, text: str) -> None:
        if self.group.is_main:
            print(f"⚠ {text}", file=sys.stderr)


def _origin(source: str, card: dict[str, Any]) -> dict[str, Any]:
    """What a card says of the model that a run began with."""
    seen = [card[key] for key in ("tokens_seen", "tokens_seen_before") if isinstance(card.get(key), int)]
    return {"initialized_from": source, **({"tokens_seen_before": sum(seen)} if seen else {})}
