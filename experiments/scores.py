"""Compute scores and their standard errors from gold and predicted annotation.

An item's annotation is a list of units: one for each entity (place and label), each word (place and tag), or each text
(its label). So one count of units serves every metric. F1 of all units is the F1 of entities. It is the accuracy if
each word or text has just one unit. The mean of F1 by label is the macro F1 of texts.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Units = Sequence[str]
SAMPLES = 1_000  # samples of a bootstrap


def count(golds: Sequence[Units], predicted: Sequence[Units], is_macro: bool) -> Array:
    """Count units found, wrongly found and missed: `[n_items, n_labels, 3]`; without `is_macro` one label."""
    labels = sorted({unit for units in (*golds, *predicted) for unit in units}) if is_macro else []
    number = {label: position for position, label in enumerate(labels)}
    counts = np.zeros((len(golds), max(len(labels), 1), 3), np.int64)
    for item, (gold, found) in enumerate(zip(map(set, golds), map(set, predicted), strict=True)):
        for kind, units in enumerate((gold & found, found - gold, gold - found)):
            for unit in units:
                counts[item, number.get(unit, 0), kind] += 1
    return counts


def f1(counts: Array) -> Array:
    """Return F1 in percent of sums `[..., n_labels, 3]`, the mean over the labels: `[...]`. 0 if there are no units."""
    found, wrong, missed = np.moveaxis(counts, -1, 0)
    return np.asarray(100 * (2 * found / np.maximum(2 * found + wrong + missed, 1)).mean(-1))


def bootstrap(counts: Array) -> list[float]:
    """Return the scores of samples of the items with replacement.

    The samples are the same for the same number of items, so you can compare two pipelines sample by sample.
    """
    n_items = len(counts)
    times = np.random.default_rng(0).multinomial(n_items, np.full(n_items, 1 / n_items), size=SAMPLES)
    return [round(float(score), 2) for score in f1(np.einsum("si,ilk->slk", times, counts))]


def difference(ours: Mapping[int, dict[str, Any]], others: Mapping[int, dict[str, Any]]) -> tuple[float, float] | None:
    """Return the mean difference of two kinds' scores and its standard error.

    It is taken over the seeds that both have. With one such seed the error is from the bootstrap; without any, the
    result is None.

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
