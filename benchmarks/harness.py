"""What all benchmarks share: levels of instruction sets, processes that answer, turns, the table and the report.

Nothing is timed in this process. Each side of a comparison runs in one of its own (runner.py), whose environment says
which instruction sets torch, oneDNN, MKL and spacy-elmo may use.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from environments import MissingPeerError, note, python_of

RUNNER = Path(__file__).with_name("runner.py")
LOG_LINES = 5

Row = dict[str, Any]  # a line of a table by column; lists go to the report only


# Levels of instruction sets

FLAGS = {"avx512": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}, "avx2": {"avx2", "fma"}}  # best first
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "avx512": {
        "SPACY_ELMO_ISA": "avx512",
        "ATEN_CPU_CAPABILITY": "avx512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_FP16",  # all of AVX-512, but no AMX
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    },
    "avx2": {
        "SPACY_ELMO_ISA": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "native": {},
}


@dataclass(frozen=True)
class Level:
    """Instruction sets that all processes of a run may use.

    name: as on the command line; best: the best level of this processor, if it has one of those known here.
    """

    name: str
    best: str | None

    @property
    def environment(self) -> dict[str, str]:
        """Variables of every process."""
        return ENVIRONMENTS[self.name]

    @property
    def column(self) -> str | None:
        """The level whose targets hold."""
        return self.best if self.name == "native" else self.name

    @property
    def about(self) -> str:
        """Whether these are the processor's best."""
        return "native" if self.name in ("native", self.best) else f"forced, the processor has {self.best}"


def levels_here() -> list[str]:
    """Levels that the processor has, the best one first."""
    flags = set(_cpuinfo("flags").split())
    return [level for level, needed in FLAGS.items() if needed <= flags]


def find_levels(name: str) -> list[Level]:
    """The levels that a name on the command line stands for; "all": all of this machine.

    Raises:
        ArgumentTypeError: the processor has no such level.
    """
    here = levels_here()
    names = (here or ["native"]) if name == "all" else [name]
    if unknown := [one for one in names if one not in (*here, "native")]:
        raise argparse.ArgumentTypeError(
            f"no level {unknown[0]!r} on this processor; expected {', '.join(here)}, native"
        )
    return [Level(one, here[0] if here else None) for one in names]


def _cpuinfo(name: str) -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")


def cpu_name() -> str:
    """Name of the processor, as far as the system tells."""
    return _cpuinfo("model name") or platform.processor()


# Processes


class WorkerError(RuntimeError):
    """A process could not do what it was asked to do."""


class Worker:
    """A process of runner.py that answers commands; a context in which it lives.

    python: its interpreter; arguments: of runner.py; environment: variables beside those of this process.
    """

    def __init__(self, python: Path, *arguments: str, environment: Mapping[str, str], script: Path = RUNNER) -> None:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 # closed by close
        self._process = subprocess.Popen(
            [str(python), str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env={**inherited(), **environment},
        )

    def ask(self, command: str, **arguments: Any) -> Any:
        """Have a command carried out; return what it gives.

        Raises:
            WorkerError: it failed, or the process has ended.
        """
        pipe = self._process
        assert pipe.stdin is not None
        assert pipe.stdout is not None
        try:
            print(json.dumps({"command": command, "arguments": arguments}), file=pipe.stdin, flush=True)
            line = pipe.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"{command}: the process ended with status {pipe.wait()}: {self._end_of_log()}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{command}: {answer['error']}")
        return answer["result"]

    def _end_of_log(self) -> str:
        self._log.seek(0)
        return " / ".join(self._log.read().split("\n")[-LOG_LINES:]).strip(" /")

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()


def inherited() -> dict[str, str]:
    """The variables of this process, but for those that choose instruction sets or threads: the benchmark sets them."""
    chosen = ("OMP_", "GOMP_", "KMP_", "MKL_", "ATEN_", "ONEDNN_", "DNNL_", "SPACY_ELMO_ISA")
    return {name: value for name, value in os.environ.items() if not name.startswith(chosen)}


