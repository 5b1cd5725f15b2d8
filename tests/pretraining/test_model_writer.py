"""Which models a run writes, when it evaluates, and when it ends early."""

import json
import math

import pytest

from spacy_elmo.errors import CorpusError, PretrainingError
from spacy_elmo.pretraining.checkpoint import Checkpoint
from spacy_elmo.pretraining.evaluation import Evaluation, Evaluator, Perplexities
from spacy_elmo.pretraining.run import pretrain
from spacy_elmo.pretraining.trainer import Trainer


@pytest.fixture
def perplexities(monkeypatch):
    """Return a function that sets the perplexities of a run's evaluations in order. A repeated step gets the same
    value."""
    original = Trainer._evaluate

    def arrange(*values):
        seen = {}

        def evaluate(trainer):
            value = seen.setdefault(trainer.steps.step, values[min(len(seen), len(values) - 1)])
            found = Evaluation(9, *[Perplexities(value, value, value)] * 2)
            monkeypatch.setattr(Evaluator, "perplexity", lambda *_: found)
            return original(trainer)

        monkeypatch.setattr(Trainer, "_evaluate", evaluate)

    return arrange


def heldout(log, out):
    return [line["zero_state"]["perplexity"] for line in log.lines(out, "heldout.jsonl")]


def card(folder):
    return json.loads((folder / "model_card.json").read_text())


def model(folder):
    names = ("options.json", "weights.hdf5", "softmax.hdf5", "vocab.txt")
    return {name: (folder / name).read_bytes() for name in names}


def test_model_of_the_best_evaluation_is_kept_beside_the_last(train, prepared, perplexities, log):
    perplexities(10.0, 8.0, 9.0)
    two = train("two", corpus=prepared, training__n_epochs=2.0)
    three = train("three", corpus=prepared, training__n_epochs=3.0)
    assert heldout(log, three) == [10.0, 8.0, 9.0]
    assert card(three / "best")["heldout_perplexity"]["zero_state"]["perplexity"] == 8.0
    assert card(three)["heldout_perplexity"]["zero_state"]["perplexity"] == 9.0
    best, last, then = model(three / "best"), model(three), model(two)
    for name in ("weights.hdf5", "softmax.hdf5", "vocab.txt"):
        assert best[name] == then[name], name
    assert best["weights.hdf5"] != last["weights.hdf5"]
    Evaluator.load(three / "best")


def test_best_of_a_resumed_run_is_that_of_both_parts(train, prepared, perplexities):
    perplexities(8.0, 10.0, 9.0)
    out = train(corpus=prepared, training__n_epochs=1.0)
    first = model(out / "best")
    train(corpus=prepared, training__n_epochs=3.0, resume=True)
    assert model(out / "best") == first
    perplexities(9.0, 7.0)
    train(corpus=prepared, training__n_epochs=4.0, resume=True)
    assert model(out / "best") == model(out)


def test_without_heldout_text_there_is_no_best_model(train):
    assert not (train(training__max_steps=3) / "best").exists()


def test_run_ends_after_so_many_evaluations_without_a_better_one_and_does_so_again(
    train, prepared, perplexities, log, tmp_path
):
    values = [10.0, 8.0, 9.0, 7.0, 7.5, 7.2, 1.0]
    settings = {"corpus": prepared, "training__n_epochs": 50.0, "training__patience": 2}
    perplexities(*values)
    out = train(**settings)
    assert heldout(log, out) == values[:6]
    steps = [line["step"] for line in log.lines(out, "heldout.jsonl")]
    assert Checkpoint.read(out / "checkpoint.pt").step == steps[-1] == 6 * steps[0]
    before = model(out), log.lines(out, "heldout.jsonl"), log.lines(out)
    train(**settings, resume=True)
    assert (model(out), log.lines(out, "heldout.jsonl"), log.lines(out)) == before
    train(corpus=prepared, training__n_epochs=7.0, resume=True)
    assert heldout(log, out) == values


