"""One LSTM layer over packed sequences, compared with one that takes a step at a time, states included."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_elmo.bilm.batching import Packing
from spacy_elmo.bilm.lstm import BidirectionalLSTMLayer, plain_recurrence


def make_layer(n_in=3, dim=5, projection_dim=3, cell_clip=None, proj_clip=None, seed=0, **settings):
    layer = BidirectionalLSTMLayer(n_in, dim, projection_dim, cell_clip, proj_clip, **settings).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(generator=generator)
    return layer


def step_by_step(layer, direction, x, h, c):
    """Run one sequence in reading order from state `h`, `c`. Returns the outputs and the last state."""
    weight, bias = (part[direction].detach().numpy() for part in (layer.weight, layer.bias))

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    outputs = []
    for step in x:
        enter, forget, leave, candidate = np.split(np.concatenate([step, h]) @ weight + bias, 4)
        c = sigmoid(forget + layer.forget_bias) * c + sigmoid(enter) * np.tanh(candidate)
        if layer.cell_clip is not None:
            c = np.clip(c, -layer.cell_clip, layer.cell_clip)
        h = sigmoid(leave) * np.tanh(c)
        if layer.projection is not None:
            h = h @ layer.projection[direction].detach().numpy()
            if layer.proj_clip is not None:
                h = np.clip(h, -layer.proj_clip, layer.proj_clip)
        outputs.append(h)
    return np.array(outputs), h, c


def run_and_compare(layer, lengths, with_state, how, seed):
    """Run the layer and compare. how: "gradients"; "in place" (float64, no gradients); "frozen" (float32, so that the
    compiled part or packed products may run); or "plain" (the plain recurrence, with gradients)."""
    if how == "frozen":
        layer = layer.float().requires_grad_(False)
    gradients, tolerance = how in ("gradients", "plain"), 5e-5 if how == "frozen" else 1e-10
    rng = np.random.default_rng(seed)
    sequences = [rng.normal(size=(length, layer.n_in)) for length in lengths]
    packing = Packing.of(lengths)
    rows = packing.rows.tolist()
    x = torch.from_numpy(np.concatenate(sequences))[packing.order].to(layer.weight)
    hidden = rng.normal(size=(2, len(lengths), layer.projection_dim)) * with_state
    cell = rng.normal(size=(2, len(lengths), layer.dim)) * with_state
    given_state = tuple(torch.from_numpy(part.copy()).to(layer.weight) for part in (hidden, cell))
    before = [part.clone() for part in given_state]
    with torch.set_grad_enabled(gradients):
        call = layer.call(x, packing.batch_sizes, given_state if with_state else None)
        found = plain_recurrence(layer, call) if how == "plain" else layer(x, call.batch_sizes, call.state)
        outputs, (last_hidden, last_cell) = found
    assert outputs.requires_grad == gradients
    assert all(map(torch.equal, given_state, before))  # the given state is not changed
    starts = np.cumsum([0, *lengths])
    for direction in (0, 1):
        unpacked = outputs[direction][packing.order[direction].argsort()].detach().numpy()
        for row, number in enumerate(rows):
            sequence = sequences[number][:: -1 if direction else 1]
            expected, h, c = step_by_step(layer, direction, sequence, hidden[direction, row], cell[direction, row])
            ours = unpacked[starts[number] : starts[number + 1]][:: -1 if direction else 1]
            np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance)
            np.testing.assert_allclose(last_hidden[direction, row].detach(), h, rtol=0, atol=tolerance)
            np.testing.assert_allclose(last_cell[direction, row].detach(), c, rtol=0, atol=tolerance)


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    projection_dim=st.sampled_from([2, 5]),
    cell_clip=st.sampled_from([None, 0.3]),
    proj_clip=st.sampled_from([None, 0.2]),
    cell=st.fixed_dictionaries({"forget_bias": st.sampled_from([1.0, 0.0]), "always_projects": st.booleans()}),
    with_state=st.booleans(),
    how=st.sampled_from(["gradients", "in place", "frozen", "plain"]),
    seed=st.integers(0, 1000),
)
def test_any_lengths_give_outputs_and_states_of_single_steps(
    lengths, projection_dim, cell_clip, proj_clip, cell, with_state, how, seed
):
    layer = make_layer(4, 5, projection_dim, cell_clip, proj_clip, seed, **cell)
    run_and_compare(layer, lengths, with_state, how, seed)


@pytest.mark.parametrize("gradients", [True, False])
def test_inputs_are_not_written_over(gradients):
    layer = make_layer()
    x = torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    with torch.set_grad_enabled(gradients):
        layer(x, [3, 2, 1])
    assert torch.equal(x, before)


def test_a_projection_clip_without_projection_clips_nothing():
    """Like TensorFlow's LSTMCell."""
    x = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    clipped, plain = (make_layer(dim=3, proj_clip=clip)(x, [2, 2])[0] for clip in (0.01, None))
    assert torch.equal(clipped, plain)
    assert clipped.abs().max() > 0.01


@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    projection_dim=st.sampled_from([2, 4]),
    clips=st.sampled_from([(None, None), (0.3, 0.2)]),
    fresh=st.sets(st.integers(0, 19)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=10)
def test_gradients_are_those_of_finite_differences(lengths, projection_dim, clips, fresh, seed):
    """Checks everything that a loss can reach: outputs and last states, for inputs, first states and weights."""
    layer = make_layer(3, 4, projection_dim, *clips, seed)
    generator = torch.Generator().manual_seed(seed)
    rows, n_tokens = len(lengths), sum(lengths)
    shapes = [(2, n_tokens, 3), (2, rows, projection_dim), (2, rows, 4)]
    x, hidden, cell = (torch.randn(*s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes)
    starts = torch.tensor([token in fresh for token in range(n_tokens)])
    sizes = Packing.of(lengths).batch_sizes
    names = [name for name, _ in layer.named_parameters()]

    def run(x, hidden, cell, *parameters):
        arguments = (x, sizes, (hidden, cell), starts)
        y, state = torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), arguments)
        return y, *state

    assert torch.autograd.gradcheck(run, (x, hidden, cell, *layer.parameters()), atol=1e-6)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("gradients", [True, False])
def test_a_row_that_starts_afresh_reads_on_as_a_sequence_of_its_own(gradients, rows):
    layer = make_layer(cell_clip=0.5).float().requires_grad_(gradients)
    x = torch.randn(2, 5 * rows, 3, generator=torch.Generator().manual_seed(0))
    state = tuple(torch.randn(2, rows, size) for size in (3, 5))
    with torch.set_grad_enabled(gradients):
        joined, last = layer(x, [rows] * 5, state, torch.arange(5).repeat_interleave(rows) == 2)
        first, _ = layer(x[:, : 2 * rows], [rows] * 2, state)
        second, expected = layer(x[:, 2 * rows :], [rows] * 3)
    torch.testing.assert_close(joined, torch.cat([first, second], dim=1))
    torch.testing.assert_close(last, expected)


def test_under_autocast_results_stay_float32_and_close():
    layer = make_layer(8, 16, 8, 3.0, 3.0).float()
    x = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))
    gradients = []
    for enabled in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y, (hidden, cell) = layer(x, [4, 4, 4])
        assert {part.dtype for part in (y, hidden, cell)} == {torch.float32}
        y.square().sum().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in layer.parameters()]))
    assert (gradients[0] - gradients[1]).norm() / gradients[0].norm() < 0.05
