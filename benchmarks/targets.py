"""Tables of a level in, what the project has set itself to reach there and what is reached out.

Peers are the other projects' engines, without the plain loop; the best peer is the one that is best in the row at hand.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from harness import Row

OURS, PLAIN_LOOP = "spacy-elmo", "plain loop"
MARGIN = 0.05  # within it a target is met

# By size where they differ by size: AVX2, AVX-512.
SINGLE = {"original": (0.6, 0.48), "small": (0.40, 0.45), "bundled": (0.40, 0.45)}  # time over the best peer's
SHARE = {"original": (0.80, 0.84), "small": (0.62, 0.64), "bundled": (0.62, 0.64)}  # of the faster large product
TIMES = {"original": (3.3, 3.5), "small": (9, 7), "bundled": (6, 5)}  # the speed of the best peer
MEMORY = {"original": (0.95, 0.95), "small": (0.45, 0.45), "bundled": (0.55, 0.55)}  # peak over the best peer's
MINILM = (3.5, 4.4)  # ELMo and NER over MiniLM and NER, words/s
GATES = (0.6, 0.6)  # compiled over torch's operators
BUSY, IDLE = (1.2, 1.2), (1.05, 1.05)  # default settings over threads = 1 and threads = 2
LEVELS = ("avx2", "avx512")


def targets(tables: Mapping[str, Sequence[Row]], level: str | None) -> list[Row]:
    """The targets of a level that these tables can tell about."""
    if level not in LEVELS:
        return []
    column = LEVELS.index(level)
    checks: dict[str, Callable[[Sequence[Row], int], Iterator[Row]]] = {
        "encode": encode_targets,
        "pipeline": pipeline_targets,
        "gates": gates_targets,
        "threads": threads_targets,
        "train": train_targets,
    }
    return [row for name, check in checks.items() if name in tables for row in check(tables[name], column)]


def encode_targets(rows: Sequence[Row], column: int) -> Iterator[Row]:
    """Of single sentences and the stream, and its memory."""
    for ours in (row for row in rows if row["engine"] == OURS):
        peers = [one for one in rows if one["engine"] not in (OURS, PLAIN_LOOP) and _same_race(one, ours)]
        peers = [one for one in peers if not one["engine"].startswith(OURS)]  # nor ours in another precision
        size, case = ours["size"], ours["case"]
        if case == "stream":
            reached = ours["of product"]
            yield at_least(f"{size}, stream: share of the faster 2048 product", SHARE[size][column], reached)
        if not peers:
            continue
        best = min(peers, key=lambda row: row["times"])
        if case == "stream":
            name = f"{size}, stream: times the best peer ({best['engine']})"
            yield at_least(name, TIMES[size][column], best["times"])
        if case == "single":
            name = f"{size}, one sentence: time over the best peer's ({best['engine']})"
            yield at_most(name, SINGLE[size][column], 1 / best["times"])
        peaks = {row["engine"]: row["peak MiB"] for row in peers if row.get("peak MiB")}
        if case == "stream" and peaks and ours.get("peak MiB"):
            engine = min(peaks, key=lambda name: peaks[name])
            name = f"{size}, stream: peak memory over the best peer's ({engine})"
            yield at_most(name, MEMORY[size][column], ours["peak MiB"] / peaks[engine])


def _same_race(row: Row, other: Row) -> bool:
    return (row["size"], row["case"]) == (other["size"], other["case"])


def pipeline_targets(rows: Sequence[Row], column: int) -> Iterator[Row]:
    """Of whole pipelines."""
    for row in rows:
        if row["pipeline"] == "minilm":
            yield at_least("ELMo + NER over MiniLM + NER, words/s", MINILM[column], row["times"])


def gates_targets(rows: Sequence[Row], column: int) -> Iterator[Row]:
    """Of the update of the gates."""
    for row in rows:
        name = f"gates of {row['rows']} x {row['dim']}: compiled over torch's operators, time"
        yield at_most(name, GATES[column], row["ratio"])


def threads_targets(rows: Sequence[Row], column: int) -> Iterator[Row]:
    """Of one sentence with default settings."""
    limits = {("busy", "threads = 1"): BUSY, ("idle", "threads = 2"): IDLE}
    for row in rows:
        if limit := limits.get((row["machine"], row["setting"])):
            name = f"{row['size']}, one sentence, {row['machine']} machine: default over {row['setting']}, time"
            yield at_most(name, limit[column], row["default over it"])


def train_targets(rows: Sequence[Row], column: int) -> Iterator[Row]:
    """Of pretraining, printed only."""
    for row in rows:
        if row["times"] is not None:
            yield target(f"{row['model']}, pretraining step: times the plain one", "(none set)", row["times"], None)


def at_least(name: str, limit: float, reached: float) -> Row:
    """A number that shall not be smaller."""
    return target(name, f"at least {limit:.2f}", reached, reached >= limit * (1 - MARGIN))


def at_most(name: str, limit: float, reached: float) -> Row:
    """A number that shall not be larger."""
    return target(name, f"at most {limit:.2f}", reached, reached <= limit * (1 + MARGIN))


def target(name: str, wanted: str, reached: float, is_met: bool | None) -> Row:
    """A line of the table of targets."""
    return {"target": name, "wanted": wanted, "reached": reached, "": {True: "met", False: "MISSED", None: ""}[is_met]}
