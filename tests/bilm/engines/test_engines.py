"""Every engine compared with the plain recurrence in float64, and which engine is chosen for which call."""

from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from spacy_elmo.bilm import engines, kernels, products
from spacy_elmo.bilm.batching import Packing
from spacy_elmo.bilm.engines import Call, Engine, cudnn, engine
from spacy_elmo.bilm.lstm import BidirectionalLSTMLayer, plain_recurrence

ENGINES = {one.name: one for one in engines.ENGINES}
ANY_ENGINE = [(name, None) for name in ENGINES if name != "compiled"]
ANY_ENGINE += [("compiled", version) for version in kernels.instruction_sets() or [None]]

GPU_ENGINES = ("cuda_graphs", "cudnn")


@contextmanager
def use_version(version):
    """Make the compiled part use this version."""
    if version is None:
        yield
        return
    before = kernels.instruction_set()
    kernels._kernels.choose(version)
    try:
        yield
    finally:
        kernels._kernels.choose(before)


def make_layer(n_in=5, dim=20, width=7, clips=(None, None), cell=(1.0, False), scale=0.7, seed=0, device="cpu"):
    """Make a frozen layer with random weights. cell: its forget_bias and always_projects."""
    layer = BidirectionalLSTMLayer(n_in, dim, width, *clips, *cell).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        fan_in = parameter.shape[1] if parameter.dim() == 3 else 1 / 0.09
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale / fan_in**0.5)
    return layer.to(device)


