"""Killed at any change and any moment, on a full or read-only disk, read meanwhile: the old or the new state is there.

Here a few trials of each; `make faults` runs them all and prints a table.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it forks and mounts as Linux does")

RUN = Path(__file__).with_name("run.py")
UNSHARE = ("unshare", "--map-root-user", "--mount")
# A few subjects are tried in every run of the tests, the others only in those that may take longer. Each line is one
# process: importing takes longer than a trial.
FAST = {
    "kill": ("cache", "component", "convert-others", "download", "embed-over", "prepare", "pretrain"),
    "disk overlay": ("cache", "component", "convert", "embed", "encode"),
    "readers": ("cache", "convert-others"),
}


def check(place, faults, trials, choice, subjects):
    """Run; the errors that it prints are shown where a test fails."""
    chosen = [part for name in subjects for part in (f"--{choice}", name)]
    chosen += [part for fault in faults.split() for part in ("--fault", fault)]
    command = [sys.executable, RUN, "--json", "--place", place, "--trials", str(trials), *chosen]
    if "disk" in faults:  # where it would go by itself, once it has imported everything
        command = [*UNSHARE, *command, "--in-name-space"]
    run = subprocess.run(command, stdout=subprocess.PIPE)
    assert run.stdout, "the run did not come to its end"
    rows = json.loads(run.stdout)
    assert rows
    assert all(row["tried"] for row in rows)
    assert [(row["subject"], row["fault"], row["wrong"]) for row in rows if row["wrong"]] == []
    return rows


@pytest.fixture(autouse=True)
def may_mount(request):
    """Where the user may not mount disks of their own, skip what needs them, except in CI."""
    if "disk" not in request.node.callspec.params["faults"]:
        return
    if subprocess.run([*UNSHARE, "true"], capture_output=True).returncode:
        if os.environ.get("SPACY_ELMO_REQUIRE_SHARED") == "1":
            pytest.fail(f"{' '.join(UNSHARE)} is not allowed here", pytrace=False)
        pytest.skip(f"{' '.join(UNSHARE)} is not allowed here")


@pytest.mark.parametrize("faults", FAST)
def test_the_old_or_the_new_state_is_there(tmp_path, faults):
    rows = check(tmp_path, faults, 2, "subject", FAST[faults])
    assert len({row["subject"] for row in rows}) == len(FAST[faults])


@pytest.mark.slow
@pytest.mark.parametrize("faults", FAST)
def test_all_other_subjects_stand_every_fault(tmp_path, faults):
    check(tmp_path, faults, 2, "skip", FAST[faults])
