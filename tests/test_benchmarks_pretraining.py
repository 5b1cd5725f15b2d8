"""The plain step of the pretraining benchmark is the same computation as ours, or nothing is timed."""

import pytest
import torch

from spacy_elmo.bilm.engines import gradients_by_hand
from spacy_elmo.pretraining.config import Config, ModelConfig, TrainingConfig

N_WORDS = 500
CELL_CLIP, PROJ_CLIP = 0.2, 0.1


@pytest.fixture
def step(import_benchmark, monkeypatch, tmp_path):
    """Ours, with a very small model of tight clips."""
    model = ModelConfig(24, 8, cell_clip=CELL_CLIP, proj_clip=PROJ_CLIP, filters=((1, 4), (2, 8)), embedding_dim=4)
    training = TrainingConfig(unroll_steps=5, n_negative_samples_batch=50)
    monkeypatch.setattr(Config, "of_size", classmethod(lambda cls, size: cls(model, training=training)))
    step = import_benchmark("ours").Step(tmp_path, "sm", N_WORDS, rows=3, precision="float32", device="cpu")
    with torch.no_grad():
        for layer in step.model.bilm.layers:
            layer.projection.mul_(3.0)
    return step


@pytest.fixture
def check(import_benchmark, step):
    """A function that compares ours and the plain step, given what to do to our weights after they were copied."""

    def run(change=lambda model: None):
        plain = import_benchmark("peers.plain").PlainStep(step)
        with torch.no_grad():
            change(step.model)
        plain.check()

    return run


def test_plain_step_has_our_loss_states_and_gradients(check):
    check()


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.softmax.bias.add_(torch.linspace(0, 0.1, N_WORDS)),
        lambda model: model.bilm.layers[1].bias[1].add_(0.01),
    ],
)
def test_another_loss_is_not_timed(check, change):
    with pytest.raises(SystemExit, match="loss: spacy-elmo and the plain step differ"):
        check(change)


@pytest.mark.parametrize("limit", [CELL_CLIP, PROJ_CLIP])
def test_gradient_that_passes_a_clip_is_not_timed(check, monkeypatch, limit):
    right = gradients_by_hand._through_clip

    def wrong(grad, clipped, clip):
        return grad if clip == limit else right(grad, clipped, clip)

    monkeypatch.setattr(gradients_by_hand, "_through_clip", wrong)
    with pytest.raises(SystemExit, match=r"gradient of .* differ"):
        check()


def test_weights_are_still_there_when_gradients_were_written(step, tmp_path):
    before = {name: parameter.detach().clone() for name, parameter in step.model.named_parameters()}
    step.answer(step.question())
    step.write(tmp_path / "gradients", gradients=True)
    assert all(torch.equal(parameter, before[name]) for name, parameter in step.model.named_parameters())


def test_both_take_steps_that_lower_the_loss(import_benchmark, step):
    plain = import_benchmark("peers.plain").PlainStep(step)
    question = step.question()

    def losses():
        with torch.no_grad():
            step.model.eval()
            plain.model.eval()
            table = step.batches.corpus.characters
            ours = step.model(question.batch, table, question.states, question.candidates)[0]
            both = ours.item(), plain.model(question)[0].item()
            plain.model.train()
        return both

    before = losses()
    for side in (step, plain):
        for _ in range(4):
            side.advance()
    assert all(after < earlier for earlier, after in zip(before, losses(), strict=True))
