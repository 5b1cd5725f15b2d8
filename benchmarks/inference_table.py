"""What the repetitions of inference.py took in, the rows and the text of its table out."""

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from common import render_rates
from engines import OURS
from targets import render_targets
from workloads import Work

MIB = 2**20


@dataclass
class Runs:
    """Seconds of every repetition by engine, the SGEMM rate beside them in operations a second, and seconds of ours
    warm, where that was measured."""

    cold: dict[str, list[float]]
    sgemm: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)


@dataclass
class Row:
    """One line of the table. Sizes of memory are in bytes, of_sgemm is over needed operations; what does not apply is
    None."""

    size: str
    shape: str
    engine: str
    calls: int
    tokens: int
    seconds: list[float]
    tokens_per_second: float
    of_sgemm: float
    of_sgemm_nominal: float
    milliseconds: float | None = None
    warm_tokens_per_second: float | None = None
    warm_milliseconds: float | None = None
    ratio: float | None = None
    peak_memory: int | None = None
    memory_over_model: int | None = None


def make_rows(
    size: str, shape: str, works: Mapping[str, Work], runs: Runs, memory: Mapping[str, tuple[int, int]]
) -> Iterator[Row]:
    """Reduce the repetitions of a size and shape to medians, a row for each engine.

    memory: bytes by engine, with the model loaded and at the peak.
    """
    speeds = {name: [work.tokens / taken for taken in runs.cold[name]] for name, work in works.items()}
    for name, work in works.items():
        taken = runs.cold[name]
        rates = [1 / (one * rate) for one, rate in zip(taken, runs.sgemm, strict=True)]
        row = Row(
            size=size,
            shape=shape,
            engine=name,
            calls=len(work.calls),
            tokens=work.tokens,
            seconds=taken,
            tokens_per_second=statistics.median(speeds[name]),
            of_sgemm=statistics.median(work.needed * rate for rate in rates),
            of_sgemm_nominal=statistics.median(work.nominal * rate for rate in rates),
        )
        if shape == "single":
            row.milliseconds = 1e3 * statistics.median(taken) / row.calls
        if name != OURS:
            row.ratio = statistics.median(a / b for a, b in zip(speeds[OURS], speeds[name], strict=True))
        elif runs.warm:
            warm = statistics.median(runs.warm)
            row.warm_tokens_per_second = work.tokens / warm
            row.warm_milliseconds = 1e3 * warm / row.calls if shape == "single" else None
        if name in memory:
            loaded, row.peak_memory = memory[name]
            row.memory_over_model = row.peak_memory - loaded
        yield row


def render(report: dict[str, Any]) -> str:
    """Lay the report out as text."""
    lines = [
        *render_machine(report),
        f"{report['sentences']} sentences, {report['tokens']} tokens, {report['distinct_words']} distinct words",
        "",
        f"{'size':<9} {'shape':<7} {'engine':<20}{'runs':>5}{'tokens':>8}{'tokens/s':>10}"
        f"{'warm':>8}{'ms':>8}{'warm':>8}{'ratio':>7}{'of SGEMM':>10}{'peak MiB':>10}{'over model':>12}",
        *(render_row(row) for row in report["rows"]),
    ]
    return "\n".join([*lines, *render_targets(report["targets"])])


def render_machine(report: dict[str, Any]) -> Iterator[str]:
    """Lay out what ran, on what, and what did not run."""
    rates = report["sgemm_gflops"]
    yield f"Python {report['python']}"
    for name, versions in report["versions"].items():
        yield f"{name}: {', '.join(f'{package} {version}' for package, version in versions.items())}"
    yield f"{report['cpu']}, {report['threads']} threads; SGEMM {render_rates(rates)}"
    for reason in report["left_out"]:
        yield f"left out: {reason}"


def render_row(row: dict[str, Any]) -> str:
    """Lay one row out as text."""
    warm, peak, over = row["warm_tokens_per_second"], row["peak_memory"], row["memory_over_model"]
    return (
        f"{row['size']:<9} {row['shape']:<7} {row['engine']:<20}{len(row['seconds']):>5}{row['tokens']:>8}"
        f"{row['tokens_per_second']:>10.0f}{shown(warm, 0):>8}{shown(row['milliseconds'], 1):>8}"
        f"{shown(row['warm_milliseconds'], 1):>8}{shown(row['ratio'], 1):>7}{row['of_sgemm']:>10.3f}"
        f"{shown(peak and peak / MIB, 0):>10}{shown(over and over / MIB, 0):>12}"
    )


def shown(number: float | None, digits: int) -> str:
    """A number to so many digits behind the point; a dash for None."""
    return "-" if number is None else f"{number:.{digits}f}"
