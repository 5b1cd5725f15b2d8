"""The benchmark of a GPU: on a CPU, where all ways come to the same layers, it tells them apart by their names."""

from argparse import Namespace

import pytest
import torch

from spacy_elmo import formats


@pytest.fixture
def gpu(import_benchmark):
    return import_benchmark("gpu")


def test_a_row_for_each_way(gpu, monkeypatch, data):
    monkeypatch.setattr(gpu, "load", lambda _: formats.load(data / "tiny_2l_skip"))
    sentences = [["one", "and", "one"], ["two"]]
    rows = gpu.measure("bundled", sentences, Namespace(device=torch.device("cpu"), repeats=1, batch_tokens=100))
    assert [(row.way, row.precision) for row in rows] == [
        *((way, precision) for precision in gpu.PRECISIONS for way in (gpu.OURS, gpu.STEP_BY_STEP)),
        (gpu.PLAIN_LOOP, "float32"),
    ]
    for row in rows:
        assert row.off_by < (1e-5 if row.precision == "float32" else 1e-1)
        assert row.cosine > 0.99
        assert row.cold_tokens_per_second > 0
        assert row.milliseconds > 0
    report = {"device": "", "torch": "", "sentences": 2, "tokens": 4, "rows": [vars(row) for row in rows]}
    assert gpu.render(report).count("bundled") == len(rows)


def test_what_sets_layers_apart(gpu):
    one = [torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]).numpy()]
    other = [torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]).numpy()]
    row = gpu.compare("small", Namespace(precision="float32", name="a way"), one, other)
    assert (row.off_by, row.cosine) == pytest.approx((1.0, 0.5**0.5))
