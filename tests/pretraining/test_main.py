"""`python -m spacy_elmo.pretraining`, in a separate process."""

import json
import shlex
import signal
import time

import pytest
import torch

from spacy_elmo.bilm import memory
from spacy_elmo.pretraining import checkpoint
from spacy_elmo.pretraining.checkpoint import Checkpoint

MAX_STEPS = 400


@pytest.fixture
def arguments(tmp_path, corpus_file, tiny_config):
    """Return the arguments of a tiny run in `tmp_path / name`."""
    config = tmp_path / "tiny.cfg"
    config.write_text(tiny_config(training__n_epochs=99.0, training__max_steps=20).text())

    def make(name, *more):
        return [corpus_file, tmp_path / name, "--config", config, "--quiet", *more]

    return make


def same(found, expected):
    ours, theirs = (Checkpoint.read(out / checkpoint.NAME).model for out in (found, expected))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def step_of(out):
    try:
        return json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    except (OSError, IndexError, ValueError):
        return 0


LONG = ["--training.max_steps", str(MAX_STEPS)]
SAVED_OFTEN = [*LONG, "--logging.checkpoint_minutes", "0"]


@pytest.fixture
def whole(train):
    """Train the same run without interruption."""
    return train("whole", training__n_epochs=99.0, training__max_steps=MAX_STEPS)


def test_killed_run_is_resumed_to_the_numbers_of_one_that_was_not(command, arguments, whole, tmp_path, log):
    out = tmp_path / "killed"
    for more, step in (([], 30), (["--resume"], 120)):
        process = command(*arguments("killed", *SAVED_OFTEN, *more), wait=False)
        wait_for(lambda step=step: step_of(out) >= step, process)
        process.kill()
        process.wait()
        saved = Checkpoint.read(out / checkpoint.NAME).step
        assert step - 1 <= saved < MAX_STEPS
    finished = command(*arguments("killed", *LONG, "--resume"))
    assert (finished.returncode, finished.stderr) == (0, "")
    same(out, whole)
    assert log.losses(out) == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in log.losses(whole)]
    assert (out / "weights.hdf5").read_bytes() == (whole / "weights.hdf5").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signalled_run_leaves_a_checkpoint_and_the_status_of_the_signal(command, arguments, whole, tmp_path, number):
    out = tmp_path / "stopped"
    process = command(*arguments("stopped", *LONG), wait=False)
    wait_for(lambda: step_of(out) >= 20, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err.startswith("✘ stopped at step")
    assert len(err.splitlines()) == 1
    assert 20 <= Checkpoint.read(out / checkpoint.NAME).step < MAX_STEPS
    assert command(*arguments("stopped", *LONG, "--resume")).returncode == 0
    same(out, whole)


def test_what_a_kill_in_the_middle_of_writing_left_is_cleared_away_by_the_resumed_run(train):
    out = train(training__max_steps=5)
    for name in (".checkpoint.pt.999999.part", ".weights.hdf5.999999.part"):
        (out / name).write_bytes(b"half")
    train(training__max_steps=10, resume=True)
    assert not list(out.glob(".*.part"))


@pytest.fixture
def call(monkeypatch, capsys):
    """Return a function that runs the command in this process. It returns status, stdout and stderr."""
    from spacy_elmo.pretraining import __main__ as module

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["pretraining", *map(str, arguments)])
        monkeypatch.setattr(module, "keep_freed_memory", lambda: None)  # this process has other work to do
        try:
            status = module.main()
        except SystemExit as error:
            status = error.code
        return (status, *capsys.readouterr())

    return run


