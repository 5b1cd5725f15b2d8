"""The moving average of the weights: its numbers, and which weights are evaluated, written and resumed from."""

import pytest
import torch

from spacy_elmo import formats
from spacy_elmo.errors import PretrainingError
from spacy_elmo.pretraining.average import WeightAverage
from spacy_elmo.pretraining.checkpoint import Checkpoint
from spacy_elmo.pretraining.evaluation import Evaluator
from spacy_elmo.pretraining.trainer import Trainer


def test_average_is_that_of_the_recurrence_written_out():
    network = torch.nn.Linear(1, 1, bias=False).double()
    network.weight.data.fill_(1.0)
    average, expected = WeightAverage(network, 0.5), 1.0
    for step, value in enumerate((2.0, -1.0, 4.0, 0.5) * 4, start=1):
        network.weight.data.fill_(value)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert average.state_dict()["weight"].item() == pytest.approx(expected)


def test_weights_are_what_they_were_behind_the_average_also_where_that_fails():
    network = torch.nn.Linear(3, 2)
    average, before = WeightAverage(network, 0.9), network.weight.detach().clone()
    network.weight.data.add_(1.0)

    def fail():
        with average.in_place():
            assert torch.equal(network.weight, before)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(network.weight, before + 1.0)


def test_average_of_another_network_is_refused():
    average = WeightAverage(torch.nn.Linear(3, 2), 0.9)
    with pytest.raises(PretrainingError, match="file: average: bias is missing"):
        average.restore({"weight": torch.zeros(2, 3)}, "file: average")


def test_written_and_evaluated_model_is_the_average_and_training_goes_on_from_the_weights(train, prepared, log):
    settings = {"corpus": prepared, "training__n_epochs": 2.0}
    plain = train("plain", **settings)
    out = train("average", training__average_decay=0.9, **settings)
    assert log.losses(out) == log.losses(plain)
    saved, written = Checkpoint.read(out / "checkpoint.pt"), formats.load(out).state_dict()
    for name, tensor in Checkpoint.read(plain / "checkpoint.pt").model.items():
        assert torch.equal(saved.model[name], tensor), name
    for name, tensor in written.items():
        start = 1 if name == "embedder.embedding" else 0  # "no token" is in no file
        assert torch.equal(tensor[start:], saved.average[f"bilm.{name}"][start:]), name
        assert not torch.equal(tensor[start:], saved.model[f"bilm.{name}"][start:]), name
    sentences = [line.split() for line in (prepared / "heldout" / "a.txt").read_text().splitlines() if line]
    found = Evaluator.load(out).perplexity(sentences).zero_state.perplexity
    assert log.lines(out, "heldout.jsonl")[-1]["zero_state"]["perplexity"] == pytest.approx(found, rel=1e-4)
    assert "weights averaged with decay 0.9" in (out / "model_card.json").read_text()


def test_average_of_a_run_that_was_evaluated_and_resumed_in_between_is_the_same(train, prepared):
    settings = {"corpus": prepared, "training__average_decay": 0.9, "logging__evaluate_every": 5}
    whole = train("whole", training__max_steps=24, **settings)
    train("parts", training__max_steps=11, **settings)
    parts = train("parts", training__max_steps=24, resume=True, **settings)
    ours, theirs = (Checkpoint.read(out / "checkpoint.pt").average for out in (parts, whole))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    assert (parts / "weights.hdf5").read_bytes() == (whole / "weights.hdf5").read_bytes()


def test_run_that_took_no_average_may_begin_with_one_and_leave_it_again(train, monkeypatch):
    out = train(training__max_steps=6)
    began = Checkpoint.read(out / "checkpoint.pt")
    original, seen = Trainer.run, {}

    def run(trainer):
        seen.update({name: tensor.clone() for name, tensor in trainer.steps.average.state_dict().items()})
        original(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", run)
        train(training__max_steps=8, training__average_decay=0.9, resume=True)
    for name, tensor in seen.items():
        assert torch.equal(tensor, began.model[name]), name
    train(training__max_steps=9, resume=True)
    assert Checkpoint.read(out / "checkpoint.pt").average is None
