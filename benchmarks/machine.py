"""The machine in, operations a second out: its large product, the products of a time step, the update of the gates.

Commands of runner.py's role `machine`; the process has the instruction sets of a level.
"""

import statistics
import timeit
from collections.abc import Callable, Mapping
from typing import Any

import torch
from ours import Float16Product, Float32Product, describe, update_compiled
from torch import Tensor
from torch.nn.functional import linear

__all__ = ["describe", "gates", "products", "rates", "set_threads"]  # the commands

SIZE = 2048  # of the large product
N_IN, N_OUT, N_DIRECTIONS, N_LAYERS = 512, 16_384, 2, 2  # of a time step at the original size
ENOUGH = 0.02  # seconds of a measurement, at least
CELL_CLIP = 3.0

Way = Callable[[], object]


def set_threads(threads: int) -> None:
    """Of torch."""
    torch.set_num_threads(threads)


def rates(count: int = 5) -> dict[str, float]:
    """Operations a second of a large square float32 product, torch's own (MKL) and oneDNN's: medians of a few."""
    left, right = torch.randn(2, SIZE, SIZE)
    with torch.inference_mode():
        out, packed = left @ right, Float32Product(right)
        ways: dict[str, Way] = {
            "2048 product, torch": lambda: torch.mm(left, right, out=out),
            "2048 product, oneDNN": lambda: packed(left),
        }
        return {name: 2 * SIZE**3 / taken for name, taken in compare(ways, count, enough=0).items()}


def products(rows: list[int], repeats: int) -> list[dict[str, Any]]:
    """A line for each number of rows: each way to multiply them in a time step, in shares of the faster large product.

    A step at the original size multiplies `rows` x 512 by 512 x 16,384 in both directions. Each way does that with
    more weights than a cache holds in turn, as the layers of a biLM come in turn.
    """
    weights = torch.randn(N_LAYERS, N_DIRECTIONS, N_IN, N_OUT)
    found = []
    with torch.inference_mode():
        ways_of = make_ways(weights)
        for count in rows:
            fastest = max(rates().values())
            work = 2 * count * N_IN * N_OUT * N_DIRECTIONS * N_LAYERS
            times = compare(ways_of(count), repeats)
            found.append({"rows": count, **{name: work / taken / fastest for name, taken in times.items()}})
    return found


def make_ways(weights: Tensor) -> Callable[[int], dict[str, Way]]:
    """The ways to multiply so many rows by all layers of weights `[layers, directions, n_in, n_out]`, by name."""
    layers, (n_directions, n_in, n_out) = range(len(weights)), weights.shape[1:]
    turned = weights.transpose(2, 3).contiguous()
    packed = [[Float32Product(weight) for weight in layer] for layer in weights]
    halved = [[Float16Product(weight) for weight in layer] for layer in weights]

    def ways(rows: int) -> dict[str, Way]:
        x, out = torch.randn(n_directions, rows, n_in), torch.empty(n_directions, rows, n_out)

        def each(product: Callable[[Tensor, Any], Tensor], by_layer: Any) -> Way:
            return lambda: [[product(*pair) for pair in zip(x, by_layer[layer], strict=True)] for layer in layers]

        return {
            "torch, in place": lambda: [torch.bmm(x, weights[layer], out=out) for layer in layers],
            "F.linear": each(linear, turned),
            "weights on the left": each(lambda one, weight: weight @ one.t(), turned),
            "oneDNN, packed": each(lambda one, product: product(one), packed),
            "FBGEMM, float16": each(lambda one, product: product(one), halved),
        }

    return ways


def gates(rows: int, dim: int, repeats: int) -> dict[str, float] | None:
    """Seconds of the update of `rows` x `dim` cells, compiled and by torch's operators; None where nothing is
    compiled."""
    generator = torch.Generator().manual_seed(0)
    given, inputs = torch.randn(2, rows, 4 * dim, generator=generator)
    cell = torch.randn(rows, dim, generator=generator)
    with torch.inference_mode():
        compiled = update_compiled(given.clone(), inputs, cell.clone(), CELL_CLIP)
        if compiled is None:
            return None
        plain = update_by_operators(given.clone(), inputs, cell.clone(), CELL_CLIP)
        if not (compiled - plain).abs().max() < 1e-5:
            raise RuntimeError("the compiled update of the gates is another than that by torch's operators")
        ways: dict[str, Way] = {
            "compiled": lambda: update_compiled(given, inputs, cell, CELL_CLIP),
            "torch": lambda: update_by_operators(given, inputs, cell, CELL_CLIP),
        }
        return compare(ways, repeats)


def update_by_operators(gates: Tensor, inputs: Tensor, cell: Tensor, cell_clip: float) -> Tensor:
    """Bring cells `[rows, dim]` up to date in place, as well as torch's operators can; return what they let out.

    gates, inputs: `[rows, 4 * dim]`: input, forget, output, candidate; gates are overwritten.
    """
    dim = cell.shape[1]
    enter, forget, leave, candidate = gates.add_(inputs).chunk(4, dim=1)
    gates[:, : 3 * dim].sigmoid_()
    cell.mul_(forget).addcmul_(enter, _tanh(candidate)).clamp_(-cell_clip, cell_clip)
    return _tanh(cell.clone()).mul_(leave)


def _tanh(x: Tensor) -> Tensor:
    """In place, by way of torch's sigmoid, which is several times faster on a CPU."""
    return x.mul_(2.0).sigmoid_().mul_(2.0).sub_(1.0)


def compare(ways: Mapping[str, Way], repeats: int, enough: float = ENOUGH) -> dict[str, float]:
    """Run the ways in turn; return the median of the seconds of one call. enough: seconds of a repetition, at least."""
    counts = {name: 1 + int(enough / min(timeit.repeat(way, number=1, repeat=2))) for name, way in ways.items()}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            taken[name].append(timeit.timeit(way, number=counts[name]) / counts[name])
    return {name: statistics.median(each) for name, each in taken.items()}
