"""Rows of a table in, what the project has set itself to reach and what is reached out.

Peers are the other projects' engines, without the plain loop; the best peer is the one that is best in the row at hand.
"""

from collections.abc import Iterator, Sequence

from engines import OURS, PLAIN_LOOP
from inference_table import Row
from targets import Target, above, at_least, at_most, below

OF_SGEMM = 0.8  # original, stream
TIMES_ALLENNLP = {"original": 3.0, "small": 8.0}  # stream
LATENCY = {"original": 0.6, "small": 0.5, "bundled": 0.5}  # single, over the best peer's
LONG_MEMORY = 1e9  # bytes over the model, small
ALLENNLP = ("allennlp", "simple-elmo-pytorch")  # the second is a copy, for where the first does not run


def targets(rows: Sequence[Row]) -> Iterator[Target]:
    """Yield the targets that these rows can tell about."""
    table = {(row.size, row.shape, row.engine): row for row in rows}
    for row in rows:
        if row.engine == OURS:
            peers = [one for one in rows if one.engine not in (OURS, PLAIN_LOOP) and same_race(one, row)]
            yield from targets_alone(row)
            yield from targets_beside_peers(row, peers)
    for size, times in TIMES_ALLENNLP.items():
        found = [table[size, "stream", name] for name in ALLENNLP if (size, "stream", name) in table]
        if found and found[0].ratio is not None:
            name = f"{size}, stream: times the speed of AllenNLP's code ({found[0].engine})"
            yield at_least(name, times, found[0].ratio)


def same_race(row: Row, other: Row) -> bool:
    """Whether two rows are of the same size and shape."""
    return (row.size, row.shape) == (other.size, other.shape)


def targets_alone(ours: Row) -> Iterator[Target]:
    """Targets for which no peer is needed."""
    if (ours.size, ours.shape) == ("original", "stream"):
        yield at_least("original, stream: share of the SGEMM rate", OF_SGEMM, ours.of_sgemm)
    if (ours.size, ours.shape) == ("small", "long") and ours.memory_over_model is not None:
        yield below("small, long: GB of memory over the model", LONG_MEMORY / 1e9, ours.memory_over_model / 1e9)


def targets_beside_peers(ours: Row, peers: Sequence[Row]) -> Iterator[Target]:
    """Targets that name the best peer of the same size and shape."""
    place = f"{ours.size}, {ours.shape}"
    ratios = {row.engine: row.ratio for row in peers if row.ratio is not None}
    if ratios:
        best = min(ratios, key=lambda engine: ratios[engine])
        yield above(f"{place}: times the speed of the best peer ({best})", 1.0, ratios[best])
        if ours.shape == "single":
            yield at_most(f"{place}: time over the best peer's ({best})", LATENCY[ours.size], 1 / ratios[best])
    peaks = {row.engine: row.peak_memory for row in peers if row.peak_memory is not None}
    if peaks and ours.peak_memory is not None:
        best = min(peaks, key=lambda engine: peaks[engine])
        yield below(f"{place}: peak memory over the best peer's ({best})", 1.0, ours.peak_memory / peaks[best])
