"""Sizes of model in, a table of pretraining speed out: a training step of spacy-elmo beside a plain one.

    python benchmarks/pretraining.py [--sizes sm,original] [--repeats N] [--steps N] [--threads N] [--rows N]
                                     [--precision float32|bfloat16] [--device cpu|cuda] [--json FILE]

A step is all that training repeats: reading the batch from the encoded text, forward, backward, clipping the
gradient and updating the weights with Adagrad, all with the settings of `Config.of_size`, dropout among them. The
plain step is bilm-tf's written down directly in torch's own operators (plain_step.py): the character CNN on every
position of both directions, one LSTM cell after the other, a sampled softmax for each direction, gradients by
autograd; clipping and Adagrad are the same calls. Before anything is timed, both must give the same loss, states
and gradients in float32: without dropout, on the same batch and candidates, from the same carried states, so large
that the clip cuts many cells.

The text is sentences.txt, over and over, with a vocabulary of its words and made-up rare ones: 60,000 words for
`sm`, the original's 793,471 for `original`. Rows are 128 x 20 words as in the original; `original` takes 32 on a
CPU, and about 15 GB of memory. Fewer rows make both slower in words, since the update of all weights costs the same
for any number of rows.

Each repetition measures the machine's matrix product (SGEMM, 2048 x 2048 x 2048 in float32; 8192 and in the
precision of the run on a GPU), then `--steps` steps of spacy-elmo, then as many of the plain one. Reported are
medians:

tokens/s: words predicted by one direction. distinct: of the words and sentence borders that the two directions
    read in one step, how many are different; spacy-elmo computes the character CNN for each of them once.
ratio: tokens/s of spacy-elmo over that of the plain step, each repetition by itself.
hours (`original` on a GPU): of the original's training at that speed, 10 epochs of 768,648,884 tokens.

Both run in this process, in which freed memory is kept, as in that of the command (`keep_freed_memory`): the plain
step gains by it, too. On a GPU, `original` is neither checked nor timed beside the plain step.
"""

import argparse
import platform
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import (
    SENTENCES,
    cpu_name,
    make_parser,
    names_of,
    note,
    positive,
    publish,
    render_rates,
    seconds,
    sgemm_rate,
)
from plain_step import PlainModel, PlainStep
from torch import Tensor, nn

import spacy_elmo
from spacy_elmo.bilm import BiLM
from spacy_elmo.bilm.softmax import Candidates, Softmax
from spacy_elmo.bilm.time_steps import State
from spacy_elmo.pretraining.batches import Batch, Batches, Resets
from spacy_elmo.pretraining.config import Config
from spacy_elmo.pretraining.corpus import Table, encode
from spacy_elmo.pretraining.distributed import Group
from spacy_elmo.pretraining.language_model import LanguageModel
from spacy_elmo.pretraining.process import keep_freed_memory
from spacy_elmo.pretraining.text import read_sentences
from spacy_elmo.pretraining.trainer import Trainer
from spacy_elmo.pretraining.vocabulary import Vocabulary, count_words

WORDS = {"sm": 60_000, "original": 793_471}
REPEATS = {"sm": 5, "original": 2}
ROWS = {"sm": 128, "original": 32}  # on a CPU
TOLERANCE = 1e-5  # of loss and states, relative to the largest entry
GRADIENT_TOLERANCE = 1e-4  # likewise. torch's conv1d rounds so in its gradients; without it 1e-6 would do
CHECKED_CELL = 4.0  # standard deviation of the cells that the check begins with; they are clipped at 3
GPU_PRODUCT = 8192
OURS, PLAIN = "spacy-elmo", "plain step"
ORIGINAL_TOKENS = 10 * 768_648_884


