"""Kill at any change or moment, fill or write-protect the disk, read meanwhile: the old or the new state must be there.

This file makes one trial for some subjects; test_all_subjects.py has the others. `make faults` runs everything and
prints a table.
"""

import sys

import pytest

from helpers.faults import FAST, check

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it forks and mounts as Linux does")


@pytest.mark.parametrize("faults", FAST)
def test_the_old_or_the_new_state_is_there(tmp_path, faults):
    rows = check(tmp_path, faults, 1, "subject", FAST[faults])
    assert len({row["subject"] for row in rows}) == len(FAST[faults])
