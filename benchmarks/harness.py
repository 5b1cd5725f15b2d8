"""What all benchmarks share: levels of instruction sets, worker processes, turns, tables and the report.

Nothing is timed in this process. Each side of a comparison runs in its own process (runner.py). The environment of that
process says which instruction sets torch, oneDNN, MKL and spacy-elmo may use.
"""

import argparse
import json
import os
import pickle
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from environments import SideError, is_peer, note, pip_arguments, python_of

from spacy_elmo.bilm.kernels import instruction_sets

RUNNER = Path(__file__).with_name("runner.py")
PACKAGES = ("spacy-elmo", "torch", "spacy", "thinc")  # of this environment; those of peers are pinned
LOG_LINES = 5  # to show of a failed process
PAUSE = 0.2  # seconds
SETTLED = 0.05  # seconds, after which the threads of the previous side no longer spin

Row = dict[str, Any]  # a line of a table by column; lists only go to the report

# Instruction sets of all processes, with their names in oneDNN and MKL. ATen and spacy-elmo use the keys of this table.
# FP16 is all of AVX-512 without AMX. At "native", each project uses what it finds.
LEVELS = {
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_FP16", "MKL_ENABLE_INSTRUCTIONS": "AVX512"},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
}
CHOOSING = ("SPACY_ELMO_ISA", "ATEN_", "ONEDNN_", "DNNL_", "MKL_", "OMP_", "GOMP_", "KMP_")  # variables or prefixes


def levels_here() -> list[str]:
    """Return the levels that the processor and the compiled part support, best first, and "native"."""
    return [*(level for level in instruction_sets() if level in LEVELS), "native"]


def find_levels(name: str) -> list[str]:
    """Return the levels for a name on the command line; "all" is all levels of this machine.

    Raises:
        ArgumentTypeError: the machine has no such level.
    """
    here = levels_here()
    if name not in (*here, "all"):
        raise argparse.ArgumentTypeError(f"no level {name!r} on this processor; expected {', '.join(here)}")
    return [name] if name != "all" else here[:-1] or here


def variables_of(level: str) -> dict[str, str]:
    """Return the environment variables that choose a level."""
    return {"SPACY_ELMO_ISA": level, "ATEN_CPU_CAPABILITY": level, **LEVELS[level]} if level in LEVELS else {}


class Worker:
    """A process of runner.py that answers commands. It is a context manager, and ends with the context.

    python: its interpreter; arguments: of runner.py; environment: variables in addition to those of this process. It
    does not inherit variables that choose instruction sets or threads.
    """

    def __init__(self, python: Path, *arguments: str, environment: dict[str, str], script: Path = RUNNER) -> None:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 # closed by exit
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._log}
        command = [str(python), str(script), *arguments]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(CHOOSING)}
        self._process: Any = subprocess.Popen(command, env=inherited | environment, **pipes)
        self.pid: int = self._process.pid

    def ask(self, command: str, meanwhile: Callable[[], object] | None = None, **arguments: Any) -> Any:
        """Run a command in the process; return its result. meanwhile: called several times per second.

        Raises:
            SideError: the command failed, or the process has ended.
        """
        try:
            pickle.dump((command, arguments), self._process.stdin)
            self._process.stdin.flush()
            while meanwhile and not select.select([self._process.stdout], [], [], PAUSE)[0]:
                meanwhile()
            result, failure = pickle.load(self._process.stdout)
        except (BrokenPipeError, EOFError):
            status = self._process.wait()
            self._log.seek(0)
            last_words = " / ".join(self._log.read().split("\n")[-LOG_LINES:]).strip(" /")
            raise SideError(f"{command}: the process ended with status {status}: {last_words}") from None
        if failure:
            raise SideError(f"{command}: {failure}")
        return result

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()


@contextmanager
def busy_loops() -> Iterator[None]:
    """Context in which every processor that this process may use is busy with another process."""
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
    about: Row,
    turns: Mapping[str, Callable[[], float]],
    tokens: Mapping[str, int],
    repeats: int,
    n_calls: int = 1,
    machine: Any = None,
    warm_up: bool = True,
) -> list[Row]:
    """Run all sides once as a warm-up, then in turn, repetition by repetition. Return a row for each.

    turns: functions that do the work of a side and return the seconds; tokens: number of tokens in this work, which is
        `n_calls` calls.
    machine: the process that measures the large product of the machine at the beginning of each repetition, if any.
    times, in the row: tokens/s of the first side over those of this side.
    """
    for turn in turns.values() if warm_up else ():
        turn()
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    products: list[dict[str, float]] = []
    for repetition in range(repeats):
        note(f"{', '.join(map(str, about.values()))}: repetition {repetition + 1} of {repeats}")
        products += [machine.ask("rates")] if machine else []
        for name, turn in turns.items():
            time.sleep(SETTLED)
            seconds[name].append(turn())
    rows: list[Row] = []
    for name, taken in seconds.items():
        speeds = [tokens[name] / one for one in taken]
        row = {**about, "side": name, "tokens": tokens[name], "tokens/s": float(statistics.median(speeds))}
        row |= {"ms": 1e3 * statistics.median(taken) / n_calls, "seconds": taken, "speeds": speeds}
        row["times"] = ratio(rows[0]["speeds"], speeds) if rows else None
        rows.append(row | {"products": [max(rates.values()) for rates in products]})
    for way in products[0] if products else ():
        rows[0][f"{way} GFLOP/s"] = statistics.median(rates[way] for rates in products) / 1e9
    return rows


