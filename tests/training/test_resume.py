import json
import shutil
from dataclasses import replace

import pytest
import torch

from spacy_elmo.formats import load
from spacy_elmo.pretraining.checkpoint import NAME, Checkpoint
from spacy_elmo.pretraining.config import (
    Config,
    CorpusConfig,
    LoggingConfig,
    ModelConfig,
    OptimizerConfig,
    TrainingConfig,
)
from spacy_elmo.pretraining.evaluation import Evaluator
from spacy_elmo.pretraining.run import pretrain

STEPS, MORE = 150, 30
CONFIG = Config(
    ModelConfig(dim=16, projection_dim=8, filters=((1, 4), (2, 6)), embedding_dim=4, max_characters_per_token=12),
    CorpusConfig(min_count=1),
    TrainingConfig(
        n_epochs=99.0, max_steps=STEPS, batch_size=4, unroll_steps=5, n_negative_samples_batch=0, dropout=0.0
    ),
    OptimizerConfig(name="adam", learning_rate=0.01),
    LoggingConfig(log_every=5),
)


def longer(config):
    return replace(config, training=replace(config.training, max_steps=STEPS + MORE))


@pytest.fixture(scope="module")
def modules(import_training):
    return import_training("halve"), import_training("resume")


@pytest.fixture(scope="module")
def runs(modules, tmp_path_factory):
    """Give a run that continued, its state before that, and a run that was made from the state and continued, too."""
    halve, resume = modules
    folder = tmp_path_factory.mktemp("runs")
    (folder / "corpus.txt").write_text("the cat sat on the mat\na dog ran to a tree\n\n" * 40, encoding="utf-8")
    whole, state, resumed = folder / "whole", folder / "state", folder / "resumed"
    pretrain(folder / "corpus.txt", whole, CONFIG, show_progress=False)
    halve.halve(whole, whole / "vocab.txt", state)
    shutil.copyfile(whole / NAME, folder / NAME)
    pretrain(folder / "corpus.txt", whole, longer(CONFIG), resume=True, show_progress=False)
    resume.resume(state, resumed)
    (resumed / "vocab.txt").write_bytes((whole / "vocab.txt").read_bytes())
    pretrain(folder / "corpus.txt", resumed, longer(CONFIG), resume=True, show_progress=False)
    return whole, state, resumed


def log(run):
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return {line["step"]: line["loss"] for line in lines}


def test_a_resumed_run_goes_on_at_the_same_step_with_about_the_same_loss(runs):
    whole, _, resumed = map(log, (runs[0], runs[0], runs[2]))
    assert list(resumed) == list(range(STEPS + 5, STEPS + MORE + 1, 5))
    assert whole[5] - whole[STEPS] > 0.5  # it learned something that could be lost
    for step, loss in resumed.items():
        assert loss == pytest.approx(whole[step], abs=0.1 * (whole[5] - whole[STEPS]))


def test_a_state_is_a_model_that_says_how_much_it_has_read(runs):
    card = load(runs[1]).card
    assert card["tokens_seen"] == STEPS * 20
    assert card["license"]
    assert card["attribution"]


def test_a_state_has_the_weights_of_the_run_in_float16(runs):
    weights = Checkpoint.read(runs[1].parent / NAME).model
    kept = Evaluator.load(runs[1], "cpu")
    assert torch.equal(kept.bilm.layers[1].projection, weights["bilm.layers.1.projection"].half().float())
    assert torch.equal(kept.softmax.weight, weights["softmax.weight"].half().float())


def test_second_moments_keep_the_means_of_rows_and_columns(modules):
    halve, _ = modules
    squares = torch.rand(2, 5, 7) ** 4
    again = halve.product(halve.factors(squares))
    torch.testing.assert_close(again.mean(-1), squares.mean(-1))
    torch.testing.assert_close(again.mean(-2), squares.mean(-2))
    flat = torch.rand(6)
    assert halve.product(halve.factors(flat)) is flat
    assert not halve.product(halve.factors(torch.zeros(3, 4))).any()


def test_a_run_is_not_overwritten(runs, modules):
    with pytest.raises(SystemExit, match="this directory already holds a run"):
        modules[1].resume(runs[1], runs[0])


def test_a_state_needs_the_vocabulary_of_its_run(runs, modules, tmp_path):
    (tmp_path / "vocab.txt").write_text("<S>\n</S>\n<UNK>\nanother\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="not the vocabulary"):
        modules[0].halve(runs[0], tmp_path / "vocab.txt", tmp_path / "state")
