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
FAST = {
    "kill": ("cache", "component", "convert-others", "download", "embed-over", "prepare", "pretrain"),
    "disk": ("cache", "component", "convert", "embed", "encode"),
    "overlay": ("convert",),
}


def rows_of(place, *arguments):
    """What a run says, as JSON; the errors that it prints are shown where a test fails."""
    run = subprocess.run([sys.executable, RUN, "--json", "--place", place, *arguments], stdout=subprocess.PIPE)
    assert run.stdout, "the run did not come to its end"
    return json.loads(run.stdout)


def check(rows, n_rows):
    assert len(rows) == n_rows
    assert all(row["tried"] for row in rows)
    assert [(row["subject"], row["fault"], row["wrong"]) for row in rows if row["wrong"]] == []


@pytest.fixture
def may_mount():
    """Skip where the user may not mount disks of their own, except in CI."""
    if subprocess.run(["unshare", "--map-root-user", "--mount", "true"], capture_output=True).returncode:
        if os.environ.get("SPACY_ELMO_REQUIRE_SHARED") == "1":
            pytest.fail("unshare --map-root-user --mount is not allowed here", pytrace=False)
        pytest.skip("unshare --map-root-user --mount is not allowed here")


@pytest.mark.parametrize("subject", FAST["kill"])
def test_a_killed_run_leaves_the_old_or_the_new_state(tmp_path, subject):
    check(rows_of(tmp_path, "--fault", "kill", "--trials", "3", "--subject", subject), 2)


@pytest.mark.parametrize("subject", FAST["disk"])
def test_a_full_or_read_only_disk_loses_nothing(tmp_path, may_mount, subject):
    check(rows_of(tmp_path, "--fault", "disk", "--trials", "3", "--subject", subject), 2)


@pytest.mark.parametrize("subject", FAST["overlay"])
def test_where_folders_cannot_be_exchanged_nothing_is_lost_either(tmp_path, may_mount, subject):
    check(rows_of(tmp_path, "--fault", "overlay", "--trials", "3", "--subject", subject), 1)


def test_readers_see_one_state_while_two_processes_write(tmp_path):
    subjects = [part for name in ("cache", "convert-others") for part in ("--subject", name)]
    check(rows_of(tmp_path, "--fault", "readers", "--trials", "3", *subjects), 2)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "disk", "overlay", "readers"])
def test_every_subject_stands_every_fault(tmp_path, may_mount, fault):
    rows = rows_of(tmp_path, "--fault", fault, "--trials", "8")
    check(rows, len(rows))
