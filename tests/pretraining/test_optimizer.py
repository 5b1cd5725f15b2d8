import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spacy_elmo.pretraining.config import OptimizerConfig
from spacy_elmo.pretraining.optimizer import learning_rate, make_optimizer


def steps(config, gradients, start=(1.0, -2.0)):
    """Return the value of a parameter after each step with these gradients."""
    parameter = nn.Parameter(torch.tensor(start))
    optimizer = make_optimizer([parameter], config)
    values = []
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
        values.append(parameter.tolist())
    return values


GRADIENTS = [(0.5, -3.0), (0.0, 0.2), (-4.0, 1.0), (1e-6, 1e-6)]


@pytest.mark.parametrize("accumulator", [1.0, 0.1])
def test_adagrad_is_tensorflows(accumulator):
    config = OptimizerConfig(learning_rate=0.2, initial_accumulator=accumulator)
    value, total, expected = [1.0, -2.0], [accumulator] * 2, []
    for gradient in GRADIENTS:
        total = [t + g * g for t, g in zip(total, gradient, strict=True)]
        value = [v - 0.2 * g / math.sqrt(t) for v, g, t in zip(value, gradient, total, strict=True)]
        expected.append(pytest.approx(value, rel=1e-5))
    assert steps(config, GRADIENTS) == expected


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_and_adamw_are_the_textbooks(name, decay):
    config = OptimizerConfig(name=name, learning_rate=0.01, beta1=0.8, beta2=0.95, weight_decay=decay)
    value, first, second, expected = [1.0, -2.0], [0.0] * 2, [0.0] * 2, []
    for number, gradient in enumerate(GRADIENTS, start=1):
        for i in (0, 1):
            g = gradient[i] + (decay * value[i] if name == "adam" else 0)
            value[i] -= 0.01 * decay * value[i] if name == "adamw" else 0
            first[i] = 0.8 * first[i] + 0.2 * g
            second[i] = 0.95 * second[i] + 0.05 * g * g
            mean, square = first[i] / (1 - 0.8**number), second[i] / (1 - 0.95**number)
            value[i] -= 0.01 * mean / (math.sqrt(square) + 1e-8)
        expected.append(pytest.approx(list(value), rel=1e-4))
    assert steps(config, GRADIENTS) == expected


configs = st.builds(
    OptimizerConfig,
    learning_rate=st.floats(1e-4, 1),
    warmup_steps=st.integers(0, 50),
    decay=st.sampled_from(["none", "linear", "cosine"]),
)


@given(configs, st.integers(1, 200))
def test_learning_rate_rises_to_its_highest_then_never_again(config, n_steps):
    rates = [learning_rate(config, step, n_steps) for step in range(n_steps)]
    risen = rates[: config.warmup_steps]
    assert risen == sorted(risen)
    assert all(0 < rate <= config.learning_rate * (1 + 1e-12) for rate in rates)
    fallen = rates[config.warmup_steps :]
    assert fallen == sorted(fallen, reverse=True)
    if len(fallen):
        assert fallen[0] == pytest.approx(config.learning_rate)


def test_warmup_is_a_straight_line_that_begins_above_zero():
    config = OptimizerConfig(learning_rate=0.4, warmup_steps=4)
    assert [learning_rate(config, step, 100) for step in range(6)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


@pytest.mark.parametrize(("decay", "half", "end"), [("none", 1, 1), ("linear", 0.5, 0), ("cosine", 0.5, 0)])
def test_decay_ends_at_the_last_step(decay, half, end):
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=20, decay=decay)
    assert learning_rate(config, 60, 100) == pytest.approx(half)
    assert learning_rate(config, 99, 100) == pytest.approx(end, abs=0.02)


def test_warmup_longer_than_the_run_is_no_error():
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=20, decay="cosine")
    assert learning_rate(config, 9, 10) == pytest.approx(0.5)
    assert math.isfinite(learning_rate(config, 20, 10))
