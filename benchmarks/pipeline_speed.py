"""Texts in, a table of whole pipelines' speed out: NER over the bundled ELMo, over spaCy's tok2vec, and over a MiniLM.

    python benchmarks/pipeline_speed.py [--pipelines elmo,tok2vec,minilm] [--repeats N] [--threads N] [--texts N]
                                        [--sample N] [--json FILE]

The pipelines (pipeline_worker.py) run in processes of their own, that of MiniLM in an environment of its own, which is
made on first use (environments.py); where it cannot be made, it is left out with a note. `elmo` always runs.

The texts are the lines of sentences.txt, each a Doc, raw: tokenizing is part of the time. They go through `nlp.pipe`
with `batch_size` 128. MiniLM, being slow, runs on an evenly spaced sample. A round that does not count comes first;
then, in each repetition, all run in turn, ELMo with no word remembered. Reported are medians:

words/s: tokens of the Docs.
ratio: words/s of ELMo over those of the pipeline, each repetition by itself.
"""

import argparse
import platform
import statistics
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common import SENTENCES, carry_out, cpu_name, make_parser, names_of, note, positive, sgemm_rate
from environments import find_pythons
from inference_table import render_machine, shown
from pipeline_worker import PIPELINES
from targets import Target, at_least, render_targets
from worker import Worker
from workloads import evenly_spaced

OURS, SLOW = "elmo", "minilm"
TIMES_MINILM = 3.0
SCRIPT = Path(__file__).with_name("pipeline_worker.py")


def main() -> None:
    """Run the benchmark."""
    carry_out(parse_arguments(), run, render)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--pipelines", type=names_of(PIPELINES), default=",".join(PIPELINES), help="comma-separated")
    parser.add_argument("--repeats", type=positive, default=5, help="repetitions of each measurement")
    parser.add_argument("--texts", type=positive, default=2_000, help="first N lines of the file")
    parser.add_argument("--sample", type=positive, default=400, help=f"texts for {SLOW}")
    return parser.parse_args()


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time the pipelines in turn; return the machine, the versions, the rows and the targets."""
    texts = SENTENCES.read_text(encoding="utf-8").splitlines()[: args.texts]
    pythons, left_out = find_pythons([name for name in args.pipelines if name == SLOW])
    pythons |= {name: Path(sys.executable) for name in (OURS, *args.pipelines) if name != SLOW}
    works = {
        name: evenly_spaced(texts, args.sample) if name == SLOW else texts for name in PIPELINES if name in pythons
    }
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(
                Worker(pythons[name], SCRIPT, name, f"--threads={args.threads}", threads=args.threads)
            )
            for name in works
        }
        versions = {name: load(name, worker, works[name]) for name, worker in workers.items()}
        runs = race(workers, works, args.repeats)
    rows = list(make_rows(works, runs))
    return {
        "python": platform.python_version(),
        "versions": versions,
        "cpu": cpu_name(),
        "threads": args.threads,
        "sgemm_gflops": [rate / 1e9 for rate in runs.sgemm],
        "left_out": left_out,
        "rows": [asdict(row) for row in rows],
        "targets": [asdict(target) for target in targets(rows)],
    }


@dataclass
class Runs:
    """Words of every pipeline's texts, its seconds in every repetition, and the SGEMM rate beside them in operations a
    second."""

    words: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    sgemm: list[float] = field(default_factory=list)


@dataclass
class Row:
    """One line of the table; the ratio is None for ELMo itself."""

    pipeline: str
    texts: int
    words: int
    seconds: list[float]
    words_per_second: float
    ratio: float | None


def load(name: str, worker: Worker, texts: list[str]) -> dict[str, str]:
    """Have a pipeline made and run once; return versions of packages."""
    note(f"{name}: loading")
    versions: dict[str, str] = worker.ask("load")
    worker.ask("time", texts=texts)
    return versions


def race(workers: Mapping[str, Worker], works: Mapping[str, list[str]], repeats: int) -> Runs:
    """Run the pipelines in turn, repetition by repetition."""
    runs = Runs(seconds={name: [] for name in workers})
    for repetition in range(repeats):
        note(f"repetition {repetition + 1} of {repeats}")
        runs.sgemm.append(sgemm_rate())
        for name, worker in workers.items():
            answer = worker.ask("time", texts=works[name])
            runs.words[name] = answer["words"]
            runs.seconds[name].append(answer["seconds"])
    return runs


def make_rows(works: Mapping[str, list[str]], runs: Runs) -> Iterator[Row]:
    """Reduce the repetitions to medians, a row for each pipeline."""
    speeds = {name: [runs.words[name] / taken for taken in runs.seconds[name]] for name in works}
    for name, texts in works.items():
        ratios = [a / b for a, b in zip(speeds[OURS], speeds[name], strict=True)]
        yield Row(
            pipeline=name,
            texts=len(texts),
            words=runs.words[name],
            seconds=runs.seconds[name],
            words_per_second=statistics.median(speeds[name]),
            ratio=None if name == OURS else statistics.median(ratios),
        )


def targets(rows: list[Row]) -> Iterator[Target]:
    """Yield the target that these rows can tell about."""
    for row in rows:
        if row.pipeline == SLOW and row.ratio is not None:
            yield at_least("ELMo and NER: times the speed of MiniLM and NER", TIMES_MINILM, row.ratio)


def render(report: dict[str, Any]) -> str:
    """Lay the report out as text."""
    lines = [
        *render_machine(report),
        "",
        f"{'pipeline':<10}{'runs':>5}{'texts':>7}{'words':>8}{'words/s':>9}{'ratio':>8}",
        *(
            f"{row['pipeline']:<10}{len(row['seconds']):>5}{row['texts']:>7}{row['words']:>8}"
            f"{row['words_per_second']:>9.0f}{shown(row['ratio'], 2):>8}"
            for row in report["rows"]
        ),
    ]
    return "\n".join([*lines, *render_targets(report["targets"])])


if __name__ == "__main__":
    main()