def ratio(numbers: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of the ratios, repetition by repetition."""
    return float(statistics.median(a / b for a, b in zip(numbers, others, strict=True)))


# The report


class Report:
    """The results of a run at one level so far.

    machine: the process that measures the speed of the machine itself (machine.py).
    """

    def __init__(self, level: str, threads: int, stack: ExitStack) -> None:
        best = levels_here()[0]
        self.level = best if level == "native" else level
        self.about = f"{level}, {'native' if self.level == best else f'forced: the processor has {best}'}"
        self.variables = variables_of(level)
        self.versions: dict[str, Any] = {package: metadata.version(package) for package in PACKAGES}
        self.left_out: dict[str, str] = {}
        self.tables: dict[str, list[Row]] = defaultdict(list)
        self.machine = self.start(stack, "machine", threads=threads)
        self.facts: Row = self.machine.ask("describe")

    def start(self, stack: ExitStack, *role: str, threads: int | None, **settings: Any) -> Any:
        """Start a process that ends with the stack, let it load what the settings say, and return its Worker. If a peer
        is not available, return None.

        role: arguments of runner.py; threads: number of threads, or None for the default.

        Raises:
            SideError: a side that is not a peer is not available.
        """
        name = role[-1]
        if name in self.left_out:
            return None
        try:
            environment = {**self.variables, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
            worker = stack.enter_context(Worker(python_of(name), *role, environment=environment))
            worker.ask("load", threads=threads, **settings)
        except SideError as error:
            if not is_peer(name):
                raise
            self.left_out[name] = str(error)
            note(f"left out: {name}: {error}")
            return None
        if is_peer(name):
            self.versions[name] = pip_arguments(name)
        return worker

    def render(self) -> str:
        """Return the report as text."""
        names = ("facts", "versions", "left_out")
        lines = [f"== {self.about}", *(f"{name}: {json.dumps(vars(self)[name])}" for name in names)]
        for name, rows in self.tables.items():
            lines += ["", f"-- {name}", *render_table(rows)]
        return "\n".join(lines)


def render_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the rows as lines, with a column for each name that any row has. Lists are left out."""
    names = dict.fromkeys(name for row in rows for name, value in row.items() if not isinstance(value, list))
    lines = [list(names), *([shown(row.get(name)) for name in names] for row in rows)]
    is_text = [any(isinstance(row.get(name), str) for row in rows) for name in names]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = zip(line, widths, is_text, strict=True)
        yield "  ".join(cell.ljust(width) if left else cell.rjust(width) for cell, width, left in cells).rstrip()


def shown(value: Any) -> str:
    """Return a number with three digits, or more if it is large; text as it is; a dash for None."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def run_levels(measure: Callable[[Report, argparse.Namespace], object], args: argparse.Namespace) -> None:
    """Measure level by level. Print each when it is done, and write all so far to a file if `json` names one."""
    done, arguments = [], {name: value for name, value in vars(args).items() if name != "json"}
    for level in args.level:
        start = time.monotonic()
        with ExitStack() as stack:
            report = Report(level, args.threads, stack)
            measure(report, args)
        report.about += f"; {(time.monotonic() - start) / 60:.1f} minutes"
        print(report.render(), end="\n\n", flush=True)
        done.append({name: value for name, value in vars(report).items() if name != "machine"})
        if args.json:
            text = json.dumps({"arguments": arguments, "levels": done}, indent=1)
            args.json.write_text(text + "\n", encoding="utf-8")


# Command line


def file_to_write(text: str) -> Path:
    """Parse the name of a file in an existing directory."""
    if not (file := Path(text)).parent.is_dir():
        raise argparse.ArgumentTypeError(f"no such directory: {file.parent}")
    return file


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return int(text)


def names_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a parser of comma-separated names, which must be among `known`."""

    def parse(text: str) -> list[str]:
        if unknown := [name for name in text.split(",") if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {unknown[0]!r}; expected {', '.join(known)}")
        return text.split(",")

    return parse
