"""What the compiled part computes in training, at every level, compared with torch's operators and their gradients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from spacy_elmo.bilm import char_cnn, kernels, training_kernels
from spacy_elmo.bilm.softmax import Candidates, Softmax

needs_compiled = pytest.mark.skipif(kernels.is_missing(), reason="built without a C compiler")
pytestmark = needs_compiled
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 1e-2}
SETTINGS = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", params=kernels.instruction_sets() or [None])
def version(request):
    """Use each version that this processor can run. "generic" is used only here: torch's operators are faster."""
    before = kernels.instruction_set()
    kernels._kernels.choose(request.param)
    yield request.param
    kernels._kernels.choose(before)


@pytest.fixture(params=[1, 2])
def threads(request):
    """Use this number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def random(*shape, seed=0, dtype=torch.float32, scale=1.0):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def plain_step(gates, found, kept, clip):
    """Return cells and their outputs, from autograd's operators."""
    gate = gates.chunk(4, dim=-1)
    found = found if kept is None else found * kept
    cell = torch.sigmoid(gate[1]) * found + torch.sigmoid(gate[0]) * torch.tanh(gate[3])
    cell = cell if clip is None else cell.clamp(-clip, clip)
    return cell, torch.sigmoid(gate[2]) * torch.tanh(cell)


