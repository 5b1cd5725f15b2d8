"""Measures the speed of the machine: products, reading memory, the update of the gates.

These are the commands of the role `machine` of runner.py. The process has the instruction sets of a level.
"""

import statistics
import timeit
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from ours import GATE_UPDATES, Float32Product, describe_machine

SIZE = 2048  # of the large product
ENOUGH = 0.02  # a measurement takes at least this many seconds
CELL_CLIP = 3.0


def load(threads: int) -> None:
    """Set the number of threads."""
    torch.set_num_threads(threads)


def describe() -> dict[str, Any]:
    """Return the processor, the instruction sets in use and the threads, like `info --machine`."""
    return describe_machine()


@torch.inference_mode()
def rates(rows: int = SIZE, n_in: int = SIZE, n_out: int = SIZE, count: int = 5) -> dict[str, float]:
    """Return operations per second of a float32 product, torch's own (MKL) and oneDNN's."""
    left, right, out = torch.randn(rows, n_in), torch.randn(n_in, n_out), torch.empty(rows, n_out)
    ways = {"torch": partial(torch.mm, left, right, out=out), "oneDNN": partial(Float32Product(right), left)}
    return {way: 2 * rows * n_in * n_out / taken for way, taken in compare(ways, count).items()}


def bandwidth(n_bytes: int, count: int = 5) -> float:
    """Return the bytes per second at which `n_bytes` are read again and again: a matrix, in a product with a vector."""
    matrix, vector = torch.randn(max(1, n_bytes // (4 * SIZE)), SIZE), torch.randn(SIZE)
    return matrix.nbytes / compare({"": partial(torch.mv, matrix, vector)}, count)[""]


@torch.inference_mode()
def gates(rows: int, dim: int, count: int) -> dict[str, float]:
    """Return the seconds of an update of `rows` x `dim` cells: "compiled", if available, and "torch"."""
    gates, inputs = torch.randn(2, rows, 4 * dim)
    arguments = (gates, inputs, torch.randn(rows, dim), CELL_CLIP)
    return compare({name: partial(update, *arguments) for name, update in GATE_UPDATES.items()}, count)


def compare(ways: Mapping[str, Callable[[], object]], count: int) -> dict[str, float]:
    """Run the ways in turn, `count` times, long enough to measure. Return the median seconds of one call."""
    calls = {name: 1 + int(ENOUGH / min(timeit.repeat(way, number=1, repeat=2))) for name, way in ways.items()}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(count):
        for name, way in ways.items():
            taken[name].append(timeit.timeit(way, number=calls[name]) / calls[name])
    return {name: statistics.median(each) for name, each in taken.items()}
