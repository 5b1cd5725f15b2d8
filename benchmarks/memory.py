"""Models in, tables of memory out: a pipeline in several processes, and over a long stream of texts. Linux only.

    python benchmarks/memory.py [--sizes original,small,bundled] [--processes 1,4] [--methods fork,spawn]
                                [--sentences N] [--stream N] [--threads N] [--json FILE]

Each row is a new interpreter that makes the pipeline (memory_worker.py) and runs `nlp.pipe` over the first sentences of
sentences.txt, each a text, with so many processes. Their memory is looked at from outside, several times a second:

MiB in all: highest sum over the process and its children. What they share counts once (the kernel's proportional set
    size), Python and its libraries included.
MiB of one: largest amount that one of the children shares with nobody; where there is one process, of that.
words/s: with starting the processes, which is most of it where texts are few.

The stream: texts of four words, drawn from 60,000, through one process with the bundled model; memory after each tenth.
"""

import argparse
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import SENTENCES, carry_out, cpu_name, make_parser, names_of, not_negative, note, numbers_of, positive
from worker import Worker
from workloads import SIZES, load

from spacy_elmo import formats

METHODS = ("fork", "spawn")
SCRIPT = Path(__file__).with_name("memory_worker.py")
PAUSE = 0.2  # seconds between two looks
LOOKS = 10  # at the stream
MIB = 2**20


@dataclass
class Row:
    """One line of the first table; memory in bytes."""

    size: str
    method: str
    processes: int
    in_all: int
    of_one: int
    words_per_second: float


def main() -> None:
    """Run the benchmark."""
    if not Path("/proc/self/smaps_rollup").exists():
        sys.exit("this benchmark reads memory where Linux tells it: /proc/PID/smaps_rollup, which is not here")
    parser = make_parser(__doc__ or "")
    parser.add_argument("--sizes", type=names_of(SIZES), default=",".join(SIZES), help="models, comma-separated")
    parser.add_argument("--processes", type=numbers_of(positive), default="1,4", help="numbers, comma-separated")
    parser.add_argument("--methods", type=names_of(METHODS), default=",".join(METHODS), help="to start them")
    parser.add_argument("--sentences", type=positive, default=2_000, help="first N sentences of the file")
    parser.add_argument("--stream", type=not_negative, default=1_000_000, help="texts of it; 0 leaves it out")
    parser.set_defaults(threads=1)
    carry_out(parser.parse_args(), run, render)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every row, then the stream."""
    texts = SENTENCES.read_text(encoding="utf-8").splitlines()[: args.sentences]
    rows = []
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as directory:
            formats.write(load(size), directory)
            for processes in args.processes:
                for method in args.methods if processes > 1 else [""]:
                    note(f"{size}: {processes} {method}")
                    rows.append(measure(size, directory, method, processes, texts, args.threads))
    return {
        "cpu": cpu_name(),
        "threads": args.threads,
        "sentences": len(texts),
        "rows": [asdict(row) for row in rows],
        "stream": stream(args.stream, args.threads) if args.stream else [],
    }


def measure(size: str, directory: str, method: str, processes: int, texts: list[str], threads: int) -> Row:
    """Run the pipeline in a process of its own and watch it."""
    with Worker(Path(sys.executable), SCRIPT, threads=threads) as worker:
        worker.ask("load", directory=directory, threads=threads, method=method or None)
        with watch(worker.ask("pid")) as seen:
            took = worker.ask("pipe", texts=texts, n_process=processes)
    of_one = seen.of_itself if processes == 1 else seen.of_child
    return Row(size, method, processes, seen.in_all, of_one, took["words"] / took["seconds"])


def stream(count: int, threads: int) -> list[tuple[int, int]]:
    """Texts that have come through the bundled model, and memory then."""
    note(f"stream of {count} texts")
    with Worker(Path(sys.executable), SCRIPT, threads=threads) as worker:
        worker.ask("load", directory=formats.BUNDLED, threads=threads, method=None)
        looks: list[tuple[int, int]] = worker.ask("stream", count=count, looks=LOOKS)
        return looks


# Memory of processes


@dataclass
class Seen:
    """The highest memory seen so far, in bytes: of all together; unshared, of the process itself, and of a child."""

    in_all: int = 0
    of_itself: int = 0
    of_child: int = 0

    def look(self, pid: int) -> None:
        """At a process and its children, as far as they are still there."""
        shares, alone = {}, {}
        for one in (pid, *children(pid)):
            with suppress(OSError):  # it has just ended
                shares[one], alone[one] = memory(one)
        self.in_all = max(self.in_all, sum(shares.values()))
        self.of_itself = max(self.of_itself, alone.pop(pid, 0))
        self.of_child = max([self.of_child, *alone.values()])


@contextmanager
def watch(pid: int) -> Iterator[Seen]:
    """Look at a process and its children until the context ends."""
    seen, ended = Seen(), threading.Event()

    def look() -> None:
        seen.look(pid)
        while not ended.wait(PAUSE):
            seen.look(pid)
        seen.look(pid)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def children(pid: int) -> list[int]:
    """Numbers of the processes that a process has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            parent = next(line for line in status.read_text().splitlines() if line.startswith("PPid:"))
            if int(parent.split()[1]) == pid:
                found.append(int(status.parent.name))
    return found


def memory(pid: int) -> tuple[int, int]:
    """Proportional and private memory of a process, in bytes."""
    fields = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]]
    kib = {name: int(number) for name, number, _ in fields}
    return kib["Pss:"] * 1024, (kib["Private_Clean:"] + kib["Private_Dirty:"]) * 1024


# The tables


def render(report: dict[str, Any]) -> str:
    """Lay the report out as text."""
    lines = [
        f"{report['cpu']}, {report['threads']} threads in a process; {report['sentences']} sentences",
        "",
        f"{'size':<9} {'processes':<12}{'MiB in all':>12}{'MiB of one':>12}{'words/s':>9}",
        *(
            f"{row['size']:<9} {row['processes']:<5}{row['method']:<7}{row['in_all'] / MIB:>12.0f}"
            f"{row['of_one'] / MIB:>12.0f}{row['words_per_second']:>9.0f}"
            for row in report["rows"]
        ),
    ]
    if report["stream"]:
        lines += ["", f"{'texts':>9}{'MiB':>6}", *(f"{texts:>9}{size / MIB:>6.0f}" for texts, size in report["stream"])]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
