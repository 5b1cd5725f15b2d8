"""Products with packed weights against plain ones, and when they are used."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spacy_elmo.bilm import packed
from spacy_elmo.bilm.packed import MIN_PACKED_ROWS, Packed, PackedProduct

pytestmark = pytest.mark.skipif(not packed._is_available, reason="torch has no packed products on this processor")


@given(
    rows=st.integers(1, 70),
    n_in=st.integers(1, 40),
    n_out=st.integers(1, 40),
    has_bias=st.booleans(),
    how=st.sampled_from([{}, {"activation": "relu"}, {"activation": "sigmoid"}, {"limit": 0.5}]),
    seed=st.integers(0, 1000),
)
def test_a_product_is_that_of_float64(rows, n_in, n_out, has_bias, how, seed):
    generator = torch.Generator().manual_seed(seed)
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((rows, n_in), (n_in, n_out), (n_out,)))
    kept = x.clone()
    ours = PackedProduct(weight, bias if has_bias else None, **how)(x)
    expected = x.double() @ weight.double() + (bias.double() if has_bias else 0)
    if limit := how.get("limit"):
        expected = expected.clamp(-limit, limit)
    elif activation := how.get("activation"):
        expected = getattr(torch, activation)(expected)
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1e-5)
    assert torch.equal(x, kept)


def test_a_product_does_not_follow_its_weight():
    weight, bias, x = torch.ones(3, 2), torch.ones(2), torch.ones(4, 3)
    product = PackedProduct(weight, bias)
    weight.zero_(), bias.zero_()
    assert torch.equal(product(x), torch.full((4, 2), 4.0))


@pytest.fixture
def parameter():
    return torch.nn.Parameter(torch.ones(2, 2), requires_grad=False)


@pytest.fixture
def get(parameter):
    """Ask a holder for the sum of the parameter; `get.rows` sets how many rows are to be multiplied."""
    holder = Packed()

    @torch.no_grad()
    def get(rows=MIN_PACKED_ROWS, dtype=torch.float32, which=holder):
        return which.get(torch.ones(rows, 2, dtype=dtype), [parameter], lambda: parameter.sum().item())

    get.holder = holder
    return get


def test_content_is_kept_until_the_parameters_change(get, parameter):
    contents = [get(), get()]
    with torch.no_grad():
        parameter.mul_(2)
    assert [*contents, get()] == [4, 4, 8]


def test_few_rows_other_types_and_gradients_use_plain_products(get, parameter):
    assert get(rows=MIN_PACKED_ROWS - 1) is None
    assert get(dtype=torch.float64) is None
    x = torch.ones(MIN_PACKED_ROWS, 2)
    with torch.enable_grad():
        assert get.holder.get(x, [parameter], lambda: 1) is None


def test_training_forgets_the_content_even_where_the_optimizer_leaves_no_trace(get, parameter):
    assert get() == 4
    parameter.requires_grad_()
    assert get() is None
    parameter.data.mul_(2)  # no new version
    parameter.requires_grad_(False)
    assert get() == 8


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_start_empty(get, parameter, duplicate):
    get()
    copied = duplicate(get.holder)
    assert copied._content is None
    assert get(which=copied) == 4
