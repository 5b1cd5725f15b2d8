"""The parts of spacy-elmo that are measured: adapters like those in peers/, the parts of a step, and pretraining."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spacy_elmo.bilm import BiLM, characters, gates, kernels
from spacy_elmo.bilm.products import Float32Product
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.bilm.transfer import floats_on_cpu
from spacy_elmo.formats import load
from spacy_elmo.pretraining.batches import Batches, Resets
from spacy_elmo.pretraining.config import Config
from spacy_elmo.pretraining.corpus import encode
from spacy_elmo.pretraining.distributed import Group
from spacy_elmo.pretraining.language_model import LanguageModel
from spacy_elmo.pretraining.process import keep_freed_memory
from spacy_elmo.pretraining.steps import Steps
from spacy_elmo.pretraining.text import read_sentences
from spacy_elmo.pretraining.vocabulary import Vocabulary, count_words
from spacy_elmo.tools.machine import describe_machine

__all__ = ["Engine", "Float32Product", "Steps", "describe_machine", "keep_freed_memory", "load"]

Sentences = Sequence[Sequence[str]]
SENTENCES = Path(__file__).with_name("sentences.txt")
KEPT = 64  # up to this many sentences, use `encode`, which returns all layers at once
BOS, EOS = characters.BOS, characters.EOS


class Engine:
    """See peers/__init__.py. It runs `BiLM.encode`, or `BiLM.stream` for many sentences. Then it makes the arrays that
    `encode` would make, and drops them batch by batch, as with the other engines.

    threads: of torch in this process; None does not change them. settings: batch_tokens, precision, and own_threads
    (the setting `threads` of the model).
    """

    def __init__(self, directory: Path, threads: int | None, device: str = "cpu", **settings: Any) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.bilm, self.batch_tokens = load(directory).to(device), settings.get("batch_tokens", 4096)
        self.bilm.set_precision(settings.get("precision", "float32"))
        self.bilm.set_threads(settings.get("own_threads", "auto"))

    def run(self, sentences: Sentences) -> object:
        """Encode."""
        if len(sentences) <= KEPT:
            return self.bilm.encode(sentences)
        for batch in self.bilm.stream(sentences, self.batch_tokens, keep_boundaries=False):
            for part in floats_on_cpu(batch.layers).split(batch.lengths, dim=1):
                part.numpy().copy()
            del batch, part  # as the component does
        return None

    def encode(self, sentences: Sentences) -> list[npt.NDArray[np.float32]]:
        """Return the result of `BiLM.encode`."""
        return self.bilm.encode(sentences)

    def remember(self, sentences: Sentences) -> None:
        """Put the words and borders of these sentences into the word table, and no others."""
        self.bilm.clear_word_table()
        self.bilm.embed(sorted({word for sentence in sentences for word in (BOS, *sentence, EOS)}))


def ner_config(batch_size: int) -> Any:
    """Return the config of ELMo and NER: `spacy elmo init-config --pipeline ner`."""
    from spacy_elmo.tools import init_config

    return init_config.build(["ner"])


def forget_words(nlp: Any) -> None:
    """Clear the word table of the component."""
    nlp.get_pipe("elmo").model.shims[0].bilm.clear_word_table()


# The ways to update cells in place, called with gates, inputs, cells and clip.
GATE_UPDATES: dict[str, Any] = {} if kernels.is_missing() else {"compiled": kernels.update_gates}
GATE_UPDATES["torch"] = gates.update_gates


def character_ids(words: Sequence[str], width: int) -> Tensor:
    """Return ids `[len(words), width]` int64."""
    padded = characters.pad([characters.token_ids(word, width) for word in words], width)
    return torch.from_numpy(padded.astype(np.int64))


def make_steps(directory: Path, size: Any, words: int, rows: int, precision: Any, device: str) -> Steps:
    """Return pretraining steps that repeat sentences.txt, in batches of `rows`. The vocabulary has `words` words: those
    of the text, and made-up rare ones. directory: for the encoded text."""
    config = Config.of_size(size)
    training = replace(config.training, batch_size=rows, precision=precision)
    config = replace(config, training=training)
    known = Vocabulary.from_counts(count_words(read_sentences([SENTENCES])), max_size=words).words
    vocabulary = Vocabulary([*known, *(f"rare{number}" for number in range(words - len(known)))])
    corpus = encode([SENTENCES], vocabulary, config.model.max_characters_per_token, directory / "corpus")
    resets = Resets(training.reset, training.reset_probability)
    order = (resets, config.corpus.shuffle, training.seed, slice(0, rows))
    batches = Batches(corpus, rows, training.unroll_steps, *order)
    options = config.model.options()
    softmax = Softmax(len(vocabulary), options.lstm.projection_dim, training.seed + 1)
    model = LanguageModel(BiLM(options, seed=training.seed), softmax, training.dropout).to(device)
    return Steps(model, batches, config, precision, Group(torch.device(device)))


def with_model(steps: Steps, model: Any) -> Steps:
    """Return the same steps with another implementation of the model, called like `LanguageModel`."""
    return Steps(model, steps.batches, steps.config, steps.precision, steps.group)
