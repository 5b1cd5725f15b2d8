"""Everything of spacy-elmo that is measured: the only module of the benchmarks that looks inside the package.

The engine and the pipelines are adapters like those in peers/; below them are the parts of a step, and pretraining.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from spacy_elmo import formats
from spacy_elmo.bilm import BiLM, characters, kernels
from spacy_elmo.bilm.engines import ENGINES
from spacy_elmo.bilm.products import Float16Product, Float32Product
from spacy_elmo.bilm.softmax import Candidates, Softmax
from spacy_elmo.bilm.transfer import floats_on_cpu
from spacy_elmo.pretraining.batches import Batch, Batches, Resets
from spacy_elmo.pretraining.config import Config
from spacy_elmo.pretraining.corpus import encode
from spacy_elmo.pretraining.distributed import Group
from spacy_elmo.pretraining.language_model import LanguageModel
from spacy_elmo.pretraining.optimizer import make_optimizer
from spacy_elmo.pretraining.process import keep_freed_memory
from spacy_elmo.pretraining.text import read_sentences
from spacy_elmo.pretraining.trainer import Trainer
from spacy_elmo.pretraining.vocabulary import Vocabulary, count_words
from spacy_elmo.tools.machine import describe_machine

__all__ = ["Engine", "Float16Product", "Float32Product", "Step", "keep_freed_memory", "make_optimizer"]

Sentences = Sequence[Sequence[str]]
SENTENCES = Path(__file__).with_name("sentences.txt")
PIPELINE_PACKAGES = ("spacy-elmo", "spacy", "torch")
KEPT = 64  # sentences whose layers are kept until all are there, as `encode` does
CHECKED_CELL = 4.0  # standard deviation of the cells that the check of a training step begins with; clipped at 3


class Engine:
    """See peers/__init__.py: `BiLM.encode`; of many sentences `BiLM.stream`, whose arrays are made as `encode`
    makes them and dropped batch by batch, as those of the others are.

    threads: of torch in this process; None leaves them alone.
    own_threads: the setting `threads` of the model.
    graphs: on a GPU, whether blocks of time steps are captured.
    """

    packages = ("spacy-elmo", "torch")

    def __init__(
        self,
        directory: Path,
        threads: int | None,
        precision: Any = "float32",
        device: str = "cpu",
        batch_tokens: int = 4096,
        own_threads: Any = "auto",
        graphs: bool = True,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.bilm, self.batch_tokens = formats.load(directory).to(device), batch_tokens
        self.bilm.set_precision(precision)
        self.bilm.set_threads(own_threads)
        if not graphs:
            next(one for one in ENGINES if one.name == "cuda_graphs").reasons_against = _is_left_out  # type: ignore[method-assign, assignment]

    def run(self, sentences: Sentences) -> object:
        """Encode."""
        if len(sentences) <= KEPT:
            return self.bilm.encode(sentences)
        for batch in self.bilm.stream(sentences, self.batch_tokens):
            for part in floats_on_cpu(batch.layers).split(batch.lengths, dim=1):
                part[:, 1:-1].numpy().copy()
            del batch, part  # as the component does
        return None

    def encode(self, sentences: Sentences) -> Iterator[npt.NDArray[np.float32]]:
        """Yield what `BiLM.encode` gives."""
        yield from self.bilm.encode(sentences)

    def forget(self) -> None:
        """Empty the word table."""
        self.bilm.clear_word_table()

    def remember(self, sentences: Sentences) -> None:
        """Fill the word table."""
        self.bilm.embed(sorted({word for sentence in sentences for word in sentence}))


def _is_left_out(*_: object) -> list[str]:
    return ["it is left out"]


# Pipelines


def ner_config(batch_size: int) -> Any:
    """The config of ELMo and NER: `spacy elmo init-config --pipeline ner`."""
    from spacy_elmo.tools import init_config

    return init_config.build(["ner"])


def bilm_alone(weights: str) -> Any:
    """A pipeline of the component `elmo` alone."""
    import spacy

    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"model": {"weights": weights}})
    return nlp


def forget_words(nlp: Any) -> None:
    """Empty the word table of the component."""
    nlp.get_pipe("elmo").model.shims[0].bilm.clear_word_table()


# The machine, and the parts of a step


def describe() -> dict[str, Any]:
    """Processor, instruction sets in use, versions and threads, as `spacy elmo info --machine` tells them."""
    return describe_machine()


def update_compiled(gates: Tensor, inputs: Tensor, cell: Tensor, cell_clip: float) -> Tensor | None:
    """Bring cells `[rows, dim]` up to date in place by the compiled part; None where it is not there."""
    return None if kernels.is_missing() else kernels.update_gates(gates, inputs, cell, cell_clip)


def character_ids(words: Sequence[str], width: int) -> Tensor:
    """Ids `[len(words), width]` int64."""
    padded = characters.pad([characters.token_ids(word, width) for word in words], width)
    return torch.from_numpy(padded.astype(np.int64))


BOS, EOS = characters.BOS, characters.EOS


# Pretraining


@dataclass(frozen=True)
class Question:
    """What both implementations of a training step are to answer alike; states as the trainer carries them."""

    batch: Batch
    states: list[tuple[Tensor, Tensor]]
    candidates: Candidates


class Step(Trainer):
    """The steps of `Trainer.run`, without its log and checkpoints, on sentences.txt over and over.

    words: of the vocabulary, those of the text and made-up rare ones; rows: of a batch.
    """

    def __init__(self, directory: Path, size: Any, words: int, rows: int, precision: Any, device: str) -> None:
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
        self.size, self.device, self.tokens = size, torch.device(device), rows * training.unroll_steps
        super().__init__(model, batches, config, precision, Group(self.device), directory, show_progress=False)

    def advance(self) -> None:
        """Take one step."""
        self.model.train()
        self._since_log += self._train_on(self.batches.at(self.step), self.model)
        self.step += 1

    def distinct_words(self, steps: int = 5) -> float:
        """Different words and sentence borders that both directions read in one step, on average."""
        return float(np.mean([len(np.unique(self.batches.at(step).words)) for step in range(steps)]))

    def synchronize(self) -> None:
        """Wait for a GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def candidates(self, step: int) -> Candidates:
        """Words for the sampled softmax of a step of another implementation."""
        training = self.config.training
        rng = np.random.default_rng([training.seed, step])
        return Candidates.draw(training.n_negative_samples_batch, len(self.model.softmax.bias), rng)

    def question(self) -> Question:
        """The second batch (at the first, rows start afresh), and states beyond the clip."""
        sizes, rows = self.config.model, self.config.training.batch_size
        generator = torch.Generator().manual_seed(self.config.training.seed)
        hidden, cell = (
            torch.randn(sizes.n_layers, 2, rows, width, generator=generator).to(self.device)
            for width in (sizes.projection_dim, sizes.dim)
        )
        return Question(self.batches.at(1), list(zip(hidden, CHECKED_CELL * cell, strict=True)), self.candidates(0))

    def answer(self, question: Question) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Loss and last states without dropout; the parameters have their gradients then."""
        self.model.eval()
        characters = self.batches.corpus.characters
        loss, finals = self.model(question.batch, characters, question.states, question.candidates)
        loss.backward()
        self.model.train()
        return loss.detach(), finals

    def write(self, directory: Path, gradients: bool = False) -> dict[str, Tensor]:
        """Write the biLM, or its gradients in place of the weights, as the published format has it; return what the
        softmax has."""
        kept = [parameter.data for parameter in self.model.parameters()]
        try:
            for parameter in self.model.parameters() if gradients else ():
                parameter.data = gradient_of(parameter)
            formats.write(self.model.bilm, directory)
            softmax = self.model.softmax
            return {"weight": softmax.weight.detach().clone(), "bias": softmax.bias.detach().clone()}
        finally:
            for parameter, data in zip(self.model.parameters(), kept, strict=True):
                parameter.data = data


def gradient_of(parameter: nn.Parameter) -> Tensor:
    """The gradient, which a backward pass has made."""
    assert parameter.grad is not None
    return parameter.grad
