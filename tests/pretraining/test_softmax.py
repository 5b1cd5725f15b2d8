import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from spacy_elmo.bilm import softmax as module
from spacy_elmo.bilm.softmax import Candidates, Softmax


def make(n_words=30, dim=5, seed=0):
    softmax = Softmax(n_words, dim, seed).double()
    with torch.no_grad():
        softmax.bias.normal_(generator=torch.Generator().manual_seed(seed))
    return softmax


def inputs(n, n_words=30, dim=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, dim, generator=generator).double().requires_grad_()
    return hidden, torch.randint(n_words, (n,), generator=generator)


def gradients(loss, *tensors):
    return torch.autograd.grad(loss, tensors)


def agree(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@given(st.integers(1, 40), st.integers(0, 9))
def test_full_softmax_is_cross_entropy_with_its_gradients(n, seed):
    softmax, (hidden, targets) = make(seed=seed), inputs(n, seed=seed + 1)
    tensors = (hidden, softmax.weight, softmax.bias)
    expected = cross_entropy(hidden @ softmax.weight.T + softmax.bias, targets)
    found = softmax(hidden, targets)
    agree([found, *gradients(3 * found, *tensors)], [expected, *gradients(3 * expected, *tensors)])


def sampled_loss(softmax, hidden, targets, candidates):
    """Compute TensorFlow's `sampled_softmax_loss`: subtract the log of its expected count from each logit, and leave
    out candidates that are the target."""
    rank = torch.arange(candidates.n_words).double()
    probability = (torch.log(rank + 2) - torch.log(rank + 1)) / math.log(candidates.n_words + 1)
    expected = torch.log(1 - (1 - probability) ** candidates.n_draws)
    logits = hidden @ softmax.weight.T + softmax.bias - expected
    total = 0
    for row, target in zip(logits, targets.tolist(), strict=True):
        scored = [row[target], *(row[word] for word in candidates.words.tolist() if word != target)]
        total = total + torch.logsumexp(torch.stack(scored), 0) - row[target]
    return total / len(targets)


@given(st.integers(1, 12), st.integers(1, 20), st.integers(0, 20))
def test_sampled_softmax_is_the_formula_with_its_gradients(n, n_samples, seed):
    softmax, (hidden, targets) = make(seed=seed), inputs(n, seed=seed + 1)
    candidates = Candidates.draw(n_samples, 30, np.random.default_rng(seed))
    tensors = (hidden, softmax.weight, softmax.bias)
    expected, found = sampled_loss(softmax, hidden, targets, candidates), softmax(hidden, targets, candidates)
    for one, other in zip(
        [found, *gradients(found, *tensors)], [expected, *gradients(expected, *tensors)], strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)  # the counts are rounded to float32


def test_target_among_the_candidates_is_counted_once():
    softmax, (hidden, _) = make(), inputs(1)
    candidates = Candidates(torch.tensor([4, 7]), 5, 30)
    alone = Candidates(torch.tensor([7]), 5, 30)
    target = torch.tensor([4])
    torch.testing.assert_close(softmax(hidden, target, candidates), softmax(hidden, target, alone))
    assert softmax(hidden, target, Candidates(target, 5, 30)).item() == 0  # no other word is left


@pytest.mark.parametrize("sampled", [False, True])
def test_size_of_the_chunks_changes_nothing(monkeypatch, sampled):
    softmax, (hidden, targets) = make(), inputs(17)
    candidates = Candidates.draw(10, 30, np.random.default_rng(0)) if sampled else None
    tensors = (hidden, softmax.weight, softmax.bias)
    whole = softmax(hidden, targets, candidates)
    expected = [whole, *gradients(whole, *tensors)]
    monkeypatch.setattr(module, "_CHUNK_BYTES", 4 * 30 * 3)
    parts = softmax(hidden, targets, candidates)
    agree([parts, *gradients(parts, *tensors)], expected)


def test_losses_are_those_of_each_target_without_gradients():
    softmax, (hidden, targets) = make(), inputs(9)
    found = softmax.losses(hidden, targets)
    expected = cross_entropy(hidden @ softmax.weight.T + softmax.bias, targets, reduction="none")
    torch.testing.assert_close(found, expected.detach())
    assert not found.requires_grad


def test_large_logits_do_not_overflow():
    softmax, (hidden, targets) = make(), inputs(6)
    with torch.no_grad():
        softmax.bias += 1e5 * torch.arange(30)
    loss = softmax(hidden, targets)
    assert torch.isfinite(torch.stack([loss, *(g.abs().max() for g in gradients(loss, hidden, softmax.weight))])).all()


@given(st.integers(2, 300), st.data())
def test_candidates_are_distinct_words_of_the_vocabulary(n_words, data):
    n_samples = data.draw(st.integers(1, n_words - 1))
    drawn = Candidates.draw(n_samples, n_words, np.random.default_rng(data.draw(st.integers(0, 99))))
    words = drawn.words.tolist()
    assert len(set(words)) == len(words) == n_samples
    assert min(words) >= 0
    assert max(words) < n_words
    assert drawn.n_draws >= n_samples


def test_candidates_depend_on_the_generator_only():
    first, same, other = (Candidates.draw(20, 500, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(first.words, same.words)
    assert first.n_draws == same.n_draws
    assert not torch.equal(first.words, other.words)


def test_first_word_drawn_is_log_uniform():
    rng, n_words, n = np.random.default_rng(0), 50, 20_000
    seen = np.bincount([Candidates.draw(1, n_words, rng).words.item() for _ in range(n)], minlength=n_words) / n
    expected = np.log1p(1 / np.arange(1, n_words + 1)) / np.log(n_words + 1)
    assert abs(seen - expected).max() < 0.012
    assert abs(np.cumsum(seen) - np.cumsum(expected)).max() < 0.012


def one_by_one(n_samples, n_words, rng):
    """Return how many draws it takes to see `n_samples` words."""
    probability = np.log1p(1 / np.arange(1, n_words + 1)) / np.log(n_words + 1)
    seen, draws = set(), 0
    while len(seen) < n_samples:
        seen.add(int(rng.choice(n_words, p=probability)))
        draws += 1
    return draws


def test_number_of_draws_is_that_of_drawing_one_by_one():
    found = np.mean([Candidates.draw(15, 40, np.random.default_rng(n)).n_draws for n in range(1000)])
    rng = np.random.default_rng(0)
    expected = np.mean([one_by_one(15, 40, rng) for _ in range(1000)])
    assert found == pytest.approx(expected, rel=0.05)


def test_expected_counts_are_how_often_words_are_among_the_candidates():
    n_words, n = 60, 4000
    drawn = [Candidates.draw(12, n_words, np.random.default_rng(seed)) for seed in range(n)]
    seen = np.bincount(torch.cat([one.words for one in drawn]).numpy(), minlength=n_words) / n
    words = torch.arange(n_words)
    expected = torch.stack([one.log_expected(words).exp() for one in drawn]).mean(0).numpy()
    assert abs(seen - expected).max() < 0.03
    assert expected.sum() == pytest.approx(12, rel=0.02)


def test_expected_counts_are_exact_where_they_can_be_known():
    one = Candidates(torch.tensor([0]), 1, 3)
    probability = torch.tensor([math.log(2), math.log(3 / 2), math.log(4 / 3)]) / math.log(4)
    torch.testing.assert_close(one.log_expected(torch.arange(3)).exp(), probability)
    many = Candidates(torch.tensor([0]), 3, 3)
    torch.testing.assert_close(many.log_expected(torch.arange(3)).exp(), 1 - (1 - probability) ** 3)


def test_rarest_word_of_a_large_vocabulary_keeps_its_precision():
    found = Candidates(torch.tensor([0]), 10, 800_000).log_expected(torch.tensor([799_999])).item()
    assert found == pytest.approx(math.log(10 / 800_000 / math.log(800_001)), abs=1e-4)


def test_sampled_gradient_points_where_the_full_one_does():
    """With many candidates, the correction compensates for the sampling. Without it, frequent words would weigh
    more."""
    softmax, (hidden, targets) = make(200), inputs(400, 200)
    full = gradients(softmax(hidden, targets), softmax.bias)[0]
    draws = [Candidates.draw(120, 200, np.random.default_rng(seed)) for seed in range(60)]
    sampled = torch.stack([gradients(softmax(hidden, targets, one), softmax.bias)[0] for one in draws]).mean(0)
    assert (sampled - full).norm() < 0.2 * full.norm()


def test_sampled_loss_is_the_full_one_when_all_words_are_drawn_for_certain():
    softmax, (hidden, targets) = make(), inputs(50)
    everything = Candidates(torch.arange(30), 10**6, 30)
    torch.testing.assert_close(softmax(hidden, targets, everything), softmax(hidden, targets), rtol=1e-5, atol=1e-5)


def test_uniform_softmax_loses_the_logarithm_of_the_vocabulary_size():
    softmax = Softmax(37, 5)
    with torch.no_grad():
        softmax.weight.zero_()
    assert softmax(torch.randn(8, 5), torch.arange(8)).item() == pytest.approx(math.log(37), rel=1e-6)
