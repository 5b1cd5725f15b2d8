"""A run step by step: its log, its checkpoints, resuming from them, and stopping when training cannot continue."""

import math
import signal

import numpy as np
import pytest
import torch

from helpers.runs import save_soon, weights
from spacy_elmo.bilm.engines import cudnn
from spacy_elmo.bilm.engines.cudnn import CuDNN
from spacy_elmo.errors import ElmoError, PretrainingError
from spacy_elmo.pretraining import checkpoint
from spacy_elmo.pretraining.checkpoint import Checkpoint
from spacy_elmo.pretraining.language_model import LanguageModel
from spacy_elmo.pretraining.trainer import StoppedError, Trainer

KEYS = {"step", "tokens", "epoch", "loss", "perplexity", "tokens_per_second", "learning_rate"}


def assert_same_run(found, expected, log, tolerance=0.0):
    assert [step for step, _ in log.losses(found)] == [step for step, _ in log.losses(expected)]
    for (_, one), (_, other) in zip(log.losses(found), log.losses(expected), strict=True):
        assert one == pytest.approx(other, rel=1e-6)
    ours, theirs = weights(found), weights(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=tolerance, atol=tolerance, msg=name)


class Crash(BaseException):
    """Like a kill: none of the program's code runs afterwards."""


def crash(_):
    raise Crash


def test_loss_falls_and_the_log_has_the_keys_of_the_contract(train, log):
    out = train(training__n_epochs=6.0, training__n_negative_samples_batch=0)
    lines = log.lines(out)
    assert all(set(line) == KEYS for line in lines)
    assert lines[0]["loss"] == pytest.approx(math.log(27), abs=0.7)
    assert np.mean([line["loss"] for line in lines[-4:]]) < 0.8 * np.mean([line["loss"] for line in lines[:4]])
    for line in lines:
        assert line["perplexity"] == pytest.approx(math.exp(line["loss"]))
        assert line["tokens"] == 20 * line["step"]
        assert line["tokens_per_second"] > 0
        assert line["learning_rate"] == 0.2


def test_a_line_is_logged_every_so_many_steps_and_at_the_last(train, log):
    out = train(training__max_steps=12)
    assert [line["step"] for line in log.lines(out)] == [5, 10, 12]


def test_logged_loss_is_the_mean_since_the_line_before(train, log):
    each = dict(log.losses(train("each", training__max_steps=12, logging__log_every=1)))
    some = log.losses(train("some", training__max_steps=12, logging__log_every=5))
    assert some == [
        (5, pytest.approx(np.mean([each[n] for n in range(1, 6)]))),
        (10, pytest.approx(np.mean([each[n] for n in range(6, 11)]))),
        (12, pytest.approx((each[11] + each[12]) / 2)),
    ]


@pytest.mark.parametrize(("epochs", "share"), [(0.5, 0.5), (1.5, 1.5), (1e-6, 0)])
def test_a_fraction_of_an_epoch_is_that_share_of_its_steps(train, log, make_corpus, text, epochs, share):
    per_epoch = make_corpus(text()).n_positions // 20
    last = log.lines(train(training__n_epochs=epochs))[-1]
    assert last["step"] >= 1
    assert last["step"] == pytest.approx(share * per_epoch, abs=1)
    assert last["epoch"] == pytest.approx(last["step"] / per_epoch, abs=1e-3)


def test_max_steps_ends_a_run_before_its_epochs(train, log):
    assert log.lines(train(training__max_steps=3, training__n_epochs=50.0))[-1]["step"] == 3


def test_same_seed_same_run_and_other_seed_other_run(train, log):
    first, same = (train(name, training__max_steps=10) for name in ("first", "same"))
    other = train("other", training__max_steps=10, training__seed=1)
    assert_same_run(same, first, log)
    assert log.losses(other) != log.losses(first)


def test_run_does_not_depend_on_nor_change_the_random_numbers_of_the_process(train, log):
    torch.manual_seed(1)
    first = train("first", training__max_steps=6)
    torch.manual_seed(2)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert_same_run(train("second", training__max_steps=6), first, log)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


