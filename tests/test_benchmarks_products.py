"""The benchmark of products lets each way do the same product, and gives each its share."""

import pytest
import torch

from spacy_elmo.bilm.packed import _HAS, Float16Product, Float32Product

pytestmark = pytest.mark.skipif(not all(_HAS.values()), reason="torch has no packed products on this processor")


@pytest.fixture
def products(import_benchmark):
    return import_benchmark("products")


def test_all_ways_do_the_same(products, monkeypatch):
    monkeypatch.setattr(products, "N_IN", 8)
    monkeypatch.setattr(products, "N_OUT", 24)
    weights = torch.randn(1, 2, 8, 24)
    packed, halved = ([[kind(one) for one in weights[0]]] for kind in (Float32Product, Float16Product))
    with torch.inference_mode():
        ways = products.make_ways(3, weights, weights.transpose(2, 3).contiguous(), packed, halved)
        results = {name: way(0) for name, way in ways.items()}
    results["left"] = [one.t() for one in results["left"]]
    for name, result in results.items():
        both = result if isinstance(result, torch.Tensor) else torch.stack(list(result))
        assert (both - results["in place"]).abs().max() < (0.02 if name == "float16" else 1e-5), name


def test_a_way_that_takes_twice_as_long_has_half_the_share(products, monkeypatch):
    clock, rates = [0.0], []

    def spend(amount):
        clock[0] += amount

    monkeypatch.setattr(products, "seconds", lambda action: -clock[0] + (action(), clock[0])[1])
    monkeypatch.setattr(products, "sgemm_rate", lambda: 100.0)
    ways = {"fast": lambda layer: spend(0.1), "slow": lambda layer: spend(0.2)}
    shares = products.compare(ways, work=5, repeats=3, rates=rates)
    assert shares == pytest.approx({"fast": 0.5, "slow": 0.25})
    assert rates == [100.0] * 3
