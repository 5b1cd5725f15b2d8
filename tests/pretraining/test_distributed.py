"""Two processes, as `torchrun` starts them, compared with one that has twice the rows."""

import signal
import time

import pytest
import torch

from spacy_elmo.errors import PretrainingError
from spacy_elmo.pretraining import checkpoint
from spacy_elmo.pretraining.checkpoint import Checkpoint
from spacy_elmo.pretraining.distributed import Group, join_group

SETTINGS = {"training__dropout": 0.0, "training__max_steps": 60, "training__n_epochs": 9.0}


@pytest.fixture
def torchrun(command, corpus_file, tmp_path, tiny_config):
    """Return a function that trains with two processes in `tmp_path / name`."""
    program = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "spacy_elmo.pretraining")

    def run(name, *more, wait=True, **changed):
        config = tmp_path / "two.cfg"
        config.write_text(tiny_config(**{**SETTINGS, "training__batch_size": 2, **changed}).text())
        arguments = (corpus_file, tmp_path / name, "--config", config, "--quiet", *more)
        finished = command(*arguments, program=program, wait=wait)
        if wait:
            assert finished.returncode == 0, finished.stderr
        return finished

    return run


def close(found, expected, tolerance):
    ours, theirs = (Checkpoint.read(out / checkpoint.NAME) for out in (found, expected))
    for name, tensor in ours.model.items():
        torch.testing.assert_close(tensor, theirs.model[name], rtol=tolerance, atol=tolerance, msg=name)
    for one, other in zip(ours.states, theirs.states, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_two_processes_learn_as_one_with_twice_the_rows(torchrun, train, log, tmp_path):
    torchrun("two")
    one = train("one", **SETTINGS)
    assert log.losses(tmp_path / "two") == [(step, pytest.approx(loss, abs=1e-4)) for step, loss in log.losses(one)]
    close(tmp_path / "two", one, 1e-4)
    assert (tmp_path / "two" / "vocab.txt").read_bytes() == (one / "vocab.txt").read_bytes()
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(path.name for path in one.iterdir())


@pytest.mark.slow
def test_run_of_two_processes_goes_on_in_one_with_all_rows_or_says_what_changes(torchrun, train, log, tmp_path, capsys):
    torchrun("two", training__max_steps=33)
    whole = train("whole", **SETTINGS)
    out = train("two", resume=True, **SETTINGS)
    assert capsys.readouterr().err == ""
    close(out, whole, 1e-4)
    train("two", resume=True, **{**SETTINGS, "training__batch_size": 2, "training__max_steps": 130})
    assert "written with 4 rows of 5 words, this run has 2 of 5" in capsys.readouterr().err
    assert log.lines(out)[-1]["step"] == 130


@pytest.mark.slow
def test_signal_to_two_processes_leaves_one_whole_checkpoint_to_resume_from(torchrun, train, log, tmp_path):
    process = torchrun("two", wait=False, training__max_steps=3000, training__n_epochs=999.0)
    out, end = tmp_path / "two", time.monotonic() + 120
    while not (out / "metrics.jsonl").exists() or len(log.lines(out)) < 4:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode != 0
    step = Checkpoint.read(out / checkpoint.NAME).step
    assert 20 <= step < 3000
    settings = {**SETTINGS, "training__n_epochs": 999.0, "training__max_steps": step + 20}
    close(train("two", resume=True, **settings), train("whole", **settings), 1e-4)


MACHINES = """
import os, sys
from spacy_elmo.pretraining.config import Config
from spacy_elmo.pretraining.run import pretrain

os.environ["LOCAL_RANK"] = "0"  # each process the first of its own machine, with a disk of its own
corpus, out, config, steps = sys.argv[1:]
config = Config.from_file(config, {"training.max_steps": steps})
pretrain(corpus, f"{out}/{os.environ['RANK']}", config, resume=True, show_progress=False)
"""


@pytest.mark.slow
def test_machines_that_share_no_disk_all_go_on_from_the_checkpoint_of_the_first(
    command, corpus_file, tmp_path, tiny_config, train, log
):
    (tmp_path / "machine.py").write_text(MACHINES)
    (tmp_path / "two.cfg").write_text(tiny_config(**{**SETTINGS, "training__batch_size": 2}).text())
    program = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    for steps in (20, 40):
        arguments = (tmp_path / "machine.py", corpus_file, tmp_path / "disks", tmp_path / "two.cfg", steps)
        done = command(*arguments, program=program)
        assert done.returncode == 0, done.stderr
    one = train("one", **{**SETTINGS, "training__max_steps": 40})
    first, other = tmp_path / "disks" / "0", tmp_path / "disks" / "1"
    assert log.losses(first) == [(step, pytest.approx(loss, abs=1e-4)) for step, loss in log.losses(one)]
    close(first, one, 1e-4)
    assert not (other / checkpoint.NAME).exists()


@pytest.mark.slow
def test_two_processes_end_early_together(torchrun, text, log, tmp_path):
    (tmp_path / "heldout.txt").write_text(text(30, seed=4))
    settings = {"corpus__heldout": str(tmp_path / "heldout.txt"), "training__patience": 1}
    torchrun("two", training__max_steps=None, optimizer__learning_rate=0.0, **settings)
    steps = [line["step"] for line in log.lines(tmp_path / "two", "heldout.jsonl")]
    assert steps == [steps[0], 2 * steps[0]]
    assert Checkpoint.read(tmp_path / "two" / checkpoint.NAME).step == steps[-1]


def test_process_by_itself_is_a_group_of_one(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with join_group("cpu") as group:
        assert (group.rank, group.size, group.is_main, group.device.type) == (0, 1, True, "cpu")
        group.wait()
        assert group.sum(torch.tensor([3.0])).item() == 3.0
        assert group.of_main("value") == "value"
        states = [(torch.ones(2, 3, 4), torch.zeros(2, 3, 5))]
        assert group.join_rows(states)[0][0] is states[0][0]
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("device", ["cpu:nonsense", "gpu", ""])
def test_device_that_is_none_is_an_error(device):
    with pytest.raises(PretrainingError, match="device is"), join_group(device):
        pass


def test_first_process_is_the_main_one():
    assert [Group(torch.device("cpu"), rank=rank, size=2).is_main for rank in (0, 1)] == [True, False]