def test_run_without_patience_goes_on_to_its_end(train, prepared, perplexities, log):
    perplexities(*range(1, 6))
    assert heldout(log, train(corpus=prepared, training__n_epochs=5.0)) == [1, 2, 3, 4, 5]


def test_patience_without_heldout_text_is_an_error_before_training_starts(train, tmp_path):
    with pytest.raises(CorpusError, match="patience needs held-out text"):
        train(training__patience=2)
    assert not (tmp_path / "out").exists()


def test_evaluations_come_every_so_many_steps_and_at_the_end_also_of_a_resumed_run(train, prepared, log):
    settings = {"corpus": prepared, "logging__evaluate_every": 7}
    whole = train("whole", training__max_steps=24, **settings)
    assert [line["step"] for line in log.lines(whole, "heldout.jsonl")] == [7, 14, 21, 24]
    train("parts", training__max_steps=14, **settings)
    parts = train("parts", training__max_steps=24, resume=True, **settings)
    assert log.lines(parts, "heldout.jsonl") == log.lines(whole, "heldout.jsonl")
    assert model(parts / "best") == model(whole / "best")


def test_line_of_the_log_without_a_perplexity_is_an_error_where_it_is_needed(train, prepared):
    out = train(corpus=prepared, training__n_epochs=1.0)
    (out / "heldout.jsonl").write_text('{"tokens": 3}\n')
    with pytest.raises(PretrainingError, match=r"heldout\.jsonl: a line has no perplexity"):
        train(corpus=prepared, training__n_epochs=2.0, training__patience=1, resume=True)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"heldout_perplexity": 3}', b"\xff"])
def test_best_model_with_a_damaged_card_is_replaced(train, prepared, content):
    out = train(corpus=prepared, training__n_epochs=1.0)
    (out / "best" / "model_card.json").write_bytes(content)
    train(corpus=prepared, training__n_epochs=2.0, resume=True)
    assert math.isfinite(card(out / "best")["heldout_perplexity"]["perplexity"])


def test_best_model_is_not_overwritten_by_another_run(train, prepared):
    out = train(corpus=prepared, training__n_epochs=1.0)
    for path in out.iterdir():
        if path.is_file():
            path.unlink()
    with pytest.raises(PretrainingError, match="this directory holds a model"):
        train(corpus=prepared, training__n_epochs=1.0)


@pytest.mark.parametrize("values", [(9.0, 8.0), (8.0, 9.0)])
def test_run_says_in_the_end_how_good_its_model_is_where_it_is_and_how_to_use_it(
    tmp_path, prepared, perplexities, tiny_config, capsys, values
):
    perplexities(*values)
    pretrain(prepared, tmp_path / "out", tiny_config(training__n_epochs=2.0))
    said = [line for line in capsys.readouterr().err.splitlines() if "pretraining:" not in line]
    last = (
        f"✔ held-out perplexity {values[-1]:.4g} from zero state, {values[-1]:.4g} with carried state: the model is in "
    )
    assert f"{last}{tmp_path / 'out'}" in said
    best = tmp_path / "out" / "best"
    assert any(f"best held-out perplexity 8 from zero state: that model is in {best}" in line for line in said) == (
        values[0] < values[-1]
    )
    used = best if values[0] < values[-1] else tmp_path / "out"
    assert said[-1].strip() == f'nlp.add_pipe("elmo", config={{"model": {{"weights": "{used}"}}}})'


def test_run_without_heldout_text_says_its_training_perplexity(tmp_path, corpus_file, tiny_config, capsys, log):
    pretrain(corpus_file, tmp_path / "out", tiny_config(training__max_steps=6))
    last = log.lines(tmp_path / "out")[-1]["perplexity"]
    assert f"✔ training perplexity {last:.4g}: the model is in {tmp_path / 'out'}" in capsys.readouterr().err
