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


def test_what_is_done_is_not_done_again_and_what_is_wrong_is_told(tmp_path):
    kept = {"figures": {"slope": 99.5}, "wrong": ["memory grows"], "seconds": 3}
    (tmp_path / "fixed-7.json").write_text(json.dumps(kept))
    command = [sys.executable, RUN, "--part", "fixed", "--size", "7", "--out", tmp_path]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1
    assert "slope 99.5 | 3 | 1 |" in run.stdout
    assert "✘ fixed: memory grows" in run.stdout
