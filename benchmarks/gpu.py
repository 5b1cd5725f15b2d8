"""A GPU in, a table of speeds out: the biLM with captured blocks of time steps, without them, and as a plain loop.

    python benchmarks/gpu.py [--sizes original,small,bundled] [--sentences N] [--repeats N] [--batch-tokens N]
                             [--device cuda] [--json FILE]

In one process; the ways take turns, and before they are timed their layers are compared with those of the CPU in
float32.

spacy-elmo: `BiLM.stream`, in batches of --batch-tokens, results copied to the CPU.
step by step: the same with every time step launched by itself.
plain loop: ELMo written down directly with torch's own operators, as AllenNLP has it (plain_loop.py), in batches of 32.

off by: largest difference from the CPU's layers; cosine: lowest of a token in any layer.
tokens/s: all sentences in one stream, no word remembered (cold), all of them (warm), behind a pass
that captures the graphs. ms: of a sentence by itself, warm.
Medians.
"""

import argparse
import copy
import platform
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from common import carry_out, make_parser, names_of, note, positive, read_sentences, seconds
from engines import OURS, PLAIN_LOOP, Array, Sentences, encode_plainly
from operations import n_tokens
from plain_loop import PlainLoop
from precision import cosine
from workloads import SIZES, load

from spacy_elmo.bilm import BiLM
from spacy_elmo.bilm.model import MAX_BATCH_TOKENS
from spacy_elmo.bilm.packed import Precision
from spacy_elmo.bilm.transfer import floats_on_cpu

STEP_BY_STEP = "step by step"
PRECISIONS: tuple[Precision, ...] = ("float32", "float16")
COMPARED_SENTENCES, SINGLE_SENTENCES = 50, 40
PLAIN_SENTENCES = 320


@dataclass
class Row:
    """One line of the table."""

    size: str
    precision: str
    way: str
    off_by: float
    cosine: float
    cold_tokens_per_second: float
    warm_tokens_per_second: float
    milliseconds: float


@dataclass(frozen=True)
class Way:
    """A way to run a model; forget: the words it has seen."""

    name: str
    precision: str
    encode: Callable[[Sentences], list[Array]]
    stream: Callable[[Sentences], object]
    forget: Callable[[], object]
    n_sentences: int | None = None


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--sizes", type=names_of(SIZES), default=",".join(SIZES), help="models, comma-separated")
    parser.add_argument("--sentences", type=positive, default=2000, help="first N sentences of the file")
    parser.add_argument("--repeats", type=positive, default=5, help="repetitions of each measurement")
    parser.add_argument("--batch-tokens", type=positive, default=MAX_BATCH_TOKENS, help="worked on at once")
    parser.add_argument("--device", type=torch.device, default="cuda", help="of torch")
    carry_out(parser.parse_args(), run, render)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every size."""
    torch.backends.cudnn.allow_tf32 = False  # as in torch's products: the plain loop's convolutions, too, in float32
    sentences = read_sentences(args.sentences)
    return {
        "device": torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else str(args.device),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "sentences": len(sentences),
        "tokens": n_tokens(sentences),
        "batch_tokens": args.batch_tokens,
        "rows": [asdict(row) for size in args.sizes for row in measure(size, sentences, args)],
    }


def measure(size: str, sentences: Sentences, args: argparse.Namespace) -> list[Row]:
    """Compare the ways with the CPU, then time them in turn."""
    note(f"{size}: on the CPU")
    bilm = load(size)
    compared = sentences[:COMPARED_SENTENCES]
    expected = bilm.encode(compared)
    ways = list(ways_of(bilm, args))
    rows = [compare(size, way, way.encode(compared), expected) for way in ways]
    times: list[list[tuple[float, float, float]]] = [[] for _ in ways]
    for repetition in range(1 + args.repeats):
        note(f"{size}: repetition {repetition} of {args.repeats}")  # 0 warms up
        for way, found in zip(ways, times, strict=True):
            found.append(time_once(way, sentences))
    for way, row, found in zip(ways, rows, times, strict=True):
        cold, warm, single = (statistics.median(part) for part in zip(*found[1:], strict=True))
        tokens = n_tokens(sentences[: way.n_sentences])
        row.cold_tokens_per_second, row.warm_tokens_per_second = tokens / cold, tokens / warm
        row.milliseconds = 1e3 * single
    return rows


def ways_of(bilm: BiLM, args: argparse.Namespace) -> Iterator[Way]:
    """The ways to run a model, each with a copy of the weights."""
    for precision in PRECISIONS:
        for name in (OURS, STEP_BY_STEP):
            ours = copy.deepcopy(bilm).to(args.device)
            ours.set_precision(precision)
            if name == STEP_BY_STEP:
                for layer in ours.layers:
                    layer._graphed = no_graphs  # type: ignore[assignment] # in place of the method
            yield Way(name, precision, ours.encode, streamed(ours, args.batch_tokens), ours.clear_word_table)
    plain = PlainLoop(copy.deepcopy(bilm).to(args.device))

    def encode(sentences: Sentences) -> list[Array]:
        return list(encode_plainly(plain, sentences))

    yield Way(PLAIN_LOOP, "float32", encode, encode, lambda: None, PLAIN_SENTENCES)


def no_graphs(x: torch.Tensor, rows: int) -> None:
    """In place of what would give captured blocks."""


def streamed(bilm: BiLM, batch_tokens: int) -> Callable[[Sentences], None]:
    """What encodes sentences and drops their layers once they are on the CPU."""

    def stream(sentences: Sentences) -> None:
        for batch in bilm.stream(sentences, batch_tokens):
            floats_on_cpu(batch.layers)

    return stream


def compare(size: str, way: Way, found: list[Array], expected: list[Array]) -> Row:
    """Begin a row with what sets the layers apart."""
    one, other = (np.concatenate(layers, axis=1) for layers in (found, expected))
    lowest = min(cosine(a, b)[1] for a, b in zip(one, other, strict=True))
    return Row(size, way.precision, way.name, float(abs(one - other).max()), lowest, 0, 0, 0)


def time_once(way: Way, sentences: Sentences) -> tuple[float, float, float]:
    """Seconds of the stream cold and warm, and of a sentence."""
    sentences = sentences[: way.n_sentences]
    way.forget()
    cold = seconds(lambda: way.stream(sentences))
    warm = seconds(lambda: way.stream(sentences))
    single = [seconds(partial(way.stream, [one])) for one in sentences[:SINGLE_SENTENCES]]
    return cold, warm, statistics.median(single)


def render(report: dict[str, Any]) -> str:
    """The table."""
    lines = [
        f"{report['device']}, torch {report['torch']}; {report['sentences']} sentences, {report['tokens']} tokens",
        f"{'':27} {'off by':>8} {'cosine':>9} {'cold':>9} {'warm tokens/s':>14} {'ms':>7}",
    ]
    for row in report["rows"]:
        lines.append(
            f"{row['size']:9} {row['precision']:8} {row['way']:12}"[:31].ljust(31)
            + f"{row['off_by']:8.1e} {row['cosine']:9.6f} {row['cold_tokens_per_second']:9,.0f}"
            f" {row['warm_tokens_per_second']:14,.0f} {row['milliseconds']:7.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