def make_call(layer, lengths, with_state=True, share_of_starts=0.0, seed=0):
    """Make random inputs for sequences of these lengths, in the type of the layer's biases."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(2, *shape, generator=generator).to(layer.bias)

    x, state = draw(sum(lengths), layer.n_in), None
    if with_state:
        state = 0.3 * draw(len(lengths), layer.projection_dim), 0.3 * draw(len(lengths), layer.dim)
    starts = torch.rand(sum(lengths), generator=generator) < share_of_starts if share_of_starts else None
    return layer.call(x, Packing.of(lengths).batch_sizes, state, starts)


def in_float64(layer, call):
    """Return the outputs and both states of the plain recurrence."""
    state = tuple(part.double() for part in call.state)
    with torch.no_grad():
        y, (hidden, cell) = plain_recurrence(
            deepcopy(layer).double(), Call(call.x.double(), call.batch_sizes, state, call.starts)
        )
    return y, hidden, cell


def run(one, layer, call):
    y, (hidden, cell) = one.run(layer, call)
    return y, hidden, cell


def assert_close(found, expected, tolerance=1e-5):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours.detach().double(), theirs.detach().double(), rtol=0, atol=tolerance)


@st.composite
def cases(draw):
    """Draw arguments of `make_layer` and `make_call`. Some steps have few rows and some have many, also in one batch,
    and some engines read several steps at once."""
    dim = draw(st.integers(1, 70))
    rows = draw(st.integers(1, 70) | st.sampled_from([1, 6, 7, 24, 47, 48, 49, 70]))
    longest = draw(st.sampled_from([1, 4, 12] if rows > 8 else [1, 12, 60]))
    seed = draw(st.integers(0, 999))
    layer = {
        "n_in": draw(st.integers(1, 40)),
        "dim": dim,
        "width": draw(st.integers(1, 40) | st.just(dim)),
        "clips": (draw(st.sampled_from([None, 0.3])), draw(st.sampled_from([None, 0.05]))),
        "cell": (draw(st.sampled_from([1.0, 0.0])), draw(st.booleans())),
        "seed": seed,
    }
    call = {
        "lengths": np.random.default_rng(seed).integers(1, longest + 1, rows).tolist(),
        "with_state": draw(st.booleans()),
        "share_of_starts": draw(st.sampled_from([0.0, 0.1])),
        "seed": seed,
    }
    return layer, call


TALL_THEN_LOW = [5] * 30 + [9] * 20 + [150, 14, 3]
WIDE = {"n_in": 33, "dim": 2051, "width": 21, "clips": (0.5, 0.2)}


@pytest.mark.parametrize(("name", "version"), ANY_ENGINE)
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=30)
@given(case=cases())
@example(case=({}, {"lengths": TALL_THEN_LOW}))
@example(case=({"clips": (0.5, 0.3)}, {"lengths": [400, 310, 300]}))
@example(case=({"width": 20}, {"lengths": [500], "share_of_starts": 0.01}))
@example(case=({"width": 20, "clips": (0.5, 0.1), "cell": (0.0, True)}, {"lengths": [9] * 5 + [3]}))
@example(case=(WIDE, {"lengths": [12] * 7 + [2]}))
@example(case=(WIDE, {"lengths": [3] * 50}))
def test_an_engine_comes_to_what_the_plain_recurrence_does(name, version, case):
    one, device = ENGINES[name], "cpu"
    if name in GPU_ENGINES:
        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")
        device = "cuda"
    layer = make_layer(**case[0], device=device)
    call = make_call(layer, **case[1])
    with torch.set_grad_enabled(name in ("gradients_by_hand", "cudnn")), use_version(version):
        if version != "generic" and (reasons := one.reasons_against(layer, call)):
            assume(name not in GPU_ENGINES)  # GPU engines do not support some of the cases
            pytest.skip("; ".join(reasons))
        found = run(one, layer, call)
    assert_close(found, in_float64(layer, call))


@pytest.mark.parametrize(("precision", "tolerance"), [("float16", 1e-5), ("int8", 0.05)])
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=20)
@given(case=cases())
def test_packed_products_in_reduced_precision_stay_near(precision, tolerance, case):
    """For float16, compare with the rounded weights, since sums are in float32."""
    if not products._HAS[precision]:
        pytest.skip(f"torch has no packed products in {precision} on this processor")
    layer = make_layer(**case[0])
    layer.set_precision(precision)
    call = make_call(layer, **case[1])
    with torch.no_grad():
        assert not ENGINES["packed_products"].reasons_against(layer, call)
        found = run(ENGINES["packed_products"], layer, call)
    assert_close(found, in_float64(layer, call), tolerance)


@settings(max_examples=30)
@given(case=cases())
def test_gradients_by_hand_are_those_of_the_plain_recurrence(case):
    layer = make_layer(**case[0]).double().requires_grad_()
    call = make_call(layer, **case[1])
    inputs = [call.x, *call.state]
    for part in inputs:
        part.requires_grad_()
    found = []
    for results in (run(ENGINES["gradients_by_hand"], layer, call), (*flat(plain_recurrence(layer, call)),)):
        generator = torch.Generator().manual_seed(0)
        loss = sum((torch.randn(part.shape, generator=generator) * part).sum() for part in results)
        found.append(torch.autograd.grad(loss, [*inputs, *layer.parameters()]))
    assert_close(*found, tolerance=1e-9)


@st.composite
def cudnn_cases(draw):
    """Draw a layer without clips, and a call with rows of one length. Some rows reset their state at first."""
    dim = draw(st.integers(2, 40))
    layer = {"n_in": draw(st.integers(1, 20)), "dim": dim, "width": draw(st.integers(1, dim - 1) | st.just(dim))}
    layer |= {"cell": (draw(st.sampled_from([1.0, 0.0])), False), "seed": draw(st.integers(0, 99))}
    lengths = [draw(st.integers(1, 12))] * draw(st.integers(1, 30))
    return layer, {"lengths": lengths, "with_state": draw(st.booleans())}, draw(st.booleans())


@settings(max_examples=40, deadline=None)
@given(case=cudnn_cases())
@example(case=({"dim": 64, "width": 16}, {"lengths": [20] * 70}, True))
def test_cudnn_gets_the_call_that_comes_to_our_outputs_states_and_gradients(case):
    """On a CPU, torch makes the same call without cuDNN."""
    settings, arguments, forgets = case
    layer = make_layer(**settings).requires_grad_()
    call = make_call(layer, **arguments)
    if forgets:
        starts = torch.zeros(len(call.x[0]), dtype=torch.bool)
        starts[: call.rows : 2] = True
        call = Call(call.x, call.batch_sizes, call.state, starts)
    assert not cudnn._reasons_against_case(layer, call)
    inputs = [call.x, *call.state]
    for part in inputs:
        part.requires_grad_()
    found = []
    for results in (run(ENGINES["cudnn"], layer, call), flat(plain_recurrence(layer, call))):
        generator = torch.Generator().manual_seed(0)
        scale = len(call.x[0]) ** -0.5
        loss = sum((scale * torch.randn(part.shape, generator=generator) * part).sum() for part in results)
        found.append([*results, *torch.autograd.grad(loss, [*inputs, *layer.parameters()])])
    assert_close(*found)


def test_cudnn_names_what_stands_in_its_way():
    layer, cuts, widens = make_layer(), make_layer(clips=(3.0, None)), make_layer(width=20, cell=(1.0, True))
    even, uneven = make_call(layer, [3, 3]), make_call(layer, [3, 2])
    late = Call(even.x, even.batch_sizes, even.state, torch.tensor([False, False, True, False, False, False]))
    early = Call(even.x, even.batch_sizes, even.state, torch.tensor([True, False, False, False, False, False]))
    against = ENGINES["cudnn"].reasons_against
    for one, call, words in (
        (cuts, even, "the layer has a clip"),
        (widens, make_call(widens, [3, 3]), "can only project to fewer"),
        (layer, uneven, "differ in length"),
        (layer, late, "between time steps"),
    ):
        device, reason = against(one, call)
        assert "it is for a GPU" in device
        assert words in reason
    assert len(against(layer, early)) == len(against(layer, even)) == 1
    with torch.no_grad():
        assert any("gradients are off" in reason for reason in against(layer, even))
    with torch.autocast("cpu", torch.bfloat16):
        assert any("under autocast" in reason for reason in against(layer, even))


def flat(results):
    y, state = results
    return y, *state


@pytest.mark.parametrize("name", ["in_place", "packed_products"])
@pytest.mark.parametrize("buffer", [1, 500, 20_000])
def test_the_size_of_the_gate_buffer_changes_no_number(monkeypatch, name, buffer):
    monkeypatch.setattr(engine, "_GATE_BUFFER_BYTES", buffer)
    monkeypatch.setattr(engine, "_GATE_ROWS", 1)
    layer = make_layer()
    for lengths in ([7, 1, 4, 4, 2], [9, 2]):
        call = make_call(layer, lengths)
        with torch.no_grad():
            if reasons := ENGINES[name].reasons_against(layer, call):
                pytest.skip("; ".join(reasons))
            assert_close(run(ENGINES[name], layer, call), in_float64(layer, call))


@pytest.mark.parametrize("name", ["compiled", "packed_products", "gradients_by_hand", "in_place"])
def test_an_engine_leaves_what_it_is_given_as_it_was(name):
    layer = make_layer()
    call = make_call(layer, [4, 4, 2], share_of_starts=0.3)
    given = [call.x, *call.state, call.starts]
    before = [part.clone() for part in given]
    with torch.set_grad_enabled(name == "gradients_by_hand"):
        if reasons := ENGINES[name].reasons_against(layer, call):
            pytest.skip("; ".join(reasons))
        run(ENGINES[name], layer, call)
    assert all(map(torch.equal, given, before))


class Recorder(Engine):
    """An engine that refuses for the given reasons, and returns itself when it runs."""

    def __init__(self, name, *reasons):
        self._name, self._reasons = name, list(reasons)

    @property
    def name(self):
        return self._name

    def reasons_against(self, layer, call):
        return self._reasons

    def run(self, layer, call):
        return self


def test_the_first_engine_without_a_reason_runs(monkeypatch):
    refusing, first, second = Recorder("refusing", "it is asleep"), Recorder("first"), Recorder("second")
    monkeypatch.setattr(engines, "ENGINES", (refusing, first, second))
    layer = make_layer()
    call = make_call(layer, [2, 1])
    assert engines.choose(layer, call) is first
    assert layer(call.x, call.batch_sizes) is first


@torch.no_grad()
def test_the_plain_recurrence_runs_where_every_engine_has_a_reason(monkeypatch):
    monkeypatch.setattr(engines, "ENGINES", (Recorder("one", "it is asleep"), Recorder("other", "it is away")))
    layer = make_layer()
    call = make_call(layer, [5, 3, 1])
    assert engines.choose(layer, call) is None
    ours, expected = flat(layer(call.x, call.batch_sizes, call.state)), flat(plain_recurrence(layer, call))
    assert all(map(torch.equal, ours, expected))


def chosen(layer, x=None, gradients=False):
    """Return the name of the engine that would run a few rows."""
    call = make_call(layer, [3, 2])
    if x is not None:
        call = layer.call(x, [2, 2, 1])
    with torch.set_grad_enabled(gradients):
        one = engines.choose(layer, call)
    return one and one.name


def test_frozen_weights_in_float32_run_compiled_or_packed_or_in_place():
    has_kernels = kernels.instruction_set() not in (None, "generic")
    expected = "compiled" if has_kernels else "packed_products" if products._HAS["float32"] else "in_place"
    assert chosen(make_layer()) == expected


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_reduced_precision_runs_in_packed_products(precision):
    layer = make_layer()
    layer.set_precision(precision)
    assert chosen(layer) == ("packed_products" if products._HAS[precision] else "in_place")


def test_training_has_its_gradients_written_by_hand():
    assert chosen(make_layer().requires_grad_(), gradients=True) == "gradients_by_hand"
    assert chosen(make_layer(), gradients=True) == "gradients_by_hand"


def test_weights_that_may_change_and_other_types_run_in_place():
    assert chosen(make_layer().requires_grad_()) == "in_place"
    assert chosen(make_layer().double()) == "in_place"
    assert chosen(make_layer(), torch.zeros(2, 5, 5, dtype=torch.float64)) == "in_place"


def reasons(name, layer, gradients=False, x=None):
    call = make_call(layer, [3, 2]) if x is None else layer.call(x, [2, 2, 1])
    with torch.set_grad_enabled(gradients):
        return ENGINES[name].reasons_against(layer, call)


@pytest.mark.parametrize("name", ["compiled", "packed_products"])
def test_an_engine_for_frozen_weights_names_what_stands_in_its_way(name):
    plain = reasons(name, make_layer())
    for found, words in [
        (reasons(name, make_layer(), gradients=True), "gradients"),
        (reasons(name, make_layer().requires_grad_()), "requires_grad"),
        (reasons(name, make_layer(), x=torch.zeros(2, 5, 5, dtype=torch.float64)), "float64"),
    ]:
        assert len(found) == len(plain) + 1
        assert any(words in reason for reason in found)


def test_the_compiled_engine_names_a_reduced_precision():
    layer = make_layer()
    layer.set_precision("float16")
    assert any("the precision is float16" in reason for reason in reasons("compiled", layer))


def test_an_engine_for_gpus_names_the_device_that_the_weights_are_on():
    assert reasons("cuda_graphs", make_layer()) == ["it is for a GPU, but the weights are on cpu"]


@pytest.mark.parametrize(("name", "gradients"), [("gradients_by_hand", False), ("in_place", True)])
def test_an_engine_names_gradients_where_they_decide(name, gradients):
    (reason,) = reasons(name, make_layer(), gradients)
    assert "gradients" in reason


def test_packed_products_name_the_precision_that_there_are_none_for(monkeypatch):
    monkeypatch.setattr(products, "_HAS", dict.fromkeys(products.PRODUCTS, False))
    assert any("no packed products in float32" in reason for reason in reasons("packed_products", make_layer()))