def main() -> None:
    """Run the benchmark."""
    args = parse_arguments()
    keep_freed_memory()
    torch.backends.cudnn.allow_tf32 = False  # on a GPU, or the plain step is off by more than allowed
    torch.set_num_threads(args.threads)
    report = run(args)
    publish(report, render(report), args.json)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--sizes", type=names_of(WORDS), default="sm", help=f"of {', '.join(WORDS)}; comma-separated")
    parser.add_argument("--repeats", type=positive, help=f"repetitions of each measurement; None is {REPEATS}")
    parser.add_argument("--steps", type=positive, help="steps of a repetition; None is 1 on a CPU, 20 on a GPU")
    parser.add_argument("--rows", type=positive, help=f"rows of a batch; None is {ROWS} on a CPU, 128 on a GPU")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of matrix products")
    parser.add_argument("--device", type=torch.device, default="cpu", help="cpu or cuda")
    return parser.parse_args()


# What is trained


def make_config(size: str, args: argparse.Namespace) -> Config:
    """Settings of a size, as far as the command line does not say otherwise."""
    config = Config.of_size(size)  # type: ignore[arg-type] # `sizes` has looked
    rows = args.rows or (ROWS[size] if args.device.type == "cpu" else config.training.batch_size)
    training = replace(config.training, batch_size=rows, precision=args.precision)
    return replace(config, training=training)


def make_vocabulary(n_words: int) -> Vocabulary:
    """The words of the text by falling count, then made-up ones."""
    known = Vocabulary.from_counts(count_words(read_sentences([SENTENCES])), max_size=n_words).words
    return Vocabulary([*known, *(f"rare{number}" for number in range(n_words - len(known)))])


def make_model(config: Config, n_words: int, device: torch.device) -> LanguageModel:
    """A model with random weights, made as the command makes one."""
    options, seed = config.model.options(), config.training.seed
    softmax = Softmax(n_words, options.lstm.projection_dim, seed + 1)
    return LanguageModel(BiLM(options, seed=seed), softmax, config.training.dropout).to(device)


def make_batches(config: Config, vocabulary: Vocabulary, directory: Path) -> Batches:
    """Encode the text and cut it into batches."""
    training = config.training
    corpus = encode([SENTENCES], vocabulary, config.model.max_characters_per_token, directory)
    resets = Resets(training.reset, training.reset_probability)
    rows = training.batch_size
    return Batches(
        corpus, rows, training.unroll_steps, resets, config.corpus.shuffle, training.seed, own=slice(0, rows)
    )


class OurStep(Trainer):
    """The steps of `Trainer.run`, without its log and checkpoints."""

    def advance(self) -> None:
        """Take one step."""
        self.model.train()
        self._since_log += self._train_on(self.batches.at(self.step), self.model)
        self.step += 1


# Checking


@dataclass(frozen=True)
class Question:
    """What both implementations are to answer alike: the arguments of `LanguageModel`."""

    batch: Batch
    characters: Table
    states: list[State]
    candidates: Candidates

    @classmethod
    def make(cls, config: Config, batches: Batches, n_words: int, device: torch.device) -> "Question":
        """The second batch (at the first, rows start afresh), random candidates, and states beyond the clip."""
        lstm, training = config.model, config.training
        generator = torch.Generator().manual_seed(training.seed)
        hidden, cell = (
            torch.randn(lstm.n_layers, 2, training.batch_size, width, generator=generator).to(device)
            for width in (lstm.projection_dim, lstm.dim)
        )
        states = list(zip(hidden, CHECKED_CELL * cell, strict=True))
        rng = np.random.default_rng(training.seed)
        candidates = Candidates.draw(training.n_negative_samples_batch, n_words, rng)
        return cls(batches.at(1), batches.corpus.characters, states, candidates)


