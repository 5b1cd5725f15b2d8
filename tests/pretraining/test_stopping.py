"""When training cannot continue (NaN loss, saturated layers, a full disk), the run ends, and a good checkpoint
stays."""

import json
import math

import pytest
import torch

from helpers.runs import save_soon, weights
from spacy_elmo.errors import PretrainingError
from spacy_elmo.pretraining import checkpoint
from spacy_elmo.pretraining.checkpoint import Checkpoint


def finite(out):
    return all(torch.isfinite(tensor.double()).all() for tensor in weights(out).values())


def poison(trainer):
    with torch.no_grad():
        trainer.steps.model.softmax.weight[3] = math.nan


def test_loss_that_is_no_number_stops_the_run_and_keeps_a_good_checkpoint(train, at_step, tmp_path):
    at_step(8, save_soon)
    at_step(11, poison)
    with pytest.raises(PretrainingError, match=r"stopped at step 1\d: the loss is nan.*last good checkpoint is .*\.pt"):
        train(training__max_steps=40)
    out = tmp_path / "out"
    assert finite(out)
    assert Checkpoint.read(out / checkpoint.NAME).step == 8
    assert all(math.isfinite(json.loads(line)["loss"]) for line in (out / "metrics.jsonl").read_text().splitlines())


def test_loss_that_is_no_number_before_any_checkpoint_says_that_there_is_none(train, at_step):
    at_step(2, poison)
    with pytest.raises(PretrainingError, match=r"the loss is nan.*no checkpoint yet"):
        train(training__max_steps=40)


def test_weights_that_overflow_at_a_checkpoint_are_not_kept_as_good_ones(train, at_step, tmp_path):
    """The loss of a step comes from the weights before it, so the effect of a step is visible only in the next."""

    def overflow(trainer):
        with torch.no_grad():
            trainer.steps.model.softmax.weight[3] = math.inf

    at_step(12, overflow)
    with pytest.raises(PretrainingError, match="last good checkpoint"):
        train(training__max_steps=12, logging__checkpoint_minutes=0.0)
    assert finite(tmp_path / "out")


def test_absurd_learning_rate_ends_in_an_error_not_in_a_model(train, tmp_path):
    with pytest.raises(PretrainingError, match="stopped at step"):
        train(training__max_steps=40, optimizer__learning_rate=1e38, model__cell_clip=None, model__proj_clip=None)
    assert not (tmp_path / "out" / "weights.hdf5").exists()


def saturate(layer, direction):
    def act(trainer):
        with torch.no_grad():
            bias = (
                trainer.steps.model.bilm.layers[layer].bias[direction].view(4, -1)
            )  # input, forget, output, candidate
            bias[:2], bias[3] = 20.0, 20.0

    return act


@pytest.mark.parametrize(("layer", "direction"), [(0, 0), (1, 1)])
def test_saturated_layer_stops_the_run_and_is_named(train, at_step, layer, direction):
    at_step(7, saturate(layer, direction))
    name = ("forward", "backward")[direction]
    with pytest.raises(
        PretrainingError,
        match=rf"stopped at step 10: .*cells of {name} layer {layer + 1} are at the clip \(0.5\).*reset_probability",
    ):
        train(training__max_steps=40, model__cell_clip=0.5, optimizer__learning_rate=1e-6)


def test_saturation_from_zero_state_is_seen_too(train, at_step):
    """Cells fill up from zero state, while the carried state of the rows holds them down."""

    def act(trainer):
        saturate(1, 0)(trainer)
        for hidden, cell in trainer.steps.states:
            hidden.zero_()
            cell.fill_(-0.3)

    at_step(10, act)
    with pytest.raises(PretrainingError, match="from zero state"):
        train(training__max_steps=40, model__cell_clip=0.5, optimizer__learning_rate=1e-6)


def test_layer_without_a_clip_that_tanh_tells_nothing_of_any_more_stops_the_run_and_is_named(train, at_step):
    at_step(7, saturate(1, 0))
    with pytest.raises(PretrainingError, match=r"cells of forward layer 2 are beyond 9 from carried state.*reset"):
        train(training__max_steps=60, model__cell_clip=None, optimizer__learning_rate=1e-6)


def test_trained_model_without_clips_is_not_taken_for_saturated(train, log):
    settings = {"optimizer__name": "adam", "optimizer__learning_rate": 0.03, "training__n_epochs": 6.0}
    lines = log.lines(train(model__cell_clip=None, model__proj_clip=None, **settings))
    assert lines[-1]["loss"] < 0.75 * lines[0]["loss"]


def test_full_disk_at_a_checkpoint_stops_the_run_with_the_checkpoint_before(train, at_step, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    at_step(9, lambda _: monkeypatch.setattr(checkpoint.torch, "save", full))
    with pytest.raises(PretrainingError, match=r"checkpoint\.pt.*No space left.*the previous one is kept"):
        train(training__max_steps=40, logging__checkpoint_minutes=0.0)
    assert Checkpoint.read(tmp_path / "out" / checkpoint.NAME).step == 8
    assert not list((tmp_path / "out").glob(".*part"))