@SETTINGS
@given(
    rows=st.integers(1, 20),
    dim=st.integers(1, 300),
    clip=st.none() | st.floats(0.3, 3.0),
    resets=st.booleans(),
    dtype=st.sampled_from(list(TOLERANCES)),
    seed=st.integers(0, 99),
)
def test_step_of_cells_forwards_and_backwards(version, rows, dim, clip, resets, dtype, seed):
    tolerance = TOLERANCES[dtype]
    before = random(2, rows + 3, 4 * dim, seed=seed, dtype=dtype, scale=2.0)  # the step is a part of larger arrays
    now = slice(1, 1 + rows)
    found = random(2, rows, dim, seed=seed + 1, scale=0.25)
    kept = random(rows, 1, seed=seed + 2) > 0 if resets else None
    gates, cells = before.clone(), torch.full((2, rows + 3, dim), 7.0)
    hidden = torch.full_like(cells, 7.0, dtype=dtype)
    training_kernels.step_forward(gates[:, now], found, cells[:, now], hidden[:, now], kept, clip)

    inputs, start = before[:, now].float().requires_grad_(), found.clone().requires_grad_()
    cell, output = plain_step(inputs, start, kept, clip)
    torch.testing.assert_close(cells[:, now], cell, rtol=0, atol=2e-6)
    torch.testing.assert_close(hidden[:, now].float(), output, rtol=0, atol=tolerance)
    assert (cells[:, rows + 1 :] == 7).all()
    assert (hidden[:, :1] == 7).all()
    assert torch.equal(gates[:, :1], before[:, :1])

    d_hidden, d_cells = random(2, rows, dim, seed=seed + 3, dtype=dtype), random(2, rows + 1, dim, seed=seed + 4)
    (cell * d_cells[:, :rows] + output * d_hidden.float()).sum().backward()
    d_gates, others = torch.full_like(before, 7.0), d_cells[:, rows:].clone()
    training_kernels.step_backward(
        gates[:, now], cells[:, now], found, d_hidden, d_cells[:, :rows], d_gates[:, now], kept, clip
    )
    # Autograd's gradient is also zero where a cell is exactly at the clip, but it may round to another side of it.
    near = torch.zeros_like(cell, dtype=torch.bool) if clip is None else (cell.abs() - clip).abs() < 1e-5
    for ours, expected in ((d_gates[:, now].float(), inputs.grad), (d_cells[:, :rows], start.grad)):
        skipped = near.repeat(1, 1, expected.shape[2] // dim) & (ours != 0)
        torch.testing.assert_close(
            ours.masked_fill(skipped, 0), expected.masked_fill(skipped, 0), rtol=0, atol=10 * tolerance
        )
    assert torch.equal(d_cells[:, rows:], others)
    assert (d_gates[:, rows + 1 :] == 7).all()


@SETTINGS
@given(
    rows=st.integers(1, 40),
    n_words=st.integers(1, 150),
    is_sampled=st.booleans(),
    dtype=st.sampled_from(list(TOLERANCES)),
    scale=st.sampled_from([0.1, 3.0, 300.0]),
    seed=st.integers(0, 99),
)
def test_softmax_and_its_gradients(version, threads, rows, n_words, is_sampled, dtype, scale, seed):
    logits = random(rows, n_words, seed=seed, dtype=dtype, scale=scale)
    biases, truth = random(n_words, seed=seed + 1), random(rows, seed=seed + 2, scale=scale)
    targets = torch.randint(n_words, (rows,), generator=torch.Generator().manual_seed(seed))
    hits = torch.where(torch.arange(rows) % 2 == 0, targets, -1) if is_sampled else None

    scored = (logits.float() + biases).double().requires_grad_()  # the sums are those of the compiled part
    if hits is None:
        all_words = scored
    else:
        left_out = (torch.arange(n_words) == hits[:, None]).double() * -1e30
        all_words = torch.cat([scored + left_out, truth[:, None].double()], dim=1)
    expected = all_words.logsumexp(1)
    expected.sum().backward()

    sums, without = torch.full((n_words,), 2.0), logits.clone()
    totals, shares = training_kernels.softmax_rows(logits, biases, truth, hits, sums)
    torch.testing.assert_close(totals, expected.float(), rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(logits.float(), scored.grad.float(), rtol=0, atol=TOLERANCES[dtype])
    torch.testing.assert_close(sums - 2, scored.grad.sum(0).float(), rtol=1e-5, atol=1e-5)
    share = torch.zeros(rows) if hits is None else (truth - expected).exp()
    torch.testing.assert_close(shares, share.float(), rtol=1e-5, atol=1e-6)

    before = without.clone()
    again, _ = training_kernels.softmax_rows(without, biases, truth, hits, None)
    assert torch.equal(again, totals)
    assert torch.equal(without, before), "without gradients the logits stay"


@SETTINGS
@given(
    n_words=st.integers(1, 40),
    n_positions=st.integers(1, 12),
    dim=st.sampled_from([1, 4, 16, 19]),
    sizes=st.lists(st.tuples(st.integers(1, 7), st.integers(1, 40)), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_largest_products_and_their_gradients(version, threads, n_words, n_positions, dim, sizes, seed):
    sizes = [(min(size, n_positions), number) for size, number in sizes]
    x = random(n_words, n_positions, dim, seed=seed).requires_grad_()
    filters = [random(size * dim, number, seed=seed + 1).requires_grad_() for size, number in sizes]
    found = char_cnn._LargestProducts.apply(x, n_positions, *filters)
    slopes = torch.relu(random(*found.shape, seed=seed + 2))  # some are zero, as after an activation
    parts = zip(sizes, filters, strict=True)
    windows = [(x.unfold(1, size, 1).transpose(2, 3).flatten(2) @ weight).amax(1) for (size, _), weight in parts]
    torch.testing.assert_close(found, torch.cat(windows, dim=1), rtol=0, atol=1e-5)
    ours, expected = (
        torch.autograd.grad((one * slopes).sum(), [x, *filters]) for one in (found, torch.cat(windows, dim=1))
    )
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5)


def test_nan_is_never_the_smaller_one(version):
    products = torch.tensor([[[1.0, math.nan], [math.nan, 2.0], [3.0, 3.0]]])
    pooled, windows = torch.empty(1, 2), torch.empty(1, 2, dtype=torch.int32)
    training_kernels.pool(products, pooled, windows, 0)
    assert pooled.isnan().all()
    totals, _ = training_kernels.softmax_rows(
        torch.tensor([[1.0, math.nan, 2.0]]), torch.zeros(3), torch.zeros(1), None, None
    )
    assert totals.isnan().all()


@pytest.mark.parametrize("is_sampled", [False, True])
def test_bfloat16_rounds_as_torch_does(version, is_sampled):
    logits = torch.log(torch.rand(50, 20, generator=torch.Generator().manual_seed(0)))
    rounded, hits = logits.bfloat16(), torch.full((50,), -1) if is_sampled else None
    exact, truth = rounded.float(), torch.full((50,), -1e30)
    for array in (rounded, exact):
        training_kernels.softmax_rows(array, torch.zeros(20), truth, hits, torch.zeros(20))
    assert torch.equal(rounded, exact.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_dtypes_are_left_to_torch(dtype):
    can_compute = training_kernels.can_compute
    assert not can_compute(torch.zeros(2, dtype=dtype))
    if dtype == torch.float16:
        with torch.autocast("cpu", dtype):
            assert not can_compute(torch.zeros(2))
    assert can_compute(torch.zeros(2)) == (kernels.instruction_set() != "generic")


def test_arrays_that_do_not_fit_are_refused():
    cells, gates = torch.zeros(2, 3, 4), torch.zeros(2, 3, 16)
    for wrong in (
        (gates[:, :2], cells, cells, cells),
        (gates.double(), cells, cells, cells),
        (gates, cells, cells.bfloat16(), cells),
        (gates, cells, cells, cells.bfloat16()),
        (gates[:, :, ::2], cells[:, :, ::2], cells[:, :, ::2], cells[:, :, ::2]),
    ):
        with pytest.raises(ValueError, match=r"expected torch|not torch\.float64"):
            training_kernels.step_forward(*wrong, None, None)
    with pytest.raises(ValueError, match="expected contiguous bool"):
        training_kernels.step_forward(gates, cells, cells.clone(), cells.clone(), torch.ones(3, 1), None)
    good = torch.zeros(5, 6), torch.zeros(6), torch.zeros(5), torch.full((5,), -1)
    for place, wrong in enumerate((torch.zeros(5, 7), torch.zeros(7), torch.zeros(4), torch.zeros(5))):
        arguments = [wrong if place == number else array for number, array in enumerate(good)]
        with pytest.raises(ValueError, match="expected contiguous"):
            training_kernels.softmax_rows(*arguments, None)
    with pytest.raises(ValueError, match="hits among 6 words"):
        training_kernels.softmax_rows(*good[:3], torch.full((5,), 6), None)
    with pytest.raises(ValueError, match="expected float32 or bfloat16"):
        training_kernels.softmax_rows(good[0].double(), *good[1:], None)
    pooled, windows = torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int32)
    with pytest.raises(ValueError, match="3 filters among 3 from 1 on"):
        training_kernels.pool(torch.zeros(2, 4, 3), pooled, windows, 1)
    x = torch.zeros(2, 4, 5)
    with pytest.raises(ValueError, match="in windows of 4"):
        training_kernels.unpool(pooled, windows + 3, 0, x, torch.zeros(3, 10), x.clone())
    with pytest.raises(ValueError, match="in windows of 4"):
        training_kernels.unpool(pooled, windows - 1, 0, x, torch.zeros(3, 10), x.clone())


@pytest.mark.parametrize("n_samples", [0, 50])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_softmax_learns_as_with_torchs_operators(monkeypatch, n_samples, precision):
    """The whole loss, in several chunks, one of them incomplete."""
    monkeypatch.setattr("spacy_elmo.bilm.softmax._CHUNK_BYTES", 0)
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(200, (333,), generator=generator)
    rng = np.random.default_rng(0)
    candidates = Candidates.draw(n_samples, 200, rng) if n_samples else None
    results = []
    for compiled in (True, False):
        softmax, hidden = Softmax(200, 16, seed=1), random(333, 16, seed=2).requires_grad_()
        with monkeypatch.context() as patch, torch.autocast("cpu", precision, enabled=precision != torch.float32):
            if not compiled:
                patch.setattr(training_kernels, "can_compute", lambda x: False)
            loss = softmax(hidden, targets, candidates)
        loss.backward()
        results.append([loss.detach(), hidden.grad, softmax.weight.grad, softmax.bias.grad])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6 if precision == torch.float32 else 2e-3)
    if not candidates:
        plain = functional.cross_entropy(hidden.detach() @ softmax.weight.T + softmax.bias, targets)
        torch.testing.assert_close(
            results[0][0], plain.detach(), rtol=0, atol=1e-5 if precision == torch.float32 else 2e-2
        )