def check(size: str, ours: LanguageModel, plain: PlainModel, question: Question) -> None:
    """Stop unless both give the same loss, states and gradients without dropout."""
    note(f"{size}: comparing a step")
    loss, finals = _answer(ours, question)
    plain_loss, plain_finals = _answer(plain, question)
    _compare(size, "loss", loss, plain_loss, TOLERANCE)
    for number, (state, plain_state) in enumerate(zip(finals, plain_finals, strict=True)):
        for part, plain_part in zip(state, plain_state, strict=True):
            _compare(size, f"state of layer {number}", part, plain_part, TOLERANCE)
    worst = 0.0, ""
    for pair in plain.pairs(ours):
        name, expected = f"gradient of {pair.name}", pair.transform(gradient_of(pair.ours))
        worst = max(worst, (_compare(size, name, expected, gradient_of(pair.plain), GRADIENT_TOLERANCE), name))
    note(f"{size}: largest difference {worst[0]:.1e} ({worst[1]})")
    ours.zero_grad()
    plain.zero_grad()


def _compare(size: str, name: str, ours: Tensor, plain: Tensor, tolerance: float) -> float:
    """Return the largest difference, relative to the largest entry; stop where it is more than `tolerance`."""
    found = float(torch.linalg.vector_norm(ours - plain, torch.inf) / torch.linalg.vector_norm(plain, torch.inf))
    if not found <= tolerance:
        sys.exit(f"{size}: {name}: spacy-elmo and the plain step differ by {found:.1e}, more than {tolerance}")
    return found


def _answer(model: nn.Module, question: Question) -> tuple[Tensor, list[State]]:
    model.eval()
    loss, finals = model(question.batch, question.characters, question.states, question.candidates)
    loss.backward()
    model.train()
    return loss.detach(), finals


def gradient_of(parameter: Tensor) -> Tensor:
    """The gradient, which the check has made."""
    assert parameter.grad is not None
    return parameter.grad


# Measuring


@dataclass
class Runs:
    """Seconds of every repetition, and the rate of the matrix product beside it in operations a second."""

    sgemm: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)


@dataclass
class Row:
    """One line of the table; what does not apply is None."""

    size: str
    implementation: str
    vocabulary: int
    rows: int
    unroll_steps: int
    distinct_words: float
    tokens: int
    tokens_per_second: float
    seconds: list[float]
    ratio: float | None = None
    hours: float | None = None


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every size; return the machine, the versions and the rows."""
    rows: list[Row] = []
    sgemm: list[float] = []
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as directory:
            runs, new_rows = measure(size, Path(directory), args)
        rows += new_rows
        sgemm += runs.sgemm
    return {
        "versions": {
            "torch": torch.__version__,
            "spacy-elmo": spacy_elmo.__version__,
            "python": platform.python_version(),
        },
        "device": cpu_name() if args.device.type == "cpu" else torch.cuda.get_device_name(args.device),
        "threads": torch.get_num_threads(),
        "precision": args.precision,
        "sgemm_gflops": [rate / 1e9 for rate in sgemm],
        "rows": [asdict(row) for row in rows],
    }


def measure(size: str, directory: Path, args: argparse.Namespace) -> tuple[Runs, list[Row]]:
    """Check that both implementations agree, then time them in turn."""
    note(f"{size}: making text and model")
    config, vocabulary, device = make_config(size, args), make_vocabulary(WORDS[size]), args.device
    batches = make_batches(config, vocabulary, directory / "corpus")
    model = make_model(config, len(vocabulary), device)
    ours = OurStep(model, batches, config, args.precision, Group(device), directory, show_progress=False)
    plain = None
    if device.type == "cpu" or size != "original":
        plain = PlainStep(model, batches, config)
        check(size, model, plain.model, Question.make(config, batches, len(vocabulary), device))
    steps = args.steps or (1 if device.type == "cpu" else 20)
    runs = time_in_turn(size, ours, plain, steps, args)
    row = make_row(size, OURS, config, batches, runs.ours, steps)
    if size == "original" and device.type != "cpu":
        row.hours = ORIGINAL_TOKENS / row.tokens_per_second / 3600
    if plain is None:
        return runs, [row]
    row.ratio = statistics.median(b / a for a, b in zip(runs.ours, runs.plain, strict=True))
    return runs, [row, make_row(size, PLAIN, config, batches, runs.plain, steps)]


def time_in_turn(size: str, ours: OurStep, plain: PlainStep | None, steps: int, args: argparse.Namespace) -> Runs:
    """Time the steps of both, repetition by repetition, behind a round that does not count."""
    runs, repeats = Runs(), args.repeats or REPEATS[size]
    for repetition in range(repeats + 1):
        note(f"{size}: repetition {repetition} of {repeats}" if repetition else f"{size}: warming up")
        runs.sgemm.append(product_rate(args.device, args.precision))
        runs.ours.append(time_steps(ours, steps, args.device))
        if plain is not None:
            runs.plain.append(time_steps(plain, steps, args.device))
    return Runs(runs.sgemm[1:], runs.ours[1:], runs.plain[1:])


def time_steps(implementation: OurStep | PlainStep, steps: int, device: torch.device) -> float:
    """Seconds of so many steps; the gradients, which the next one would drop, are not left to the other's memory."""
    taken = seconds(lambda: run_steps(implementation, steps, device))
    implementation.optimizer.zero_grad(set_to_none=True)
    return taken


