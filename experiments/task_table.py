"""Make the rows and the text of the table of tasks.py from the files of its runs."""

import statistics
from typing import Any

from corpora import TASKS
from harness import render_table
from pipelines import BASELINE, VARIANTS

Record = dict[str, Any]
SPEEDS = ("training_words_per_second", "inference_words_per_second")


def tabulate(records: list[Record]) -> dict[str, Any]:
    """Reduce runs to a row for each task, size and variant; keep the runs, too."""
    sizes = sorted({record["size"] for record in records}, reverse=True)
    groups = ((task, size, variant) for task in TASKS for size in sizes for variant in VARIANTS)
    rows = (make_row(group, records) for group in groups)
    about = {name: distinct(records, name) for name in ("versions", "cpu", "threads")}
    return {**about, "rows": [row for row in rows if row is not None], "runs": records}


def distinct(records: list[Record], name: str) -> list[Any]:
    """Return the distinct values that the runs have under a name."""
    found: list[Any] = []
    for record in records:
        if record[name] not in found:
            found.append(record[name])
    return found


def make_row(group: tuple[str, int, str], records: list[Record]) -> dict[str, Any] | None:
    """Reduce the runs of a task, size and variant to means; None if there are no runs."""
    if not (found := runs_of(group, records)):
        return None
    (task, size, variant), scores = group, scores_of(found)
    weights, gamma = mean_mix(found)
    return {
        "task": task,
        "size": size,
        "variant": variant,
        "metric": TASKS[task].metric_name,
        "updates": found[0]["updates"],
        "train_items": found[0]["train_items"],
        "best_update": statistics.fmean(record["best_update"] for record in found),
        "seeds": sorted(scores),
        "score": statistics.fmean(scores.values()),
        "sd": statistics.stdev(scores.values()) if len(scores) > 1 else None,
        "over_tok2vec": None if variant == BASELINE else gain(scores, runs_of((task, size, BASELINE), records)),
        # Medians, because a busy machine can lower the speed of one run.
        **{name: float(statistics.median(record[name] for record in found)) for name in SPEEDS},
        "layer_weights": weights,
        "gamma": gamma,
    }


def scores_of(records: list[Record]) -> dict[int, float]:
    """Return the scores in percent, by seed."""
    return {record["seed"]: 100 * record["score"] for record in records}


def gain(scores: dict[int, float], baseline: list[Record]) -> float | None:
    """Return the mean difference to the baseline, over the seeds that both have."""
    differences = [scores[seed] - score for seed, score in scores_of(baseline).items() if seed in scores]
    return statistics.fmean(differences) if differences else None


def mean_mix(records: list[Record]) -> tuple[list[float] | None, float | None]:
    """Return mean weights of the layers and mean gamma; None if no mix was learned."""
    mixes = [record["mix"] for record in records if record["mix"]]
    if not mixes:
        return None, None
    layers = zip(*(mix["weights"] for mix in mixes), strict=True)
    return [statistics.fmean(layer) for layer in layers], statistics.fmean(mix["gamma"] for mix in mixes)


def runs_of(group: tuple[str, int, str], records: list[Record]) -> list[Record]:
    """Return the runs of a task, size and variant."""
    return [record for record in records if (record["task"], record["size"], record["variant"]) == group]


def render(report: dict[str, Any]) -> str:
    """Format the report as text."""
    if not report["rows"]:
        return "no runs"
    about = [f"{name}: {report[name]}" for name in ("versions", "cpu", "threads", "weights", "digest", "encoders")]
    return "\n".join([*about, "", *render_table([shown_row(row) for row in report["rows"]])])


def shown_row(row: dict[str, Any]) -> dict[str, Any]:
    """Format a row for the table."""
    return {
        "task": row["task"],
        "data": f"{row['size']}%",
        "metric": row["metric"],
        "variant": row["variant"],
        "score": f"{row['score']:.2f}" + (f" ± {row['sd']:.2f}" if row["sd"] is not None else ""),
        "over tok2vec": "" if row["over_tok2vec"] is None else f"{row['over_tok2vec']:+.2f}",
        "seeds": len(row["seeds"]),
        "best at": f"{row['best_update']:.0f}/{row['updates']}",
        "words/s, training": row["training_words_per_second"],
        "inference": row["inference_words_per_second"],
        "layer weights": " ".join(f"{weight:.2f}" for weight in row["layer_weights"] or []),
        "gamma": "" if row["gamma"] is None else f"{row['gamma']:.2f}",
    }
