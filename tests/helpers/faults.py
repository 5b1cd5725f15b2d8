"""The fault tests (tests/faults/run.py) in short form: which of them always run, and how to run them in a process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[1] / "faults" / "run.py"
UNSHARE = ("unshare", "--map-root-user", "--mount")
REQUIRED = ("SPACY_ELMO_REQUIRE_MOUNTS", "SPACY_ELMO_REQUIRE_SHARED")
# What the fast tests try. The slow ones try the others. A line is one process, as importing takes longer than a trial.
FAST = {
    "kill": ("cache", "component", "convert-others", "download", "embed-over", "prepare", "pretrain"),
    "disk overlay": ("cache", "component", "convert", "embed", "encode"),
    "readers": ("cache", "convert-others"),
}


def check(place, faults, trials, choice, subjects):
    """Try faults, and return the rows. choice: "subject" for these, "skip" for all but these.

    If a test fails, it shows the errors that the run printed.
    """
    chosen = [part for name in subjects for part in (f"--{choice}", name)]
    chosen += [part for fault in faults.split() for part in ("--fault", fault)]
    command = [sys.executable, RUN, "--json", "--place", place, "--trials", str(trials), *chosen]
    if "disk" in faults:  # run.py would do this itself, but only after importing everything
        skip_without_mounts()
        command = [*UNSHARE, *command, "--in-name-space"]
    run = subprocess.run(command, stdout=subprocess.PIPE)
    assert run.stdout, "the run did not come to its end"
    rows = json.loads(run.stdout)
    assert rows
    assert all(row["tried"] for row in rows)
    assert [(row["subject"], row["fault"], row["wrong"]) for row in rows if row["wrong"]] == []
    return rows


def skip_without_mounts():
    """Skip the test if the user may not mount disks. In CI (any of `REQUIRED` is 1), the test fails instead."""
    if subprocess.run([*UNSHARE, "true"], capture_output=True).returncode:
        if any(os.environ.get(name) == "1" for name in REQUIRED):
            pytest.fail(f"{' '.join(UNSHARE)} is not allowed here", pytrace=False)
        pytest.skip(f"{' '.join(UNSHARE)} is not allowed here")