RECIPES = {
    "adagrad": {},
    "adam": {"optimizer__name": "adam", "optimizer__learning_rate": 0.01, "optimizer__warmup_steps": 9},
    "adamw": {
        "optimizer__name": "adamw",
        "optimizer__learning_rate": 0.01,
        "optimizer__weight_decay": 0.1,
        "optimizer__decay": "cosine",
    },
    "sentence": {"training__reset": "sentence", "training__reset_probability": 0.4},
    "full softmax": {"training__n_negative_samples_batch": 0, "training__dropout": 0.3},
    "average": {"training__average_decay": 0.9, "optimizer__name": "adam", "optimizer__learning_rate": 0.01},
    "bfloat16": {"training__precision": "bfloat16"},
    "float16": {"training__precision": "float16"},
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_crashed_run_that_is_resumed_gives_the_numbers_of_one_that_was_not(train, log, at_step, recipe):
    settings = {"training__max_steps": 60, "training__n_epochs": 9.0, **RECIPES[recipe]}
    whole = train("whole", **settings)
    undo = at_step(44, crash)
    with pytest.raises(Crash):
        train("crashed", logging__checkpoint_minutes=0.0, **settings)
    undo()
    assert_same_run(train("crashed", resume=True, **settings), whole, log)


def test_resumed_run_goes_on_from_a_checkpoint_in_another_epoch(train, log, at_step, tmp_path):
    settings = {"training__max_steps": 100, "training__n_epochs": 9.0}
    whole = train("whole", **settings)
    for step in (30, 60, 95):
        undo = at_step(step, crash)
        with pytest.raises(Crash):
            train("crashed", resume=step > 30, logging__checkpoint_minutes=0.0, **settings)
        undo()
        assert Checkpoint.read(tmp_path / "crashed" / checkpoint.NAME).step == step - 1
    assert_same_run(train("crashed", resume=True, **settings), whole, log)


def test_lines_logged_behind_the_last_checkpoint_are_not_there_twice(train, log, at_step, tmp_path):
    whole = train("whole", training__max_steps=30)
    saved = at_step(12, save_soon)
    crashed = at_step(23, crash)
    with pytest.raises(Crash):
        train("crashed", training__max_steps=30)
    crashed()
    saved()
    assert Checkpoint.read(tmp_path / "crashed" / checkpoint.NAME).step == 12
    with (tmp_path / "crashed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 25, "lo')  # an incomplete line
    assert_same_run(train("crashed", resume=True, training__max_steps=30), whole, log)


def test_run_that_crashed_before_its_first_checkpoint_starts_over_with_its_log(train, log, at_step):
    whole = train("whole", training__max_steps=30)
    undo = at_step(23, crash)
    with pytest.raises(Crash):
        train("crashed", training__max_steps=30)
    undo()
    assert_same_run(train("crashed", resume=True, training__max_steps=30), whole, log)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_writes_a_checkpoint_and_the_model_and_resuming_gives_the_same_numbers(
    train, log, at_step, tmp_path, number
):
    whole = train("whole", training__max_steps=20)
    undo = at_step(13, lambda _: signal.raise_signal(number))
    with pytest.raises(StoppedError, match="stopped at step 13 of 20; continue with --resume") as caught:
        train("stopped", training__max_steps=20)
    assert caught.value.exit_status == 128 + number
    undo()
    assert Checkpoint.read(tmp_path / "stopped" / checkpoint.NAME).step == 13
    assert (tmp_path / "stopped" / "weights.hdf5").is_file()
    assert_same_run(train("stopped", resume=True, training__max_steps=20), whole, log)


def test_finished_run_goes_on_for_more_epochs_as_if_it_had_never_stopped(train, log):
    whole = train("whole", training__n_epochs=3.0)
    train("longer", training__n_epochs=2.0)
    longer = train("longer", training__n_epochs=3.0, resume=True)
    steps = [step for step, _ in log.losses(longer)]
    assert steps == sorted(set(steps))
    ours, theirs = weights(longer), weights(whole)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_resuming_a_finished_run_changes_nothing(train, log):
    out = train(training__max_steps=10)
    before, lines = weights(out), log.lines(out)
    train(training__max_steps=10, resume=True)
    for name, tensor in weights(out).items():
        assert torch.equal(tensor, before[name]), name
    assert log.lines(out) == lines


def test_resuming_with_other_rows_goes_on_at_about_the_same_place_and_says_so(train, log, capsys):
    out = train(training__max_steps=12)
    train(training__max_steps=30, training__batch_size=2, resume=True)
    assert "written with 4 rows of 5 words, this run has 2 of 5" in capsys.readouterr().err
    steps = [line["step"] for line in log.lines(out)]
    assert steps[-1] == 30
    assert [line["tokens"] for line in log.lines(out)][-1] == 30 * 10
    assert Checkpoint.read(out / checkpoint.NAME).states[0][0].shape[1] == 2


CHANGED = {
    "dim": ({"model__dim": 12}, "another architecture: dim is 10 there, but 12 in the config"),
    "layers": ({"model__n_layers": 1}, "another architecture: n_layers"),
    "filters": ({"model__filters": ((1, 4), (3, 6))}, "another architecture: filters"),
    "skip": ({"model__use_skip_connections": False}, "another architecture: use_skip_connections"),
    "clip": ({"model__cell_clip": 2.0}, "another architecture: cell_clip"),
    "adam": ({"optimizer__name": "adam"}, "another optimizer"),
}


@pytest.mark.parametrize("change", CHANGED)
def test_checkpoint_of_another_kind_is_an_error_that_says_so(train, change):
    train(training__max_steps=5)
    settings, words = CHANGED[change]
    with pytest.raises(PretrainingError, match=words):
        train(training__max_steps=9, resume=True, **settings)


def test_resuming_that_fails_leaves_the_run_and_its_config_as_they_were(train):
    out = train(training__max_steps=5)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(PretrainingError, match="another architecture"):
        train(training__max_steps=9, resume=True, model__dim=12)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(("first", "then"), [("adam", "adamw"), ("adamw", "adam"), ("adam", "adagrad")])
def test_checkpoint_of_another_optimizer_is_refused(train, first, then):
    train(training__max_steps=5, optimizer__name=first, optimizer__learning_rate=0.01)
    with pytest.raises(PretrainingError, match="another optimizer"):
        train(training__max_steps=9, optimizer__name=then, optimizer__learning_rate=0.01, resume=True)


def test_settings_of_the_optimizer_may_change_when_a_run_goes_on(train):
    settings = {"optimizer__name": "adamw", "optimizer__learning_rate": 0.01}
    out = train(training__max_steps=5, **settings)
    train(training__max_steps=6, optimizer__weight_decay=0.25, optimizer__beta2=0.9, resume=True, **settings)
    group = Checkpoint.read(out / checkpoint.NAME).optimizer["param_groups"][0]
    assert (group["weight_decay"], tuple(group["betas"])) == (0.25, (0.9, 0.9))


def test_checkpoint_of_another_vocabulary_is_an_error_that_says_so(train, tmp_path):
    train(training__max_steps=5)
    other = tmp_path / "other.txt"
    other.write_text("<S>\n</S>\n<UNK>\nw00\n")
    with pytest.raises(PretrainingError, match="another vocabulary"):
        train(training__max_steps=9, corpus__vocabulary=str(other), resume=True)


def test_truncated_checkpoint_is_an_error_naming_it(train):
    out = train(training__max_steps=5)
    path = out / checkpoint.NAME
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(PretrainingError, match=r"checkpoint\.pt: cannot be read as a checkpoint"):
        train(training__max_steps=9, resume=True)


def without(key):
    return lambda part: {name: value for name, value in part.items() if name != key}


def with_value(key, value):
    return lambda part: {**part, key: value}


def in_memory(change):
    """Return a function that changes the optimizer's state of its first parameter."""
    return lambda part: {**part, "state": {**part["state"], 0: change(part["state"][0])}}


BIAS = "softmax.bias"
INSIDE = {
    "a weight missing": ("model", without(BIAS), f"model: {BIAS} is missing"),
    "a weight too many": ("model", with_value("new", torch.ones(2)), "model: new belongs to no part"),
    "a weight of another shape": ("model", with_value(BIAS, torch.ones(2)), rf"model: {BIAS} is \[2\] torch.float32"),
    "a weight of another type": ("model", with_value(BIAS, torch.ones(27, dtype=torch.int)), f"model: {BIAS} is"),
    "no parameters": ("optimizer", with_value("state", {0: {}}), "optimizer does not have"),
    "names for numbers": (
        "optimizer",
        lambda part: {"state": {str(n): {} for n in part["state"]}},
        "optimizer does not have",
    ),
    "memory missing": ("optimizer", in_memory(without("sum")), "optimizer, parameter 0: expected step, sum"),
    "memory of another type": ("optimizer", in_memory(lambda _: [1]), "optimizer, parameter 0: expected step, sum"),
    "memory of another shape": ("optimizer", in_memory(with_value("sum", torch.ones(3))), "parameter 0: sum is"),
    "memory that is no tensor": ("optimizer", in_memory(with_value("step", 5)), "parameter 0: step is 5"),
    "no options": ("options", with_value("lstm", {}), "another architecture"),
    "a layer missing": ("states", lambda states: states[:1], "states do not fit 4 rows"),
    "no states": ("states", lambda _: [], "states do not fit 4 rows"),
    "other states": ("states", lambda states: [(cell, hidden) for hidden, cell in states], "states do not fit"),
    "scaler": ("scaler", lambda _: {"scale": 1.0}, "scaler is of type dict, expected the state of a scaler"),
    "average": ("average", lambda _: {BIAS: torch.ones(27)}, "average: .* is missing"),
    "average of another kind": ("average", lambda _: [1], "average is of type list, expected tensors by name"),
    "another text": ("n_positions", lambda n: n + 1, "another text"),
}


@pytest.mark.parametrize("what", INSIDE)
def test_damage_inside_a_part_of_the_checkpoint_is_one_clear_error(train, what):
    path = train(training__max_steps=5) / checkpoint.NAME
    part, change, words = INSIDE[what]
    content = torch.load(path)
    torch.save({**content, part: change(content[part])}, path)
    with pytest.raises(PretrainingError, match=rf"checkpoint\.pt:? .*{words}"):
        train(training__max_steps=9, training__average_decay=0.9, resume=True)


@pytest.mark.parametrize("name", ["metrics.jsonl", "heldout.jsonl"])
def test_damaged_log_stops_the_resumed_run_before_it_changes_anything(train, name):
    out = train(training__max_steps=5)
    (out / name).write_text("[]\n")
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(PretrainingError, match=f"{name}, line 1: "):
        train(training__max_steps=9, resume=True)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_with_warmup_and_decay_learns_and_logs_its_rate(train, log, name):
    out = train(
        training__n_epochs=4.0,
        optimizer__name=name,
        optimizer__learning_rate=0.03,
        optimizer__warmup_steps=20,
        optimizer__decay="linear",
    )
    lines = log.lines(out)
    assert lines[-1]["loss"] < 0.75 * lines[0]["loss"]
    rates = [line["learning_rate"] for line in lines]
    assert rates[0] == pytest.approx(0.03 * 5 / 20)
    assert max(rates) == pytest.approx(0.03)
    assert rates[-1] < 0.002


def test_full_softmax_is_what_so_many_samples_as_words_amount_to(train, log):
    full = train("full", training__max_steps=10, training__n_negative_samples_batch=0)
    many = train("many", training__max_steps=10, training__n_negative_samples_batch=10**6)
    some = train("some", training__max_steps=10)
    assert_same_run(many, full, log)
    assert log.losses(some) != log.losses(full)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_learns_about_the_same(train, log, precision):
    expected = train("float32", training__max_steps=60)
    found = train(precision, training__max_steps=60, training__precision=precision)
    assert log.losses(found) != log.losses(expected)
    for (_, one), (_, other) in zip(log.losses(found), log.losses(expected), strict=True):
        assert one == pytest.approx(other, rel=0.05)
    assert all(tensor.dtype == torch.float32 for name, tensor in weights(found).items() if name.startswith("model"))


def test_lower_precision_without_highways_learns_about_the_same(train, log):
    expected = train("float32", training__max_steps=30, model__n_highway=0)
    found = train("lower", training__max_steps=30, model__n_highway=0, training__precision="bfloat16")
    assert log.losses(found) != log.losses(expected)
    for (_, one), (_, other) in zip(log.losses(found), log.losses(expected), strict=True):
        assert one == pytest.approx(other, rel=0.05)


def test_candidates_and_dropout_are_drawn_anew_at_each_step(train, monkeypatch):
    original, seen = LanguageModel.forward, []

    def forward(model, batch, characters, states, candidates, seed):
        seen.append((tuple(sorted(candidates.words.tolist())), seed))
        return original(model, batch, characters, states, candidates, seed)

    monkeypatch.setattr(LanguageModel, "forward", forward)
    train(training__max_steps=20)
    assert len({seed for _, seed in seen}) == 20
    assert len({words for words, _ in seen}) > 15


def test_speed_is_that_of_the_steps_taken_also_behind_a_resumption(train, log, at_step, monkeypatch):
    """Uses a clock that advances by a second at each step."""
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    original = Trainer._take_step

    def take_step(trainer):
        clock[0] += 1.0
        return original(trainer)

    monkeypatch.setattr(Trainer, "_take_step", take_step)
    undo = at_step(13, lambda _: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(StoppedError):
        train(training__max_steps=20)
    undo()
    out = train(training__max_steps=20, resume=True)
    assert [line["tokens_per_second"] for line in log.lines(out)] == [20.0] * 4


def test_process_that_torchrun_starts_again_goes_on_from_the_checkpoint(train, log, at_step, monkeypatch):
    """It has the same arguments each time, and --resume is among them from the start."""
    whole = train("whole", training__max_steps=20)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "some")
    arguments = {"training__max_steps": 20, "logging__checkpoint_minutes": 0.0, "resume": True}
    undo = at_step(13, crash)
    with pytest.raises(Crash):
        train("crashed", **arguments)
    undo()
    assert_same_run(train("crashed", **arguments), whole, log)


def test_log_before_the_checkpoint_stays_when_a_step_has_more_rows_from_there_on(train, log):
    out = train(training__max_steps=20)
    before = log.lines(out)
    train(resume=True, training__batch_size=8, training__max_steps=15)
    assert log.lines(out)[: len(before)] == before
    assert [line["tokens"] for line in log.lines(out)] == [100, 200, 300, 400, 600]


def test_run_goes_on_in_float16(train, log):
    train(training__max_steps=5)
    assert log.lines(train(resume=True, training__precision="float16", training__max_steps=10))[-1]["step"] == 10


def test_gradient_is_that_of_unroll_steps_times_the_loss_clipped_to_a_global_norm(train, at_step):
    """After one step of plain Adagrad, the accumulators are one plus the squares of the clipped gradient."""

    def norm(name, **settings):
        out = train(name, training__max_steps=1, training__dropout=0.0, **settings)
        squares = [tensor.double() - 1 for name, tensor in weights(out).items() if name.endswith(".sum")]
        return math.sqrt(sum(square.sum() for square in squares))

    free = norm("free", optimizer__clip_norm=0.0)
    assert free > 0.5
    assert norm("clipped", optimizer__clip_norm=free / 3) == pytest.approx(free / 3, rel=1e-3)
    assert norm("loose", optimizer__clip_norm=10 * free) == pytest.approx(free, rel=1e-3)


def test_tensorboard_files_appear_when_asked_for(train):
    pytest.importorskip("tensorboard")
    assert not (train("without", training__max_steps=5) / "tensorboard").exists()
    out = train("with", training__max_steps=5, logging__tensorboard=True)
    assert list((out / "tensorboard").glob("events.out.tfevents*"))


def test_tensorboard_that_is_not_there_is_an_error_that_says_what_to_install(train, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ElmoError, match="pip install tensorboard"):
        train(training__max_steps=5, logging__tensorboard=True)


@pytest.mark.parametrize(("reset", "serves"), [("batch", True), ("sentence", False)])
def test_run_through_the_lstm_that_cudnn_has_gives_our_numbers(train, log, monkeypatch, reset, serves):
    """On a CPU, torch makes the same call without cuDNN. The call cannot reset states between time steps."""
    settings = {
        "training__max_steps": 30,
        "training__reset": reset,
        "training__reset_probability": 0.3,
        "model__cell_clip": None,
        "model__proj_clip": None,
    }
    expected, calls = train("ours", **settings), []
    original = CuDNN.run

    def run(engine, layer, call):
        calls.append(call)
        return original(engine, layer, call)

    monkeypatch.setattr(CuDNN, "reasons_against", lambda _, layer, call: cudnn._reasons_against_case(layer, call))
    monkeypatch.setattr(CuDNN, "run", run)
    found = train("torchs", **settings)
    if serves:
        assert len(calls) >= 2 * 30
        assert any(call.starts[: call.rows].any() for call in calls)
    for (_, one), (_, other) in zip(log.losses(found), log.losses(expected), strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    ours, theirs = weights(found), weights(expected)
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-5, msg=name)


def test_sentence_resets_change_the_run(train, log):
    batch = train("batch", training__max_steps=10, training__reset="batch")
    sentence = train("sentence", training__max_steps=10, training__reset="sentence")
    assert log.losses(batch) != log.losses(sentence)
