"""Reduces the ELMo vectors of a Doc or Span to one: mean, maximum or weighted mean over its tokens.

Tokens without a vector (white space) do not count. If no token has a vector, the result is zero. `doc.vector` and
`span.vector` are the mean.
"""

from collections.abc import Callable, Mapping

import numpy as np
from spacy.tokens import Doc, Span, Token

from spacy_elmo.errors import ElmoError
from spacy_elmo.pipeline.annotations import Vector, elmo_vector

Weigh = Callable[[Token], float]


def mean_vector(item: Doc | Span) -> Vector:
    """Return the mean, `[width]` float32.

    Raises:
        ElmoError: `item` has no ELMo vectors.
    """
    return elmo_vector(item)


def max_vector(item: Doc | Span) -> Vector:
    """Return the largest value of each dimension, `[width]` float32.

    Raises:
        ElmoError: `item` has no ELMo vectors.
    """
    if not (mean := mean_vector(item)).any():
        return mean
    rows = item._.elmo
    largest: Vector = rows[rows.any(axis=1)].max(axis=0)
    return largest


def weighted_vector(item: Doc | Span, weigh: Weigh) -> Vector:
    """Return the mean with a weight per token, `[width]` float32; zero if all weights are 0.

    weigh: returns the weight of a token, at least 0: `smooth_inverse_frequency(counts)`, or any function such as
        `lambda token: token.pos_ == "NOUN"`.

    Raises:
        ElmoError: `item` has no ELMo vectors, or a weight is negative or not a number.
    """
    if not (mean := mean_vector(item)).any():
        return mean
    weights = np.array([weigh(token) for token in item], dtype=np.float64)
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ElmoError(f"weights of {item.text[:40]!r}: expected numbers of at least 0, got {weights.tolist()}")
    rows = item._.elmo
    weights *= rows.any(axis=1)
    weighted: Vector = (weights @ rows / (weights.sum() or 1.0)).astype(np.float32)
    return weighted


def smooth_inverse_frequency(counts: Mapping[str, int], a: float = 1e-3) -> Weigh:
    """Return weights a / (a + p(word)), so that frequent words count less (Arora et al. 2017, but without removing the
    first principal component).

    counts: how often each word occurs, as in `collections.Counter(words)`; a missing word has weight 1.

    Raises:
        ElmoError: there are no counts, or `a` is not above 0.
    """
    total = sum(counts.values())
    if not (total > 0 and a > 0):
        raise ElmoError(f"weights by frequency need counts and a > 0, got {total} words and a = {a}")
    return lambda token: a / (a + counts.get(token.text, 0) / total)
