"""The commands that run a model accept a device."""

import json

import pytest
import torch

from helpers.commands import Commands

COMMANDS = [
    "evaluate MODEL TEXT --json --quiet",
    "substitutes TEXT --model MODEL --json --quiet",
    "neighbours bank CORPUS --model MODEL --in SENTENCE --json --quiet",
    "visualize TEXT OUT.png --model MODEL --quiet",
    "embed TEXT OUT.hdf5 --model MODEL --json --quiet",
]


@pytest.fixture
def run(whole_model, tmp_path):
    """Return a function that runs a command on a device and returns its result."""
    commands = Commands(whole_model, tmp_path)
    return lambda command, device: commands.run(command, "--device", device, out=device)


def numbers(found):
    """Return all numbers of a JSON value, in order."""
    if isinstance(found, dict | list):
        for value in found.values() if isinstance(found, dict) else found:
            yield from numbers(value)
    elif isinstance(found, int | float):
        yield float(found)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[0])
def test_a_device_that_is_none_is_one_line_and_status_1(run, tmp_path, command):
    done = run(command, "gpu")
    assert done.exit_code == 1
    assert '✘ device is \'gpu\', expected "auto", "cpu"' in done.output
    assert not list(tmp_path.glob("gpu*"))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[0])
def test_it_runs_where_it_is_told_to(run, monkeypatch, command):
    moved = []
    to = torch.nn.Module.to
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: [moved.append(device), to(self, device)][1])
    done = run(command, "cpu")
    assert done.exit_code == 0, done.output
    assert set(map(str, moved)) == {"cpu"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("command", [command for command in COMMANDS if "--json" in command])
def test_a_gpu_gives_what_the_cpu_gives(run, command):
    expected, found = (json.loads(run(command, device).stdout) for device in ("cpu", "cuda"))
    assert list(numbers(found)) == pytest.approx(list(numbers(expected)), rel=1e-3, abs=1e-5)
