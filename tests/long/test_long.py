"""The long runs, shortened: each part does its job and reports what is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parent / "run.py"
SIZES = {"threads": 80, "shared_zones": 160, "processes": 1}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.parametrize("part", SIZES)
def test_a_short_run_goes_well(part, tmp_path):
    command = [sys.executable, RUN, "--part", part, "--size", str(SIZES[part]), "--out", tmp_path]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.startswith("| run |")


def kept(folder):
    """Return the kept results, by part and size."""
    lines = map(json.loads, next(folder.iterdir()).read_text().splitlines())
    return {line["key"]: line["result"] for line in lines}


def test_what_went_well_is_not_done_again_what_was_wrong_is(tmp_path):
    command = [sys.executable, RUN, "--part", "processes", "--size", "1", "--out", tmp_path]
    assert subprocess.run(command).returncode == 0
    [path] = tmp_path.iterdir()
    result = {**kept(tmp_path)["processes 1"], "seconds": 99}
    path.write_text(json.dumps({"key": "processes 1", "result": result}) + "\n")
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.returncode, "| 99 | 0 |" in run.stdout) == (0, True)
    path.write_text(json.dumps({"key": "processes 1", "result": {**result, "wrong": ["memory grows"]}}) + "\n")
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.returncode, "| 99 |" in run.stdout) == (0, False)


def test_what_is_wrong_is_told(tmp_path):
    command = [sys.executable, RUN, "--part", "fixed", "--size", "-1", "--out", tmp_path]  # nothing to measure
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1
    assert "✘ fixed: ended with status 1" in run.stdout
