"""The inputs of a run: the encoded corpus with its vocabulary, the held-out text, and a model to start from."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spacy_elmo import formats
from spacy_elmo.bilm import BiLM
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.errors import CorpusError
from spacy_elmo.formats import OpenedModel, beside
from spacy_elmo.pretraining.config import Config, ModelConfig
from spacy_elmo.pretraining.corpus import PREPARED, Corpus, encode
from spacy_elmo.pretraining.distributed import Group
from spacy_elmo.pretraining.language_model import LanguageModel
from spacy_elmo.pretraining.run_folder import RunFolder
from spacy_elmo.pretraining.vocabulary import Vocabulary, count_words, misfit
from spacy_elmo.support.files import at_home, settled, write_text
from spacy_elmo.support.paths import path_of
from spacy_elmo.support.text import PathLike, find_files, read_sentences
from spacy_elmo.support.untokenized import find_doubt

_TERMS = ("license", "attribution", beside.ATTRIBUTION_TEXT)  # entries of a card that a model made from it needs, too


@dataclass(frozen=True)
class CorpusFiles:
    """The files of a run: the training text and, if there are any, the vocabulary and the held-out text.

    prepared: whether the corpus is a folder with `train/`, as `prepare` writes it.
    """

    train: list[Path]
    vocabulary: Path | None
    heldout: list[Path]
    prepared: bool = False

    @classmethod
    def find(cls, corpus: PathLike, config: Config) -> "CorpusFiles":
        """Find the files where `prepare` puts them (`train/`, `heldout/`, `vocab.txt`), or where the config says.

        Raises:
            CorpusError: no file is found.
        """
        root = settled(path_of(corpus, "corpus", CorpusError), PREPARED)
        prepared = (root / "train").is_dir()
        vocabulary = at_home(config.corpus.vocabulary) if config.corpus.vocabulary else root / "vocab.txt"
        heldout = _heldout(config.corpus.heldout) if config.corpus.heldout else root / "heldout"
        train = find_files(root / "train" if prepared else corpus)
        return cls(
            [path for path in train if path != vocabulary],
            vocabulary if config.corpus.vocabulary or vocabulary.is_file() else None,
            find_files(heldout) if config.corpus.heldout or heldout.is_dir() else [],
            prepared,
        )

    def check_heldout(self, config: Config) -> None:
        """Raise a CorpusError if the held-out text has no sentence, or if it is missing but needed."""
        if config.training.patience and not self.heldout:
            raise CorpusError(
                "[training] patience needs held-out text; name it as [corpus] heldout, or set patience to null"
            )
        if self.heldout and not any(True for _ in read_sentences(self.heldout)):
            raise CorpusError(f"{self.heldout[0]}: no sentence in the held-out text; expected one per line")


def _heldout(path: str) -> Path:
    return at_home(path_of(path, "corpus.heldout", CorpusError))


@dataclass(frozen=True)
class FirstModel:
    """The model that a run starts from, on new text; `source` names it in errors and on the card."""

    source: str
    opened: OpenedModel
    bilm: BiLM

    @classmethod
    def open(cls, source: PathLike) -> "FirstModel":
        """Open the model.

        Raises:
            ElmoError: the model does not exist or cannot be read.
        """
        opened = formats.open_model(source)
        return cls(str(source), opened, opened.bilm())

    @property
    def origin(self) -> dict[str, Any]:
        """The entries of a model card about this model. Its licence binds also what is made from it."""
        card = self.bilm.card
        terms = {key: card[key] for key in _TERMS if isinstance(card.get(key), str)}
        seen = [card[key] for key in ("tokens_seen", "tokens_seen_before") if isinstance(card.get(key), int)]
        return {"initialized_from": self.source, **({"tokens_seen_before": sum(seen)} if seen else {}), **terms}

    def adapt(self, config: Config, group: Group) -> Config:
        """Return the settings with this model's architecture.

        Raises:
            PretrainingError: such a model cannot be pretrained.
        """
        architecture = ModelConfig.of(self.bilm.options, self.source)
        if architecture != config.model:
            group.warn(f"{self.source}: the run uses this model's architecture, not the [model] of the config")
        return dataclasses.replace(config, model=architecture)


def read_corpus(
    files: CorpusFiles, config: Config, folder: RunFolder, group: Group, resumes: bool, show_progress: bool
) -> Corpus:
    """Encode the texts with the vocabulary, or open what an earlier run has encoded.

    The main process encodes first, then one process on each machine that does not share its disk. All open the result.

    Raises:
        CorpusError: a text or the vocabulary cannot be read or does not fit, or the encoded corpus is damaged.
    """
    if not files.prepared and group.is_main and (doubt := find_doubt(files.train)):
        group.warn(f"{doubt}; make a corpus of it with `python -m spacy elmo prepare`, and name that corpus here")
    vocabulary = _read_vocabulary(files, config, folder, group, resumes)
    arguments = (files.train, vocabulary, config.model.max_characters_per_token, folder.corpus)
    for turn in (group.is_main, group.local_rank == 0):
        if turn:
            encode(*arguments, show_progress and group.is_main)
        group.wait()
    corpus = encode(*arguments)
    counts = corpus.counts()
    if warning := misfit(counts[vocabulary.unknown] / corpus.n_tokens, vocabulary.source):
        group.warn(warning)
    elif config.training.n_negative_samples_batch and vocabulary.is_out_of_order(counts):
        group.warn(
            f"{vocabulary.source}: the words are far from the order of falling counts in this corpus, on which the "
            "sampled softmax relies; make the vocabulary from the corpus, or set n_negative_samples_batch = 0"
        )
    return corpus


def _read_vocabulary(files: CorpusFiles, config: Config, folder: RunFolder, group: Group, resumes: bool) -> Vocabulary:
    if files.vocabulary is not None:
        return Vocabulary.from_file(files.vocabulary)
    made = folder.vocabulary
    if group.local_rank == 0 and not (resumes and made.is_file()):
        counts = count_words(read_sentences(files.train))
        vocabulary = Vocabulary.from_counts(counts, config.corpus.min_count, config.corpus.max_size)
        with folder.writing():
            made.parent.mkdir(parents=True, exist_ok=True)
            write_text(made, vocabulary.text())
    group.wait()
    return Vocabulary.from_file(made)


def make_model(config: Config, vocabulary: Vocabulary, first: FirstModel | None, group: Group) -> LanguageModel:
    """Make the model before the first step: with random weights, or those of another model."""
    options, seed = config.model.options(), config.training.seed
    bilm = BiLM(options, seed=seed) if first is None else first.bilm.requires_grad_()
    softmax = Softmax(len(vocabulary), options.lstm.projection_dim, seed + 1)
    if first is not None:
        _take_over_softmax(softmax, vocabulary, first.opened, group)
    return LanguageModel(bilm, softmax, config.training.dropout).to(group.device)


def _take_over_softmax(softmax: Softmax, vocabulary: Vocabulary, opened: OpenedModel, group: Group) -> None:
    """Copy the rows of the words that both vocabularies have."""
    if not opened.has_softmax or opened.vocabulary is None:
        group.warn(f"{opened.name} has no softmax or no vocabulary; the softmax starts from random weights")
        return
    theirs, source = Vocabulary(opened.vocabulary, f"vocabulary of {opened.name}"), opened.softmax()
    shared = [(row, theirs.ids[word]) for row, word in enumerate(vocabulary.words) if word in theirs.ids]
    here, there = torch.tensor(shared).T
    with torch.no_grad():
        softmax.weight[here] = source.weight[there]
        softmax.bias[here] = source.bias[there]
