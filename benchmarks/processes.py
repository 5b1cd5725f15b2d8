"""Models in, tables of memory out: a pipeline in several processes, and over a long stream of texts. Linux only."""

import sys
import threading
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cases
from environments import note
from harness import Row, Section, at_least, names_of, numbers_of

from spacy_elmo import formats

METHODS = ("fork", "spawn")
PAUSE = 0.2  # seconds between two looks
LOOKS = 10  # at the stream
MIB = 2**20
OPTIONS: dict[str, dict[str, Any]] = {
    "processes": {"type": numbers_of(at_least(1)), "default": [1, 4], "help": "numbers, comma-separated"},
    "methods": {"type": names_of(METHODS), "default": list(METHODS), "help": "to start them"},
    "stream": {"type": at_least(0), "default": 1_000_000, "help": "texts of it; 0 leaves it out"},
}


def processes(section: Section, args: Namespace) -> None:
    """Memory of `nlp.pipe` in several processes, and over a long stream of texts. Linux only.

    Each row is a new interpreter that makes the pipeline, `elmo` alone, and runs `nlp.pipe` over the first sentences of
    sentences.txt, each a text, with so many processes. Their memory is looked at from outside, several times a second:

    MiB in all: highest sum over the process and its children. What they share counts once (the kernel's proportional
        set size), Python and its libraries included.
    MiB of one: largest amount that one of the children shares with nobody; where there is one process, of that.
    words/s: with starting the processes, which is most of it where texts are few.

    The stream: texts of four words, drawn from 60,000, through one process with the bundled model; memory after each
    tenth."""
    if not Path("/proc/self/smaps_rollup").exists():
        sys.exit("this benchmark reads memory where Linux tells it: /proc/PID/smaps_rollup, which is not here")
    texts = cases.read_texts(args.sentences)
    rows = section.tables["processes"] = []
    for size in args.sizes:
        with cases.model_directory(size) as (directory, _):
            for count in args.processes:
                for method in args.methods if count > 1 else [""]:
                    note(f"{size}: {count} {method}")
                    rows.append({"size": size, **measure(section, directory, method, count, texts, args.threads)})
    if args.stream:
        section.tables["stream"] = stream(section, args.stream, args.threads)


def measure(section: Section, directory: str, method: str, count: int, texts: list[str], threads: int) -> Row:
    """Run the pipeline in a process of its own and watch it."""
    with ExitStack() as stack:
        settings: Any = {"weights": directory, "threads": threads, "method": method or None}
        worker = section.load(stack, "elmo", "pipeline", "elmo", **settings)
        with watch(worker.ask("pid")) as seen:
            took = worker.ask("time", texts=texts, n_process=count)
    of_one = seen.of_itself if count == 1 else seen.of_child
    row: Row = {"processes": count, "method": method, "MiB in all": seen.in_all / MIB, "MiB of one": of_one / MIB}
    return {**row, "words/s": took["words"] / took["seconds"]}


def stream(section: Section, count: int, threads: int) -> list[Row]:
    """Texts that have come through the bundled model, and memory then."""
    note(f"stream of {count} texts")
    with ExitStack() as stack:
        worker = section.load(stack, "elmo", "pipeline", "elmo", weights=formats.BUNDLED, threads=threads)
        looks = worker.ask("stream", count=count, looks=LOOKS)
    return [{"texts": texts, "MiB": size / MIB} for texts, size in looks]


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

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
        seen.look(pid)


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
