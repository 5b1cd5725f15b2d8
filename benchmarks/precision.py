"""Precisions in, a table of what they cost and gain out: `BiLM.set_precision` beside float32.

    python benchmarks/precision.py [--sizes original,small,bundled] [--sentences N] [--repeats N] [--threads N]
                                   [--json FILE]

Each precision of a model has a process of its own; their runs take turns, cold (no word is remembered).

layer 0, 1, 2: cosine of the layers to those in float32, mean over the tokens / lowest token, of 100 sentences.
tokens/s, of float32: all sentences in one stream; the ratio repetition by repetition. ms: of a sentence by itself.
Medians.
resident: memory of the process with the model in use, Python and torch included.
"""

import argparse
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from common import carry_out, cpu_name, make_parser, names_of, note, positive, read_sentences
from engines import OURS, Sentences
from operations import n_tokens
from worker import Worker
from workloads import SIZES, load, single_calls

from spacy_elmo import formats
from spacy_elmo.bilm.packed import Precision, check_precision
from spacy_elmo.errors import ElmoError


def available() -> Iterator[Precision]:
    """Yield the precisions that this machine has the means for."""
    for precision in get_args(Precision):
        with suppress(ElmoError):
            check_precision(precision, torch.device("cpu"))
            yield precision


PRECISIONS = tuple(available())
COMPARED_SENTENCES = 100
ENGINES_SCRIPT = Path(__file__).with_name("engines.py")
MIB = 2**20


@dataclass
class Row:
    """One line of the table; cosines: mean and lowest by layer; resident in bytes."""

    size: str
    precision: str
    cosines: list[tuple[float, float]]
    tokens_per_second: float
    of_float32: float
    milliseconds: float
    resident: int


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--sizes", type=names_of(SIZES), default=",".join(SIZES), help="models, comma-separated")
    parser.add_argument("--sentences", type=positive, default=500, help="first N sentences of the file")
    parser.add_argument("--repeats", type=positive, default=3, help="repetitions of each measurement")
    carry_out(parser.parse_args(), run, render)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every size."""
    sentences = read_sentences(args.sentences)
    rows = [row for size in args.sizes for row in measure(size, sentences, args.repeats, args.threads)]
    return {
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "threads": args.threads,
        "sentences": len(sentences),
        "tokens": n_tokens(sentences),
        "rows": [asdict(row) for row in rows],
    }


def measure(size: str, sentences: Sentences, repeats: int, threads: int) -> list[Row]:
    """Compare the layers of a model in all precisions, then time them in turn."""
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        note(f"{size}: loading")
        formats.write(load(size), directory)
        workers = {one: start(one, directory, threads, stack) for one in PRECISIONS}
        cosines = compare(workers, sentences[:COMPARED_SENTENCES], Path(directory))
        stream, single = [sentences], single_calls(size, OURS, sentences)
        streamed: dict[str, list[float]] = {one: [] for one in PRECISIONS}
        alone: dict[str, list[float]] = {one: [] for one in PRECISIONS}
        for repetition in range(repeats):
            note(f"{size}: repetition {repetition + 1} of {repeats}")
            for one, worker in workers.items():
                streamed[one] += worker.ask("time", calls=stream, cold=True)
                alone[one].append(sum(worker.ask("time", calls=single, cold=True)) / len(single))
        return [
            Row(
                size,
                one,
                cosines[one],
                n_tokens(sentences) / statistics.median(streamed[one]),
                statistics.median(a / b for a, b in zip(streamed["float32"], streamed[one], strict=True)),
                1e3 * statistics.median(alone[one]),
                worker.ask("reset_peak"),
            )
            for one, worker in workers.items()
        ]


def start(precision: Precision, directory: str, threads: int, stack: ExitStack) -> Worker:
    """Start a process with the model loaded."""
    arguments = (OURS, f"--threads={threads}")
    worker = stack.enter_context(Worker(Path(sys.executable), ENGINES_SCRIPT, *arguments, threads=threads))
    worker.ask("load", directory=directory, precision=precision)
    return worker


def compare(
    workers: Mapping[Precision, Worker], sentences: Sentences, directory: Path
) -> dict[str, list[tuple[float, float]]]:
    """Mean and lowest cosine to float32, by precision and layer."""
    layers = {}
    for one, worker in workers.items():
        file = directory / f"{one}.npz"
        worker.ask("encode", sentences=sentences, to=str(file))
        with np.load(file) as arrays:
            layers[one] = np.concatenate([arrays[str(number)] for number in range(len(sentences))], axis=1)
    return {one: [cosine(a, b) for a, b in zip(layers["float32"], layers[one], strict=True)] for one in workers}


def cosine(one: Any, other: Any) -> tuple[float, float]:
    """Mean and lowest cosine of the rows of two arrays `[n_tokens, width]`."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    each = (one * other).sum(1) / np.sqrt((one**2).sum(1) * (other**2).sum(1))
    return float(each.mean()), float(each.min())


def render(report: dict[str, Any]) -> str:
    """Lay the report out as text."""
    layers = max(len(row["cosines"]) for row in report["rows"])
    head = "".join(f"{f'layer {number}':>20}" for number in range(layers))
    return "\n".join(
        [
            f"Python {report['python']}; {report['cpu']}, {report['threads']} threads; "
            f"{report['sentences']} sentences, {report['tokens']} tokens",
            "",
            f"{'size':<9} {'precision':<9}{head}{'tokens/s':>10}{'of float32':>12}{'ms':>8}{'resident MiB':>14}",
            *(render_row(row) for row in report["rows"]),
        ]
    )


def render_row(row: dict[str, Any]) -> str:
    """Lay one row out as text."""
    cosines: Sequence[tuple[float, float]] = row["cosines"]
    return (
        f"{row['size']:<9} {row['precision']:<9}"
        + "".join(f"{f'{mean:.6f} / {lowest:.4f}':>20}" for mean, lowest in cosines)
        + f"{row['tokens_per_second']:>10.0f}{row['of_float32']:>12.2f}{row['milliseconds']:>8.1f}"
        + f"{row['resident'] / MIB:>14.0f}"
    )


if __name__ == "__main__":
    main()
