"""Compares the tables of a level with the targets of the project.

Peers are the engines of other projects, without the plain loop. The best peer is the one that is best in the same row.
"""

from collections.abc import Iterator, Mapping, Sequence

from harness import Row

OURS, PLAIN_LOOP = "spacy-elmo", "plain loop"
MARGIN = 0.05  # a target is met within this margin
LEVELS = ("avx2", "avx512")

# Targets for AVX2 and AVX-512, by size if they differ. SHARE, TIMES and MINILM are minima. The others are maxima.
SINGLE = {"original": (0.6, 0.48), "small": (0.40, 0.45), "bundled": (0.40, 0.45)}  # Time over the best peer's.
SHARE = {"original": (0.80, 0.84), "small": (0.62, 0.64), "bundled": (0.62, 0.64)}  # Of the faster large product.
TIMES = {"original": (3.3, 3.5), "small": (9, 7), "bundled": (6, 5)}  # The speed of the best peer.
MEMORY = {"original": (0.95, 0.95), "small": (0.45, 0.45), "bundled": (0.55, 0.55)}  # Peak over the best peer's.
MINILM = (2.5, 2.5)  # ELMo and NER over MiniLM and NER, words/s. Lower than for the first, smaller bundled model.
GATES = (0.6, 0.6)  # Compiled over torch's operators.
THREADS = {("busy", "threads = 1"): (1.2, 1.2), ("idle", "threads = 2"): (1.05, 1.05)}  # Default settings over these.

Limits = Sequence[float]
Found = tuple[str, str, Limits | None, float, tuple[str, str] | None]


def targets(tables: Mapping[str, Sequence[Row]], level: str | None) -> list[tuple[Row, tuple[str, str] | None]]:
    """Return the targets of a level that these tables cover, each with the size and case that it belongs to."""
    if level not in LEVELS:
        return []
    column, rows = LEVELS.index(level), []
    for name, sign, limits, reached, behind in find(tables):
        wanted, verdict = "(none set)", ""
        if limits:
            limit = limits[column]
            is_met = reached >= limit * (1 - MARGIN) if sign == "at least" else reached <= limit * (1 + MARGIN)
            wanted, verdict = f"{sign} {limit:.2f}", "met" if is_met else "MISSED"
        rows.append(({"target": name, "wanted": wanted, "reached": reached, "": verdict}, behind))
    return rows


def find(tables: Mapping[str, Sequence[Row]]) -> Iterator[Found]:
    """Yield the name of each target, "at least" or "at most", its limits, what is reached, and its size and case."""
    for row in tables.get("encode", ()):
        if row["side"] == OURS and row["size"] in SHARE:
            yield from find_encoding(row, tables["encode"])
    for row in tables.get("pipeline", ()):
        if row["side"] == "minilm":
            yield "ELMo + NER over MiniLM + NER, words/s", "at least", MINILM, row["times"], ("bundled", "stream")
    for row in tables.get("threads", ()):
        if limits := THREADS.get((row["machine"], row["side"])):
            name = f"{row['size']}, one sentence, {row['machine']} machine: default over {row['side']}, time"
            yield name, "at most", limits, 1 / row["times"], (row["size"], "single")
    for row in tables.get("gates", ()):
        name = f"gates of {row['rows']} x {row['dim']}: compiled over torch's operators, time"
        yield name, "at most", GATES, row["ratio"], None
    for row in tables.get("train", ()):
        if row["side"] == "plain step":
            yield f"{row['size']}, pretraining step: times the plain one", "", None, row["times"], None


def find_encoding(ours: Row, rows: Sequence[Row]) -> Iterator[Found]:
    """Yield the targets of single sentences, of the stream, and of its memory."""
    size, case = behind = ours["size"], ours["case"]
    peers = [row for row in rows if (row["size"], row["case"]) == behind and row["side"] != PLAIN_LOOP]
    peers = [row for row in peers if not row["side"].startswith(OURS)]  # not our engine in another precision
    best = min(peers, key=lambda row: row["times"], default=None)
    if best and case == "single":
        name = f"{size}, one sentence: time over the best peer's ({best['side']})"
        yield name, "at most", SINGLE[size], 1 / best["times"], behind
    if case == "stream":
        yield f"{size}, stream: share of the faster 2048 product", "at least", SHARE[size], ours["of product"], behind
    if best and case == "stream":
        name = f"{size}, stream: times the best peer ({best['side']})"
        yield name, "at least", TIMES[size], best["times"], behind
        if ours["peak MiB"]:
            least = min(peers, key=lambda row: row["peak MiB"])
            name = f"{size}, stream: peak memory over the best peer's ({least['side']})"
            yield name, "at most", MEMORY[size], ours["peak MiB"] / least["peak MiB"], None
