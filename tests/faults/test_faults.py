"""Kill at any change or moment, fill or write-protect the disk, read meanwhile: the old or the new state must be there.

This file makes one trial for some subjects; test_all_subjects.py has the others. `make faults` runs everything and
prints a table.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.faults import FAST, check

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it forks and mounts as Linux does")


@pytest.mark.parametrize("faults", FAST)
def test_the_old_or_the_new_state_is_there(tmp_path, faults):
    rows = check(tmp_path, faults, 1, "subject", FAST[faults])
    assert len({row["subject"] for row in rows}) == len(FAST[faults])


CARELESS = """
import json, os, secrets, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import common, harness

class Careless(common.Subject):
    name = "careless"

    def make(self, folder):
        (folder / "target").write_text("old")

    def write(self, folder):
        temporary = folder / secrets.token_hex(4)
        temporary.write_text("new")
        os.replace(temporary, folder / "target")

    def state(self, folder):
        return (folder / "target").read_text()

row = harness.kill_at_places(Careless(), Path(sys.argv[2]))
print(json.dumps([row.tried, row.wrong]))
"""


def test_whatever_a_killed_run_leaves_is_noticed_under_any_name(tmp_path):
    command = [sys.executable, "-c", CARELESS, Path(__file__).parent, tmp_path]
    tried, wrong = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert (tried, len(wrong)) == (4, 2)  # after the file is opened and before it is renamed, it is left
    assert all("left in the end: folder/" in fault for fault in wrong)


def test_the_table_in_the_docs_has_the_columns_of_the_tool(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text(encoding="utf8")
    documented = page[page.index("| written |") :].splitlines()[0]
    code = "import sys; sys.path.insert(0, sys.argv[1]); import harness\n"
    code += "faults = [name.strip() for name in sys.argv[2].split('|')[2:-4]]\n"
    code += "print(harness.table([harness.Row('it', fault) for fault in faults]).splitlines()[0])"
    command = [sys.executable, "-c", code, Path(__file__).parent, documented]
    assert subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip() == documented