@contextmanager
def busy_loops() -> Iterator[None]:
    """Have every processor that this process may use kept busy by a process of its own."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


# Turns


def take_turns(
    about: str,
    sides: Mapping[str, Callable[[], float]],
    repeats: int,
    before: Callable[[], object] = lambda: None,
    warm_up: bool = True,
) -> dict[str, list[float]]:
    """Run all sides once, then in turn, repetition by repetition; return what each gave then, the seconds it took.

    before: called at the beginning of each repetition.
    """
    for side in sides.values() if warm_up else ():
        side()
    found: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(repeats):
        note(f"{about}: repetition {repetition + 1} of {repeats}")
        before()
        for name, side in sides.items():
            found[name].append(side())
    return found


def ratio(numbers: Sequence[float], others: Sequence[float]) -> float:
    """Median of the ratios, repetition by repetition."""
    return float(statistics.median(a / b for a, b in zip(numbers, others, strict=True)))


# The report


@dataclass
class Section:
    """What a run at one level has found so far.

    products: operations a second of the machine's 2048 x 2048 float32 product, through torch and through oneDNN,
        measured at the beginning of each repetition.
    """

    level: Level
    machine: Worker
    about: Row = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    products: list[dict[str, float]] = field(default_factory=list)
    tables: dict[str, list[Row]] = field(default_factory=dict)
    targets: list[Row] = field(default_factory=list)
    minutes: float = 0.0

    def start(
        self, stack: ExitStack, *arguments: str, python: Path | None = None, threads: int | None = None
    ) -> Worker:
        """Start a process of runner.py that ends with the stack. threads: of OpenMP; None: as many as it takes."""
        environment = {**self.level.environment, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
        return stack.enter_context(Worker(python or Path(sys.executable), *arguments, environment=environment))

    def load(
        self, stack: ExitStack, label: str, *arguments: str, python: Path | None = None, **settings: Any
    ) -> Worker:
        """Start a process, have it load what the settings say, and remember its versions."""
        worker = self.start(stack, *arguments, python=python, threads=settings.get("threads"))
        self.versions[label] = worker.ask("load", **settings)
        return worker

    def pythons(self, peers: Iterable[str]) -> dict[str, Path]:
        """Interpreters of the environments of peers, as far as they can be made."""
        found = {}
        for name in peers:
            try:
                found[name] = python_of(name)
            except MissingPeerError as error:
                self.leave_out(f"{name}: {error}")
        return found

    def leave_out(self, reason: str) -> None:
        """Remember what cannot be measured."""
        if reason not in self.left_out:
            self.left_out.append(reason)
            note(f"left out: {reason}")

    def measure_products(self) -> None:
        """Measure the large product."""
        self.products.append(self.machine.ask("rates"))

    def report(self) -> Row:
        """All of it for a JSON file."""
        level = {"name": self.level.name, "about": self.level.about, "environment": self.level.environment}
        found = {name: value for name, value in vars(self).items() if name not in ("about", "machine")}
        return {**found, "level": level, "machine": self.about}

    def render(self) -> str:
        """Lay it out as text."""
        lines = [f"== {self.level.name} ({self.level.about}); {self.minutes:.1f} minutes"]
        lines += [f"{name}: {_flat(value)}" for name, value in self.about.items()]
        lines += [f"{name}: {_flat(versions)}" for name, versions in self.versions.items()]
        for way in self.products[0] if self.products else ():
            rates = [one[way] / 1e9 for one in self.products]
            lines.append(f"{way}: {statistics.median(rates):.0f} GFLOP/s ({min(rates):.0f} to {max(rates):.0f})")
        lines += [f"left out: {reason}" for reason in self.left_out]
        for name, rows in (*self.tables.items(), ("targets", self.targets)):
            lines += ["", f"-- {name}", *render_table(rows)] if rows else []
        return "\n".join(lines)


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_flat(one)}" for name, one in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def render_table(rows: Sequence[Row]) -> Iterator[str]:
    """Lay rows out as lines, a column for each name that a row has; lists are left out."""
    names = dict.fromkeys(name for row in rows for name, value in row.items() if not isinstance(value, list))
    cells = [[shown(row.get(name)) for name in names] for row in rows]
    is_text = [any(isinstance(row.get(name), str) for row in rows) for name in names]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    for line in (list(names), *cells):
        padded = (
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(line, widths, is_text, strict=True)
        )
        yield "  ".join(padded).rstrip()


def shown(value: Any) -> str:
    """A number to three digits or so, text as it is; a dash for None."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    if value and abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:,.{0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3}f}"


def run_levels(measure: Callable[[Section, argparse.Namespace], object], args: argparse.Namespace) -> None:
    """Measure level by level; print each as it is done, and write all so far to a file where one is asked for."""
    sections = []
    arguments = {name: value for name, value in vars(args).items() if name != "level"}
    for level in args.level:
        start = time.monotonic()
        machine = Worker(Path(sys.executable), "machine", environment=level.environment)
        with machine:
            machine.ask("set_threads", threads=args.threads)
            section = Section(level, machine, {"processor": cpu_name(), **machine.ask("describe")})
            measure(section, args)
        section.minutes = (time.monotonic() - start) / 60
        print(section.render(), end="\n\n", flush=True)
        sections.append(section.report())
        if args.json:
            report = {"arguments": arguments, "levels": sections}
            args.json.write_text(json.dumps(report, indent=1, default=str) + "\n", encoding="utf-8")


# Command line


class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows a description as it is, and defaults."""


def file_to_write(text: str) -> Path:
    """Parse the name of a file in a directory that is there."""
    if not (file := Path(text)).parent.is_dir():
        raise argparse.ArgumentTypeError(f"no such directory: {file.parent}")
    return file


def at_least(least: int) -> Callable[[str], int]:
    """Make a parser of whole numbers of at least `least`."""

    def number(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, got {text}")
        return value

    return number


def names_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Make a parser of comma-separated names out of these."""

    def parse(text: str) -> list[str]:
        if unknown := [name for name in text.split(",") if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {unknown[0]!r}; expected {', '.join(known)}")
        return text.split(",")

    return parse


def numbers_of(kind: Callable[[str], int]) -> Callable[[str], list[int]]:
    """Make a parser of comma-separated whole numbers out of that of one."""

    def numbers(text: str) -> list[int]:
        return [kind(part) for part in text.split(",")]

    return numbers
