"""The plain step of the pretraining benchmark computes the same as ours."""

import pytest
import torch

from spacy_elmo.bilm import kernels, training_kernels
from spacy_elmo.bilm.engines import gradients_by_hand
from spacy_elmo.pretraining.config import Config, ModelConfig, TrainingConfig

N_WORDS = 500
CELL_CLIP, PROJ_CLIP = 0.2, 0.1


@pytest.fixture
def steps(import_benchmark, monkeypatch, tmp_path):
    """Make our steps and the plain ones, with a very small model and tight clips."""
    model = ModelConfig(24, 8, cell_clip=CELL_CLIP, proj_clip=PROJ_CLIP, filters=((1, 4), (2, 8)), embedding_dim=4)
    training = TrainingConfig(unroll_steps=5, n_negative_samples_batch=50)
    monkeypatch.setattr(Config, "of_size", classmethod(lambda cls, size: cls(model, training=training)))
    benchmark = import_benchmark("ours")
    ours = benchmark.make_steps(tmp_path, "sm", N_WORDS, rows=3, precision="float32", device="cpu")
    with torch.no_grad():
        for layer in ours.model.bilm.layers:
            layer.projection.mul_(3.0)
    return ours, benchmark.with_model(ours, import_benchmark("peers.plain").PlainLanguageModel(ours.model))


@pytest.fixture
def answer(steps):
    """Return a function that gives a model's loss, states and gradients without dropout. It uses the second batch,
    because rows reset at the first, and states so large that the clip cuts many cells."""
    ours, _ = steps
    sizes = ours.config.model
    generator = torch.Generator().manual_seed(0)
    widths = (sizes.projection_dim, sizes.dim)
    hidden, cell = (torch.randn(sizes.n_layers, 2, 3, width, generator=generator) for width in widths)
    question = ours.batches.at(1), ours.batches.corpus.characters, list(zip(hidden, 4 * cell, strict=True))

    def run(model):
        loss, states = model.eval()(*question, ours.candidates())
        model.zero_grad()
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        return {
            "loss": loss.detach(),
            **{f"state {n}": torch.cat(one, -1) for n, one in enumerate(states)},
            **gradients,
        }

    return run


def test_plain_step_has_our_loss_states_and_gradients(steps, answer):
    found, expected = (answer(one.model) for one in steps)
    assert found.keys() == expected.keys()
    for name, one in found.items():
        torch.testing.assert_close(one, expected[name], rtol=0, atol=1e-5 * float(expected[name].abs().max()), msg=name)


@pytest.mark.parametrize("limit", [CELL_CLIP, PROJ_CLIP])
def test_a_gradient_that_passed_a_clip_would_be_seen(steps, answer, monkeypatch, limit):
    right = gradients_by_hand._through_clip

    def wrong(grad, clipped, clip):
        return grad if clip == limit else right(grad, clipped, clip)

    monkeypatch.setattr(gradients_by_hand, "_through_clip", wrong)
    monkeypatch.setattr(training_kernels, "can_compute", lambda x: False)
    assert_is_seen(steps, answer)


@pytest.mark.skipif(kernels.instruction_set() in (None, "generic"), reason="torch's operators run")
def test_a_gradient_that_passed_the_clip_of_the_compiled_part_would_be_seen(steps, answer, monkeypatch):
    right = training_kernels.step_backward
    monkeypatch.setattr(training_kernels, "step_backward", lambda *arrays: right(*arrays[:-1], None))
    assert_is_seen(steps, answer)


def assert_is_seen(steps, answer):
    found, expected = (answer(one.model) for one in steps)
    off = [float((found[name] - one).abs().max() / one.abs().max()) for name, one in expected.items()]
    assert max(off) > 1e-3


def test_both_take_steps_that_lower_the_loss(steps, answer):
    before = [answer(one.model)["loss"] for one in steps]
    for one in steps:
        for _ in range(4):
            one.advance()
    assert all(answer(one.model)["loss"] < earlier for earlier, one in zip(before, steps, strict=True))
