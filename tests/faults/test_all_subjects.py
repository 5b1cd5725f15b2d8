"""One trial of every subject and fault that test_faults.py leaves out.

It is a file of its own so that pytest-xdist can run it in another process.
"""

import sys

import pytest

from helpers.faults import FAST, check

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="it forks and mounts as Linux does")]


@pytest.mark.parametrize("faults", FAST)
def test_all_other_subjects_stand_every_fault(tmp_path, faults):
    check(tmp_path, faults, 1, "skip", FAST[faults])
