"""Products with packed weights, compared with plain ones."""

import os
import subprocess
import sys
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spacy_elmo.bilm.products import _HAS, PRODUCTS, Int8Product, Precision, _fill_up

pytestmark = pytest.mark.skipif(not all(_HAS.values()), reason="torch has no packed products on this processor")


TOLERANCES = {"float32": 1e-5, "float16": 2e-2}  # for sums of up to 40 products of normal numbers


def int8_tolerance(x, weight):
    """Return six standard deviations of the rounding error of the sums, `[rows, n_out]`. Each number is off by up to
    half a step. A step belongs to a column of the weight, or to a row of x."""
    largest = Int8Product._LARGEST  # half as large without VNNI
    of_weight = weight.abs().amax(0) / largest * x.pow(2).sum(1, keepdim=True).sqrt()
    of_x = x.abs().amax(1, keepdim=True) / 127 * weight.pow(2).sum(0).sqrt()
    return 6 * ((of_weight.pow(2) + of_x.pow(2)) / 12).sqrt() + 1e-5


@given(precision=st.sampled_from(get_args(Precision)), drawn=st.data())
def test_a_product_is_that_of_float64(strategies, slowly, precision, drawn):
    x, weight, bias, how = drawn.draw(strategies.operands(rows=70, n_in=40, n_out=40))
    x[0] = 0
    kept = x.clone()
    found, expected = PRODUCTS[precision](weight, bias, **how)(x), slowly.product(x, weight, bias, **how)
    tolerance = int8_tolerance(x, weight) if precision == "int8" else TOLERANCES[precision]
    assert ((found - expected).abs() <= tolerance).all()
    assert torch.equal(x, kept)


@pytest.mark.parametrize("precision", get_args(Precision))
@pytest.mark.parametrize("n_in", [7, 256])
def test_a_row_is_the_same_in_any_company(precision, n_in):
    """Also next to rows a thousand times as large."""
    generator = torch.Generator().manual_seed(0)
    product = PRODUCTS[precision](torch.randn(n_in, 300, generator=generator) / n_in**0.5)
    x = torch.randn(50, n_in, generator=generator) * torch.logspace(0, 3, 50)[:, None]
    for rows in (1, 3, 20):
        torch.testing.assert_close(product(x[:rows]), product(x)[:rows], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_in", [7, 128, 512, 1024, 4096])
@pytest.mark.parametrize("n_out", [13, 512])
def test_a_row_of_usual_size_is_the_same_in_any_company(n_in, n_out):
    generator = torch.Generator().manual_seed(0)
    product = PRODUCTS["float32"](torch.randn(n_in, n_out, generator=generator) / n_in**0.5, limit=3.0)
    x = torch.randn(100, n_in, generator=generator)
    for rows in (1, 2, 3, 7, 8, 9, 33):
        torch.testing.assert_close(product(x[:rows]), product(x)[:rows], rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", get_args(Precision))
def test_a_product_does_not_follow_its_weight(precision):
    weight, bias, x = torch.ones(3, 2), torch.ones(2), torch.ones(4, 3)
    product = PRODUCTS[precision](weight, bias)
    weight.zero_(), bias.zero_()
    torch.testing.assert_close(product(x), torch.full((4, 2), 4.0))


def test_int8_is_right_without_vnni():
    """Without VNNI, two products are added in 16 bits. Large weights and inputs of one sign would overflow."""
    code = """
import torch
from spacy_elmo.bilm.products import Int8Product
generator = torch.Generator().manual_seed(0)
weight, x = torch.rand(512, 64, generator=generator), torch.rand(20, 512, generator=generator)
error = (Int8Product(weight)(x) - x @ weight).norm() / (x @ weight).norm()
assert error < 0.005, error
"""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_onednn_meets_few_numbers_of_rows():
    """There are at most sixteen between a number and twice that number, because oneDNN makes a kernel for each."""
    for start in (32, 64, 128, 1024):
        met = {len(_fill_up(torch.zeros(rows, 1))) for rows in range(start, 2 * start)}
        assert len(met) <= 17
    assert all(len(_fill_up(torch.zeros(rows, 1))) >= rows for rows in range(1, 300))
