"""Time steps in blocks: one by one on a CPU, and captured on a GPU if there is one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spacy_elmo.bilm.batching import Packing
from spacy_elmo.bilm.engines import cuda_graphs
from spacy_elmo.bilm.engines.cuda_graphs import CudaGraphs, GraphedSteps
from spacy_elmo.bilm.gates import with_forget_bias
from spacy_elmo.bilm.lstm import BidirectionalLSTMLayer, plain_recurrence
from spacy_elmo.bilm.time_steps import time_steps

CLIPS = st.sampled_from([(None, None), (0.4, 0.2)])


def make_layer(dim, width, clips, device="cpu", cell=(1.0, False)):
    layer = BidirectionalLSTMLayer(3, dim, width, *clips, *cell)
    with torch.no_grad():
        layer.initialize(torch.Generator().manual_seed(0))
        layer.bias.copy_(torch.linspace(-0.5, 0.5, layer.bias.numel()).view_as(layer.bias))
    return layer.requires_grad_(False).to(device)


def make_graphed(layer):
    clips = layer.cell_clip, layer.proj_clip
    return GraphedSteps(
        layer.weight, with_forget_bias(layer.bias, layer.forget_bias), layer.projection, layer.n_in, *clips
    )


def make_inputs(layer, lengths, seed, device="cpu"):
    """Return packed input, batch sizes and a state."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (sum(lengths), layer.n_in), (len(lengths), layer.projection_dim), (len(lengths), layer.dim)
    x, hidden, cell = (torch.randn(2, *shape, generator=generator).to(device) for shape in shapes)
    return x, Packing.of(lengths).batch_sizes, (hidden, cell)


def assert_close(found, expected):
    (outputs, state), (expected_outputs, expected_state) = found, expected
    for one, other in zip((outputs, *state), (expected_outputs, *expected_state), strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=0)


@pytest.fixture(scope="module", params=[2, 16])
def few_steps(request):
    """Limit a block to few time steps and few rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_graphs, "_MAX_STEPS", request.param)
        patch.setattr(cuda_graphs, "_BLOCK_BYTES", 2 * 4 * 5 * 4 * 40)
        patch.setattr(cuda_graphs, "_STEP_BYTES", 2 * 4 * 5 * 4 * 40)
        yield


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=40), width=st.sampled_from([3, 5]), clips=CLIPS,
       seed=st.integers(0, 99))  # fmt: skip
def test_blocks_give_what_single_steps_give(few_steps, lengths, width, clips, seed):
    layer = make_layer(5, width, clips)
    steps = make_graphed(layer)
    with torch.no_grad():
        for part in (lengths, lengths[:1]):
            x, sizes, state = make_inputs(layer, part, seed)
            assert_close(steps(x, state, time_steps(sizes, None)), plain_recurrence(layer, layer.call(x, sizes, state)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("width", [3, 5])
def test_captured_blocks_give_what_single_steps_give(width):
    layer = make_layer(5, width, (0.4, 0.2), "cuda")
    with torch.inference_mode():
        for lengths in ([9, 5, 5, 1], [30] * 70, [3], [9, 5, 5, 1]):
            x, sizes, state = make_inputs(layer, lengths, len(lengths), "cuda")
            call = layer.call(x, sizes, state)
            assert not CudaGraphs().reasons_against(layer, call)
            assert_close(CudaGraphs().run(layer, call), plain_recurrence(layer, call))
        before = layer(x, sizes, state)[0]
    with torch.no_grad():
        layer.bias.add_(1.0)
        assert not torch.equal(layer(x, sizes, state)[0], before)


@pytest.mark.parametrize("forget_bias", [1.0, 0.0])
def test_the_forget_gate_gets_what_the_layer_adds_to_it(forget_bias):
    layer = make_layer(4, 4, (0.5, 0.2), cell=(forget_bias, True))
    x, sizes, state = make_inputs(layer, [5, 3, 1], seed=0)
    call = layer.call(x, sizes, state)
    with torch.inference_mode():
        assert_close(CudaGraphs().run(layer, call), plain_recurrence(layer, call))
