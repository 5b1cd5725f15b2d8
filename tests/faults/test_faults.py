"""Killed at any change and any moment, on a full or read-only disk, read meanwhile: the old or the new state is there.

Here one trial of some subjects; test_all_subjects.py has the others. `make faults` runs them all and prints a table.
"""

import sys

import pytest

from helpers.faults import FAST, check

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it forks and mounts as Linux does")


@pytest.mark.parametrize("faults", FAST)
def test_the_old_or_the_new_state_is_there(tmp_path, faults):
    rows = check(tmp_path, faults, 1, "subject", FAST[faults])
    assert len({row["subject"] for row in rows}) == len(FAST[faults])
