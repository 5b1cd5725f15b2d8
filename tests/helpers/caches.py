"""Sentences of one word each, and rows that follow from the sentence's number."""

import numpy as np

from spacy_elmo.pipeline.cache import Cache

WIDTH = 10
N_TOKENS = 3
ROW = WIDTH * 4


def rows_of(number):
    """Return the rows of a number."""
    return np.random.default_rng(number).normal(size=(N_TOKENS, WIDTH)).astype("f")


def key_of(number):
    """Return the key of a number's sentence."""
    return Cache(0).key([f"w{number}"])


def fill(cache, numbers):
    """Put the rows of these numbers, one after the other."""
    for number in numbers:
        cache.put({key_of(number): rows_of(number)})


def get(cache, number):
    """Return the cached rows of a number, or None."""
    return dict(cache.get({key_of(number): N_TOKENS}, WIDTH)).get(key_of(number))


def found(cache, numbers):
    """Return the numbers that are in the cache, and check that their rows are right."""
    keys = {key_of(number): number for number in numbers}
    there = dict(cache.get(dict.fromkeys(keys, N_TOKENS), WIDTH))
    for key, rows in there.items():
        np.testing.assert_array_equal(rows, rows_of(keys[key]))
    return [number for key, number in keys.items() if key in there]
