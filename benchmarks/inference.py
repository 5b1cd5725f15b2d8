"""Models and sentences in, a table of encoding speed and memory out: spacy-elmo beside every ELMo that still runs.

    python benchmarks/inference.py [--sizes original,small,bundled] [--shapes stream,single,long,pieces]
                                   [--engines spacy-elmo,"plain loop"] [--repeats N] [--threads N]
                                   [--sentences N] [--json FILE]

The engines (engines.py) load the same weights, each in a process of its own under the Python of its own environment,
which is made on first use (environments.py); one that cannot be made is left out with a note. `spacy-elmo` always runs.
Before anything is timed, all must give the same layers for 64 sentences, to 1e-5.

size: original (dim 4096, projection 512), small (1024, 128), both with random weights, and the bundled model.
shape: stream  all sentences; spacy-elmo sorts and packs them itself, the others get batches of 32
       single  one sentence at a time, the same 20 for all sizes, evenly spaced in the text
       long    one document of 20,000 tokens without sentence boundaries; spacy-elmo reads it in pieces of 1,000 tokens,
               as its component cuts it, the others whole
       pieces  the same, the others with these pieces as a batch: what is left of the difference where they are cut, too
Slow engines run on an evenly spaced sample of the batches of `stream`, and on the beginning of the document of `long`,
or of each piece.

A repetition measures the machine's float32 matrix product (SGEMM, 2048 x 2048 x 2048), then all engines in turn, cold:
no call finds a word remembered, in `single` not even those of the sentence before. Reported are medians:

tokens/s: tokens of the text; BOS and EOS are computed but not counted. ms: for a sentence, of `single`.
warm: the same of spacy-elmo with every word remembered, after the others in each repetition; where it tells something
    new.
ratio: tokens/s of spacy-elmo over that of the engine, each repetition by itself.
of SGEMM: operations a second as a share of the SGEMM rate, over the operations the text needs (operations.py); of
    `single` those of each sentence by itself. nominal (with --json): over those of the architecture, word by word; it
    can pass 1 where repeated words are not computed again.
peak: highest resident memory of the process in its first run of the shape, before anything else; over model: by how
    much that is more than with the model loaded. Of `long` for spacy-elmo only.

Below the table stand the targets, with what was reached.
"""

import argparse
import platform
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from common import carry_out, cpu_name, make_parser, names_of, note, positive, read_sentences, sgemm_rate
from engines import ENGINES, OURS, PLAIN_LOOP, Sentences
from environments import find_pythons
from inference_table import Row, Runs, make_rows, render
from inference_targets import targets
from operations import n_tokens
from worker import Worker, WorkerError
from workloads import SHAPES, SIZES, Work, load

from spacy_elmo import formats
from spacy_elmo.bilm import BiLMOptions

REPEATS = {"original": 2, "small": 3, "bundled": 3}
SINGLE_REPEATS = 5
WARM = {"original": ("single",), "small": ("stream", "single"), "bundled": ("stream", "single")}
CHECKED_SENTENCES = 64
TOLERANCE = 1e-5
SCRIPT = Path(__file__).with_name("engines.py")


