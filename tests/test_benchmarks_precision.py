"""The benchmark of precisions tells them apart by what they are compared in."""

import numpy as np
import pytest

from spacy_elmo import formats


@pytest.fixture
def precision(import_benchmark):
    return import_benchmark("precision")


def test_cosine_is_that_of_each_token_mean_and_lowest(precision):
    one = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    other = np.array([[3.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert precision.cosine(one, other) == pytest.approx(((2 + 0.5**0.5) / 3, 0.5**0.5))


def test_a_row_for_each_precision(precision, monkeypatch, data):
    monkeypatch.setattr(precision, "load", lambda _: formats.load(data / "tiny_2l_skip"))
    sentences = [["one", "and", "one"], ["two"]]
    rows = precision.measure("bundled", sentences, repeats=1, threads=1)
    assert [row.precision for row in rows] == list(precision.PRECISIONS)
    exact, *lower = rows
    assert exact.cosines == [pytest.approx((1.0, 1.0))] * 3
    assert exact.of_float32 == 1.0
    for row in lower:
        assert all(0.9 < lowest <= mean < 1.0 for mean, lowest in row.cosines[1:])
    text = precision.render(
        {"python": "", "cpu": "", "threads": 1, "sentences": 2, "tokens": 4, "rows": [vars(row) for row in rows]}
    )
    assert text.count("bundled") == len(rows)
