"""What the runs of tasks.py left in, the rows and the text of its table out."""

import statistics
from typing import Any

from common import render_rates
from corpora import TASKS
from pipelines import BASELINE, VARIANTS

Record = dict[str, Any]


def tabulate(records: list[Record]) -> dict[str, Any]:
    """Reduce runs to a row for each task, size and variant; keep them beside it."""
    groups = ((task, size, variant) for task in TASKS for size in sizes_of(records) for variant in VARIANTS)
    rows = (make_row(group, records) for group in groups)
    return {
        "versions": distinct(records, "versions"),
        "cpu": distinct(records, "cpu"),
        "threads": distinct(records, "threads"),
        "sgemm_gflops": [record["sgemm_gflops"] for record in records],
        "rows": [row for row in rows if row is not None],
        "runs": records,
    }


def sizes_of(records: list[Record]) -> list[int]:
    """Sizes of the training data, the largest first."""
    return sorted({record["size"] for record in records}, reverse=True)


def distinct(records: list[Record], name: str) -> list[Any]:
    """What the runs have under a name, each once."""
    found: list[Any] = []
    for record in records:
        if record[name] not in found:
            found.append(record[name])
    return found


def make_row(group: tuple[str, int, str], records: list[Record]) -> dict[str, Any] | None:
    """Reduce the runs of a task, size and variant to means; None where there are none."""
    found = runs_of(group, records)
    if not found:
        return None
    task, size, variant = group
    scores = scores_of(found)
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
        "training_words_per_second": median_of(found, "training_words_per_second"),
        "inference_words_per_second": median_of(found, "inference_words_per_second"),
        "layer_weights": weights,
        "gamma": gamma,
    }


def scores_of(records: list[Record]) -> dict[int, float]:
    """Scores in percent, by seed."""
    return {record["seed"]: 100 * record["score"] for record in records}


def gain(scores: dict[int, float], baseline: list[Record]) -> float | None:
    """Mean difference to the baseline, over the seeds that both have."""
    differences = [scores[seed] - score for seed, score in scores_of(baseline).items() if seed in scores]
    return statistics.fmean(differences) if differences else None


def mean_mix(records: list[Record]) -> tuple[list[float] | None, float | None]:
    """Mean weights of the layers and mean gamma; None where no mix is learned."""
    mixes = [record["mix"] for record in records if record["mix"]]
    if not mixes:
        return None, None
    layers = zip(*(mix["weights"] for mix in mixes), strict=True)
    return [statistics.fmean(layer) for layer in layers], statistics.fmean(mix["gamma"] for mix in mixes)


def runs_of(group: tuple[str, int, str], records: list[Record]) -> list[Record]:
    """The runs of a task, size and variant."""
    return [record for record in records if (record["task"], record["size"], record["variant"]) == group]


def median_of(records: list[Record], name: str) -> float:
    """Median of a number over runs: of a speed, which a busy machine may lower in one of them."""
    return float(statistics.median(record[name] for record in records))


def render(report: dict[str, Any]) -> str:
    """Lay the report out as text."""
    if not report["rows"]:
        return "no runs"
    rates = report["sgemm_gflops"]
    lines = [
        *(", ".join(f"{name} {version}" for name, version in one.items()) for one in report["versions"]),
        f"{'; '.join(report['cpu'])}; threads {', '.join(map(str, report['threads']))}; SGEMM " + render_rates(rates),
        f"weights {report['weights']} ({report['digest'][:12]}); width and depth of the encoder: "
        + ", ".join(f"{component} {width}, {depth}" for component, (width, depth) in report["encoders"].items()),
        "",
        f"{'over':>64}{'best at':>17}{'words/s':>20}",
        "task       size  metric    variant             score   tok2vec  seeds     update  training  inference"
        "  layer weights     gamma",
        *(render_row(row) for row in report["rows"]),
    ]
    return "\n".join(lines)


def render_row(row: dict[str, Any]) -> str:
    """Lay one row out as text."""
    score = f"{row['score']:.2f}" + (f" ± {row['sd']:.2f}" if row["sd"] is not None else "")
    over = "" if row["over_tok2vec"] is None else f"{row['over_tok2vec']:+.2f}"
    layers = " ".join(f"{weight:.2f}" for weight in row["layer_weights"] or [])
    gamma = "" if row["gamma"] is None else f"{row['gamma']:.2f}"
    return (
        f"{row['task']:<10} {row['size']:>3}%  {row['metric']:<9} {row['variant']:<15}{score:>14}{over:>10}"
        f"{len(row['seeds']):>7}{row['best_update']:>6.0f}/{row['updates']:<5}"
        f"{row['training_words_per_second']:>9.0f}{row['inference_words_per_second']:>11.0f}"
        f"  {layers:<16}{gamma:>7}"
    ).rstrip()