def main() -> None:
    """Run the benchmark."""
    carry_out(parse_arguments(), run, render)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--sizes", type=names_of(SIZES), default=",".join(SIZES), help="models, comma-separated")
    parser.add_argument("--shapes", type=names_of(SHAPES), default=",".join(SHAPES), help="comma-separated")
    parser.add_argument("--engines", type=names_of(ENGINES), default=",".join(ENGINES), help="comma-separated")
    parser.add_argument(
        "--repeats", type=positive, help=f"of each measurement; None is {REPEATS}, single {SINGLE_REPEATS}"
    )
    parser.add_argument("--sentences", type=positive, default=2_000, help="first N sentences of the file")
    return parser.parse_args()


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every size; return the machine, the versions, the rows and the targets."""
    sentences = read_sentences(args.sentences)
    pythons, left_out = find_pythons([name for name in args.engines if name not in (OURS, PLAIN_LOOP)])
    pythons[OURS] = pythons[PLAIN_LOOP] = Path(sys.executable)
    chosen = {name: pythons[name] for name in ENGINES if name in pythons and name in (OURS, *args.engines)}
    bench = Bench(args, sentences, chosen, left_out)
    for size in args.sizes:
        bench.measure(size)
    return {
        "python": platform.python_version(),
        "versions": bench.versions,
        "cpu": cpu_name(),
        "threads": args.threads,
        "sentences": len(sentences),
        "tokens": n_tokens(sentences),
        "distinct_words": len({word for sentence in sentences for word in sentence}),
        "sgemm_gflops": [rate / 1e9 for rate in bench.sgemm],
        "left_out": bench.left_out,
        "rows": [asdict(row) for row in bench.rows],
        "targets": [asdict(target) for target in targets(bench.rows)],
    }


class Asked(Protocol):
    """A worker, as far as it is needed here."""

    def ask(self, command: str, **arguments: Any) -> Any:
        """Have a command of engines.py carried out."""


@dataclass
class Runner:
    """An engine with a model loaded, its work by shape, and memory in bytes by shape: model loaded, and peak."""

    worker: Asked
    works: dict[str, Work]
    memory: dict[str, tuple[int, int]] = field(default_factory=dict)

    def measure_memory(self, shape: str) -> None:
        """Do the work of a shape once; the process must have done nothing else yet."""
        if shape in self.works:
            loaded = self.worker.ask("reset_peak")
            self.time(shape, cold=True)
            self.memory[shape] = loaded, self.worker.ask("peak")

    def time(self, shape: str, cold: bool) -> float:
        """Do the work of a shape; return seconds."""
        taken: list[float] = self.worker.ask("time", calls=self.works[shape].calls, cold=cold)
        return sum(taken)


@dataclass
class Bench:
    """A call of the benchmark: what it has to go through, and what it has found so far."""

    args: argparse.Namespace
    sentences: Sentences
    pythons: dict[str, Path]
    left_out: list[str]
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    sgemm: list[float] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def measure(self, size: str) -> None:
        """Check that all engines agree on a model, then time them in turn."""
        with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
            note(f"{size}: loading")
            bilm = load(size)
            formats.write(bilm, directory)
            options = bilm.options
            del bilm
            runners = self.start_all(size, Path(directory), options, stack)
            check(size, {name: one.worker for name, one in runners.items()}, self.sentences[:CHECKED_SENTENCES])
            for shape in self.args.shapes:
                repeats = SINGLE_REPEATS if shape == "single" else REPEATS[size]
                runs = race(size, shape, runners, self.args.repeats or repeats)
                self.sgemm += runs.sgemm
                works = {name: one.works[shape] for name, one in runners.items()}
                memory = {name: one.memory[shape] for name, one in runners.items() if shape in one.memory}
                self.rows += make_rows(size, shape, works, runs, memory)

    def start_all(self, size: str, directory: Path, options: BiLMOptions, stack: ExitStack) -> dict[str, Runner]:
        """Start the engines and measure their memory; a peer that fails is left out."""
        runners = {}
        for name in self.pythons:
            note(f"{size}: memory of {name}")
            try:
                runners[name] = self.start(name, size, directory, options, stack)
                runners[name].measure_memory("stream")
            except WorkerError as error:
                if name == OURS:
                    raise
                runners.pop(name, None)
                self.left_out.append(f"{name}, {size}: {error}")
                note(f"left out: {self.left_out[-1]}")
        if "long" in self.args.shapes:
            with ExitStack() as short:
                fresh = self.start(OURS, size, directory, options, short)
                fresh.measure_memory("long")
            runners[OURS].memory |= fresh.memory
        return runners

    def start(self, name: str, size: str, directory: Path, options: BiLMOptions, stack: ExitStack) -> Runner:
        """Start an engine, in a process that ends with `stack`."""
        threads = self.args.threads
        worker = stack.enter_context(Worker(self.pythons[name], SCRIPT, name, f"--threads={threads}", threads=threads))
        self.versions[name] = worker.ask("load", directory=str(directory))
        works = {shape: Work.make(size, shape, name, self.sentences, options) for shape in self.args.shapes}
        return Runner(worker, works)


def check(size: str, workers: Mapping[str, Asked], sentences: Sentences) -> None:
    """Stop unless every engine gives the layers that ours gives."""
    note(f"{size}: comparing {len(sentences)} sentences")
    with tempfile.TemporaryDirectory() as directory:
        files = {name: str(Path(directory) / f"{number}.npz") for number, name in enumerate(workers)}
        for name, worker in workers.items():
            worker.ask("encode", sentences=sentences, to=files[name])
        for name, file in files.items():
            if name == OURS:
                continue
            worst = largest_difference(files[OURS], file)
            note(f"{size}: largest difference to {name} {worst:.1e}")
            if not worst <= TOLERANCE:
                sys.exit(f"{size}: {OURS} and {name} differ by {worst:.1e}, more than {TOLERANCE}; nothing timed")


def largest_difference(file: str, other: str) -> float:
    """Largest difference between the arrays of two files `.npz`; infinite where their names or shapes differ."""
    with np.load(file) as ours, np.load(other) as theirs:
        if sorted(ours) != sorted(theirs) or any(ours[name].shape != theirs[name].shape for name in ours):
            return float("inf")
        return max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours)


def race(size: str, shape: str, runners: Mapping[str, Runner], repeats: int) -> Runs:
    """Run the engines in turn, repetition by repetition."""
    runs = Runs({name: [] for name in runners})
    for repetition in range(repeats):
        note(f"{size}, {shape}: repetition {repetition + 1} of {repeats}")
        runs.sgemm.append(sgemm_rate())
        for name, runner in runners.items():
            runs.cold[name].append(runner.time(shape, cold=True))
        if shape in WARM[size]:
            runs.warm.append(runners[OURS].time(shape, cold=False))
    return runs


if __name__ == "__main__":
    main()
