"""Numbers of rows in, a table of how fast one LSTM step multiplies them out: each way to do it beside the others.

    python benchmarks/products.py [--rows 1,4,16,32,128,256] [--repeats N] [--threads N] [--json FILE]

A step at the original size multiplies `rows` x 512 by 512 x 16,384 in both directions. Each way does that with more
weights than a cache holds in turn, as the layers of a biLM come in turn. The last line is the square product of SGEMM
itself through oneDNN: what large products reach on this machine.

in place: one `torch.bmm` for both directions, into an array that is there; linear: `torch.nn.functional.linear`;
left: `weight @ x.T`; packed: `Float32Product` (oneDNN); float16: `Float16Product` (FBGEMM).
All are shares of the SGEMM rate beside them (2048 x 2048 x 2048, float32), medians.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from common import (
    SGEMM_SIZE,
    carry_out,
    cpu_name,
    make_parser,
    note,
    numbers_of,
    positive,
    render_rates,
    seconds,
    sgemm_rate,
)
from torch.nn.functional import linear

from spacy_elmo.bilm.packed import Float16Product, Float32Product

N_IN, N_OUT, N_DIRECTIONS, N_LAYERS = 512, 16_384, 2, 2
ENOUGH = 0.02  # seconds of a measurement, at least

Way = Callable[[int], object]  # does the work of one step of this layer


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--rows", type=numbers_of(positive), default="1,4,16,32,128,256", help="comma-separated")
    parser.add_argument("--repeats", type=positive, default=7, help="repetitions of each measurement")
    carry_out(parser.parse_args(), run, render)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every number of rows, then the square product."""
    weights = torch.randn(N_LAYERS, N_DIRECTIONS, N_IN, N_OUT)
    transposed = weights.transpose(2, 3).contiguous()
    packed = [[Float32Product(weight) for weight in layer] for layer in weights]
    halved = [[Float16Product(weight) for weight in layer] for layer in weights]
    rates: list[float] = []
    rows = []
    with torch.inference_mode():
        for n_rows in args.rows:
            note(f"{n_rows} rows")
            ways = make_ways(n_rows, weights, transposed, packed, halved)
            work = 2 * n_rows * N_IN * N_OUT * N_DIRECTIONS
            rows.append({"rows": n_rows, "of_sgemm": compare(ways, work, args.repeats, rates)})
        square = torch.randn(SGEMM_SIZE, SGEMM_SIZE)
        whole = Float32Product(square)
        large = compare({"packed": lambda _: whole(square)}, 2 * SGEMM_SIZE**3, args.repeats, rates)
    return {
        "cpu": cpu_name(),
        "threads": args.threads,
        "sgemm_gflops": [rate / 1e9 for rate in rates],
        "rows": rows,
        "square": large["packed"],
    }


def make_ways(
    n_rows: int,
    weights: torch.Tensor,
    transposed: torch.Tensor,
    packed: list[list[Float32Product]],
    halved: list[list[Float16Product]],
) -> dict[str, Way]:
    """The ways to multiply so many rows, by name."""
    x = torch.randn(N_DIRECTIONS, n_rows, N_IN)
    out = torch.empty(N_DIRECTIONS, n_rows, N_OUT)
    return {
        "in place": lambda layer: torch.bmm(x, weights[layer], out=out),
        "linear": lambda layer: [linear(one, weight) for one, weight in zip(x, transposed[layer], strict=True)],
        "left": lambda layer: [weight @ one.t() for one, weight in zip(x, transposed[layer], strict=True)],
        "packed": lambda layer: [product(one) for one, product in zip(x, packed[layer], strict=True)],
        "float16": lambda layer: [product(one) for one, product in zip(x, halved[layer], strict=True)],
    }


def compare(ways: Mapping[str, Way], work: int, repeats: int, rates: list[float]) -> dict[str, float]:
    """Run the ways in turn; return medians of their shares of the SGEMM rate, which is measured in each turn.

    work: operations of a step; rates: where the SGEMM rates go.
    """
    counts = {name: 1 + int(ENOUGH / seconds(partial(steps, way, 1))) for name, way in ways.items()}
    shares: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        rates.append(sgemm_rate())
        for name, way in ways.items():
            taken = seconds(partial(steps, way, counts[name]))
            shares[name].append(counts[name] * N_LAYERS * work / taken / rates[-1])
    return {name: statistics.median(each) for name, each in shares.items()}


def steps(way: Way, count: int) -> None:
    """Do so many steps of every layer, the layers in turn."""
    for _ in range(count):
        for layer in range(N_LAYERS):
            way(layer)


def render(report: dict[str, Any]) -> str:
    """Lay the report out as text."""
    rates, names = report["sgemm_gflops"], list(report["rows"][0]["of_sgemm"])
    return "\n".join(
        [
            f"{report['cpu']}, {report['threads']} threads; SGEMM {render_rates(rates)}",
            "",
            f"{'rows':<6}" + "".join(f"{name:>10}" for name in names),
            *(
                f"{row['rows']:<6}" + "".join(f"{row['of_sgemm'][name]:>10.2f}" for name in names)
                for row in report["rows"]
            ),
            f"square product, packed: {report['square']:.2f}",
        ]
    )


if __name__ == "__main__":
    main()
