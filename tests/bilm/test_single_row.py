import platform
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_elmo.bilm import BiLM, BiLMOptions, CharCNNOptions, LSTMOptions, single_row
from spacy_elmo.bilm.lstm import BidirectionalLSTMLayer

needs_compiled = pytest.mark.skipif(single_row._compiled is None, reason="built without a C compiler")


def make_layer(dim, width, cell_clip=3.0, proj_clip=3.0, scale=1.0, seed=0):
    layer = BidirectionalLSTMLayer(width, dim, width, cell_clip, proj_clip).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale / width**0.5)
    return layer


def run_both(layer, x, state=None):
    """Outputs and states through the compiled part and through torch's operators."""
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        compiled = layer(x, [1] * x.shape[1], state)
        patch.setattr(single_row, "_compiled", None)
        plain = layer(x, [1] * x.shape[1], state)
    return compiled, plain


def assert_equal(compiled, plain, tolerance=1e-5):
    (y, (hidden, cell)), (plain_y, (plain_hidden, plain_cell)) = compiled, plain
    torch.testing.assert_close(y, plain_y, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(hidden, plain_hidden, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(cell, plain_cell, atol=tolerance, rtol=tolerance)


HEADER = Path(sysconfig.get_path("include")) / "Python.h"


@pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="for x86-64 Linux only")
@pytest.mark.skipif(shutil.which("gcc") is None or not HEADER.exists(), reason="no GCC, or no Python.h")
def test_it_is_built_where_there_is_a_compiler():
    assert single_row._compiled is not None, f"not built for {sys.version}: see what pip install -v says"


@needs_compiled
@settings(deadline=None, max_examples=40)
@given(
    dim=st.integers(1, 150),
    width=st.integers(1, 140),
    steps=st.integers(1, 7),
    clips=st.tuples(*[st.none() | st.floats(0.05, 3.0)] * 2),
    with_state=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_equals_torchs_operators(dim, width, steps, clips, with_state, seed):
    layer = make_layer(dim, width, *clips, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, steps, width, generator=generator)
    state = None
    if with_state:
        state = (torch.rand(2, 1, width, generator=generator), torch.rand(2, 1, dim, generator=generator))
    assert_equal(*run_both(layer, x, state))


@needs_compiled
def test_the_state_goes_on_from_block_to_block():
    layer = make_layer(256, 16, scale=0.3)  # blocks of 128 steps
    assert_equal(*run_both(layer, torch.randn(2, 300, 16, generator=torch.Generator().manual_seed(1))))


@needs_compiled
@pytest.mark.parametrize("scale", [50.0, 1e6])
def test_saturated_gates_stay_exact(scale):
    layer = make_layer(40, 8, scale=scale)
    assert_equal(*run_both(layer, torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(1))), tolerance=1e-4)


@needs_compiled
def test_nan_is_not_hidden():
    layer = make_layer(40, 8)
    x = torch.randn(2, 5, 8)
    x[0, 2, 3] = float("nan")
    compiled, plain = run_both(layer, x)
    assert torch.equal(compiled[0].isnan(), plain[0].isnan())
    assert compiled[0][0, 2:].isnan().all()
    assert not compiled[0][1].isnan().any()


@needs_compiled
def test_the_given_state_is_left_as_it_was():
    layer = make_layer(40, 8)
    state = (torch.rand(2, 1, 8), torch.rand(2, 1, 40))
    before = [part.clone() for part in state]
    run_both(layer, torch.randn(2, 5, 8), state)
    assert all(map(torch.equal, state, before))


@needs_compiled
def test_a_state_of_another_layout_and_type_is_read_as_it_is():
    layer = make_layer(40, 8)
    state = (torch.rand(1, 8, 2).permute(2, 0, 1), torch.rand(40, 1, 2, dtype=torch.float64).permute(2, 1, 0))
    assert_equal(*run_both(layer, torch.randn(2, 5, 8), state))


@needs_compiled
def test_tensors_that_do_not_fit_are_refused():
    row = single_row.SingleRow(torch.zeros(8, 160), torch.zeros(40, 8), 3.0, 3.0)
    good = [torch.zeros(5, 160), torch.zeros(8), torch.zeros(40), torch.zeros(5, 8)]
    row.run(*good)
    for place, bad in enumerate([torch.zeros(5, 161), torch.zeros(9), torch.zeros(40).double(), torch.zeros(8, 5).T]):
        with pytest.raises(ValueError, match="contiguous float32"):
            row.run(*good[:place], bad, *good[place + 1 :])


@needs_compiled
def test_changed_weights_are_seen():
    layer = make_layer(40, 8)
    x = torch.randn(2, 5, 8)
    run_both(layer, x)
    with torch.no_grad():
        layer.weight.mul_(1.5)
    assert_equal(*run_both(layer, x))


@needs_compiled
def test_gradients_and_other_types_take_torchs_operators(monkeypatch):
    def fail(*arguments):
        raise AssertionError("compiled part called")

    layer = make_layer(40, 8)
    monkeypatch.setattr(single_row.SingleRow, "run", fail)
    x = torch.randn(2, 5, 8)
    layer(x, [1] * 5)  # gradients are on
    with torch.inference_mode():
        layer(torch.randn(2, 10, 8), [2] * 5)
        with pytest.raises(AssertionError, match="compiled part"):
            layer(x, [1] * 5)
        layer.double()(x.double(), [1] * 5)


def test_a_sentence_alone_is_what_it_is_in_a_batch():
    lstm = LSTMOptions(96, 24, n_layers=2, cell_clip=3.0, proj_clip=3.0, use_skip_connections=True)
    bilm = BiLM(BiLMOptions(lstm, CharCNNOptions(((1, 8), (2, 16)), n_highway=1)), seed=0).requires_grad_(False)
    sentences = [f"one more of the {number} sentences of this batch".split()[: 2 + number] for number in range(7)]
    for alone, beside in zip([bilm.encode([one])[0] for one in sentences], bilm.encode(sentences), strict=True):
        assert abs(alone - beside).max() < 1e-5
