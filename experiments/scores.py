"""Gold and predicted annotation in, scores and their standard errors out.

An item's annotation is a list of units: one for each entity (place and label), each word (place and tag), or each text
(its label). So one count of units serves every metric: F1 of all units is F1 of entities, and accuracy where each word
or text has just one; the mean of F1 by label is the macro F1 of texts.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Units = Sequence[str]
SAMPLES = 1_000  # of a bootstrap


def count(golds: Sequence[Units], predicted: Sequence[Units], is_macro: bool) -> Array:
    """Units found, found wrongly and missed: `[n_items, n_labels, 3]`; one label where not `is_macro`."""
    labels = sorted({unit for units in (*golds, *predicted) for unit in units}) if is_macro else []
    number = {label: position for position, label in enumerate(labels)}
    counts = np.zeros((len(golds), max(len(labels), 1), 3), np.int64)
    for item, (gold, found) in enumerate(zip(map(set, golds), map(set, predicted), strict=True)):
        for kind, units in enumerate((gold & found, found - gold, gold - found)):
            for unit in units:
                counts[item, number.get(unit, 0), kind] += 1
    return counts


def f1(counts: Array) -> Array:
    """F1 in percent of sums `[..., n_labels, 3]`, the mean over the labels: `[...]`. 0 where there is nothing."""
    found, wrong, missed = np.moveaxis(counts, -1, 0)
    return np.asarray(100 * (2 * found / np.maximum(2 * found + wrong + missed, 1)).mean(-1))


def bootstrap(counts: Array) -> list[float]:
    """Scores of samples of the items with replacement; the same samples for as many items, so that two pipelines can be
    compared sample by sample."""
    n_items = len(counts)
    times = np.random.default_rng(0).multinomial(n_items, np.full(n_items, 1 / n_items), size=SAMPLES)
    return [round(float(score), 2) for score in f1(np.einsum("si,ilk->slk", times, counts))]


def difference(ours: Mapping[int, dict[str, Any]], others: Mapping[int, dict[str, Any]]) -> tuple[float, float] | None:
    """Mean difference of two kinds' scores and its standard error: over the seeds that both have, or by the bootstrap
    where that is one; None where it is none.

    ours, others: records by seed, with `score` and `bootstrap`.
    """
    seeds = sorted(ours.keys() & others.keys())
    if not seeds:
        return None
    differences = [ours[seed]["score"] - others[seed]["score"] for seed in seeds]
    if len(seeds) > 1:
        error = statistics.stdev(differences) / len(seeds) ** 0.5
    else:
        samples = (record[seeds[0]]["bootstrap"] for record in (ours, others))
        error = statistics.stdev(one - other for one, other in zip(*samples, strict=True))
    return statistics.fmean(differences), error
