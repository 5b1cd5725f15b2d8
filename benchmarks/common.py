"""What benchmarks share: their text, their command line, the machine's speed, and where their report goes."""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

SENTENCES = Path(__file__).with_name("sentences.txt")
SGEMM_SIZE = 2048


def read_sentences(count: int | None = None) -> list[list[str]]:
    """Return the first `count` sentences of sentences.txt, each a list of tokens; None for all."""
    return [line.split(" ") for line in SENTENCES.read_text(encoding="utf-8").splitlines()[:count]]


# Command line


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser that shows the description as it is, and defaults, with the arguments that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=_Formatter)
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--json", type=file_to_write, metavar="FILE", help="also write the results here")
    return parser


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


def file_to_write(text: str) -> Path:
    """Parse the name of a file in a directory that is there."""
    if not (file := Path(text)).parent.is_dir():
        raise argparse.ArgumentTypeError(f"no such directory: {file.parent}")
    return file


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    return _whole_number(text, 1)


def not_negative(text: str) -> int:
    """Parse a whole number of at least 0."""
    return _whole_number(text, 0)


def _whole_number(text: str, least: int) -> int:
    if (number := int(text)) < least:
        raise argparse.ArgumentTypeError(f"expected at least {least}, got {text}")
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


# Measuring


def seconds(action: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def sgemm_rate(n_products: int = 5) -> float:
    """Operations a second of a square float32 matrix product: the median of a few."""
    left, right = torch.randn(2, SGEMM_SIZE, SGEMM_SIZE)
    out = left @ right
    times = [seconds(lambda: torch.mm(left, right, out=out)) for _ in range(n_products)]
    return float(2 * SGEMM_SIZE**3 / statistics.median(times))


def cpu_name() -> str:
    """Name of the processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


# Output


def render_rates(gflops: Sequence[float]) -> str:
    """Lay out the speed of the machine's matrix product over a run: median, lowest and highest."""
    return f"{statistics.median(gflops):.0f} GFLOP/s ({min(gflops):.0f} to {max(gflops):.0f})"


def note(text: str) -> None:
    """Tell on the error stream what is going on."""
    print(text, file=sys.stderr, flush=True)


def carry_out(
    args: argparse.Namespace,
    run: Callable[[argparse.Namespace], dict[str, Any]],
    render: Callable[[dict[str, Any]], str],
) -> None:
    """Run a benchmark with its arguments and publish its report."""
    torch.set_num_threads(args.threads)
    report = run(args)
    publish(report, render(report), args.json)


def publish(report: dict[str, Any], text: str, file: Path | None) -> None:
    """Print a report's text, and write the whole of it to a file where one is asked for."""
    print(text)
    if file:
        file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