def test_ctrl_c_before_the_first_step_is_one_line_and_status_130(call, arguments, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("spacy_elmo.pretraining.__main__.pretrain", stop)
    assert call(*arguments("out")) == (130, "", "✘ stopped\n")


def test_success_is_status_0_and_silent_when_asked_to_be(call, arguments, tmp_path):
    assert call(*arguments("out")) == (0, "", "")
    assert (tmp_path / "out" / "weights.hdf5").is_file()


def test_progress_goes_to_stderr(call, arguments):
    status, out, err = call(*(argument for argument in arguments("out") if argument != "--quiet"))
    assert (status, out) == (0, "")
    assert "pretraining" in err


@pytest.mark.parametrize("where", ["behind", "before"])
def test_settings_are_overridden_wherever_they_stand(call, arguments, tmp_path, log, where):
    override = ["--training.max_steps", "7"]
    given = arguments("out")
    status, _, err = call(*([*given, *override] if where == "behind" else [*override, *given]))
    assert (status, err) == (0, "")
    assert log.lines(tmp_path / "out")[-1]["step"] == 7


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--training.batch_size", "99999"], "less than one batch"),
        (["--training.batch_size", "x"], "expected a whole number"),
        (["--init-from", "/missing"], "no such weights"),
        (["--resume"], "no run in this directory to resume"),
    ],
)
def test_failure_is_status_1_and_one_line(call, arguments, change, words):
    status, out, err = call(*arguments("out", *change))
    assert (status, out) == (1, "")
    assert err.startswith("✘ ")
    assert words in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("line", ["", "corpus", "corpus out", "corpus out --config c --bogus", "a b c --config c"])
def test_wrong_usage_is_status_2(call, line):
    assert call(*shlex.split(line))[0] == 2


def test_help_has_an_example(call):
    status, out, _ = call("--help")
    assert status == 0
    assert "Example: python -m spacy_elmo.pretraining" in " ".join(out.split())


BLOCKED = """
import runpy, sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"spacy", "thinc", "tqdm", "zstandard", "typer", "srsly", "catalogue", "wasabi"}:
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
runpy.run_module("spacy_elmo.pretraining", run_name="__main__", alter_sys=True)
"""


def test_trains_where_only_torch_numpy_and_h5py_are_installed(command, arguments, tmp_path):
    loud = [argument for argument in arguments("out") if argument != "--quiet"]
    finished = command(*loud, program=("-c", BLOCKED))
    assert finished.returncode == 0, finished.stderr
    last, use = finished.stderr.splitlines()  # no progress bar, only how to use the model
    assert last.startswith("✔ training perplexity ")
    assert use.strip().startswith("nlp.add_pipe")
    assert (tmp_path / "out" / "weights.hdf5").is_file()


def test_spacy_command_is_the_same(command, call, arguments, tmp_path):
    pytest.importorskip("spacy")
    finished = command(*arguments("spacy", "--training.seed", "3"), program=("-m", "spacy", "elmo", "pretrain"))
    assert finished.returncode == 0, finished.stderr
    assert call(*arguments("plain", "--training.seed", "3")) == (0, "", "")
    same(tmp_path / "spacy", tmp_path / "plain")


HOLES = """
import os, sys
from pathlib import Path
import torch
from spacy_elmo.pretraining import run
from spacy_elmo.pretraining.config import Config
from spacy_elmo.pretraining.process import keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20

keep_freed_memory()
corpus, out, config = sys.argv[1:]
run.pretrain(corpus, out, Config.from_file(Path(config)), show_progress=False)
arrays = [torch.ones(2**17) for _ in range(400)]  # 200 MiB
kept = arrays[::2]
del arrays
before = resident()
changes = {"training.max_steps": "21"}
run.pretrain(corpus, out, Config.from_file(Path(config), changes), resume=True, show_progress=False)
print(before, resident())
"""


@pytest.mark.skipif(memory._TRIM is None, reason="no such call in this system's C library")
def test_checkpoint_returns_the_holes_that_steps_leave_between_arrays(command, arguments):
    corpus, out, _, config, _ = arguments("holes")
    done = command(corpus, out, config, program=("-c", HOLES))
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert after < before - 80
