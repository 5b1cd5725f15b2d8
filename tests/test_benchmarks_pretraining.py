"""The plain step of the pretraining benchmark is the same computation as ours, or nothing is timed."""

import argparse

import pytest
import torch

from spacy_elmo.bilm.engines import gradients_by_hand
from spacy_elmo.pretraining.config import Config, ModelConfig, TrainingConfig

N_WORDS = 500
CELL_CLIP, PROJ_CLIP = 0.2, 0.1


@pytest.fixture
def benchmark(import_benchmark, monkeypatch):
    """The module, its size `sm` replaced by a very small one with tight clips."""
    module = import_benchmark("pretraining")
    model = ModelConfig(24, 8, cell_clip=CELL_CLIP, proj_clip=PROJ_CLIP, filters=((1, 4), (2, 8)), embedding_dim=4)
    training = TrainingConfig(batch_size=4, unroll_steps=5, n_negative_samples_batch=50)
    monkeypatch.setattr(Config, "of_size", classmethod(lambda cls, size: cls(model, training=training)))
    monkeypatch.setitem(module.WORDS, "sm", N_WORDS)
    return module


@pytest.fixture
def args():
    return argparse.Namespace(
        sizes=["sm"], repeats=2, steps=1, rows=3, precision="float32", device=torch.device("cpu"), threads=1
    )


@pytest.fixture
def check(benchmark, args, tmp_path):
    """A function that compares ours and the plain step, given what to do to our weights after they were copied."""
    config, device = benchmark.make_config("sm", args), args.device
    vocabulary = benchmark.make_vocabulary(N_WORDS)
    batches = benchmark.make_batches(config, vocabulary, tmp_path / "corpus")
    model = benchmark.make_model(config, N_WORDS, device)
    with torch.no_grad():
        for layer in model.bilm.layers:
            layer.projection.mul_(3.0)

    def run(change=lambda model: None):
        plain = benchmark.PlainStep(model, batches, config)
        with torch.no_grad():
            change(model)
        benchmark.check("sm", model, plain.model, benchmark.Question.make(config, batches, N_WORDS, device))

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


def test_report_names_both_and_their_ratio(benchmark, args, monkeypatch):
    monkeypatch.setattr("common.SGEMM_SIZE", 64)
    report = benchmark.run(args)
    ours, plain = report["rows"]
    assert ours["tokens"] == plain["tokens"] == 15
    assert ours["ratio"] > 0
    assert plain["ratio"] is None
    assert len(ours["seconds"]) == len(report["sgemm_gflops"]) == 2
    table = benchmark.render(report).splitlines()
    assert [line.split()[0] for line in table[-2:]] == ["sm", "sm"]