def run_steps(implementation: OurStep | PlainStep, steps: int, device: torch.device) -> None:
    """Take steps; return when the device is through with them."""
    for _ in range(steps):
        implementation.advance()
    synchronize(device)


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def product_rate(device: torch.device, precision: str, n_products: int = 5) -> float:
    """Operations a second of a square matrix product: the median of a few."""
    if device.type == "cpu":
        return sgemm_rate(n_products)
    left, right = torch.randn(2, GPU_PRODUCT, GPU_PRODUCT, device=device, dtype=getattr(torch, precision))

    def multiply() -> None:
        torch.mm(left, right)
        synchronize(device)

    multiply()
    return float(2 * GPU_PRODUCT**3 / statistics.median(seconds(multiply) for _ in range(n_products)))


def make_row(size: str, implementation: str, config: Config, batches: Batches, times: list[float], steps: int) -> Row:
    """Reduce the repetitions of one implementation to medians."""
    training = config.training
    tokens = steps * training.batch_size * training.unroll_steps
    timed = range(steps, steps * (1 + len(times)))  # behind those that warm up
    return Row(
        size=size,
        implementation=implementation,
        vocabulary=WORDS[size],
        rows=training.batch_size,
        unroll_steps=training.unroll_steps,
        distinct_words=statistics.mean(len(np.unique(batches.at(step).words)) for step in timed),
        tokens=tokens,
        tokens_per_second=tokens / statistics.median(times),
        seconds=times,
    )


# Output


def render(report: dict[str, Any]) -> str:
    """Lay the report out as text."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    rates = report["sgemm_gflops"]
    lines = [
        f"{versions}; {report['device']}, {report['threads']} threads; {report['precision']}; matrix product "
        + render_rates(rates),
        "medians of "
        + ", ".join(f"{row['size']} {len(row['seconds'])}" for row in report["rows"] if row["implementation"] == OURS)
        + " repetitions",
        "",
        "size      implementation  vocabulary      rows  distinct  tokens/s  ratio",
        *(render_row(row) for row in report["rows"]),
    ]
    lines += [
        f"\n10 epochs of the original's 768,648,884 tokens at that speed: {row['hours']:.1f} hours"
        for row in report["rows"]
        if row["hours"]
    ]
    return "\n".join(lines)


def render_row(row: dict[str, Any]) -> str:
    """Lay one row out as text."""
    batch, ratio = f"{row['rows']} x {row['unroll_steps']}", row["ratio"]
    return (
        f"{row['size']:<9} {row['implementation']:<14} {row['vocabulary']:>11}{batch:>10}"
        f"{row['distinct_words']:>10.0f}{row['tokens_per_second']:>10.0f}{f'{ratio:.1f}' if ratio else '-':>7}"
    )


if __name__ == "__main__":
    main()
