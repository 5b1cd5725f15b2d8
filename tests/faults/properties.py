"""Test the properties of vectors (tests/test_properties.py) at one instruction level and precision.

The result is a row of the table.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

from harness import Row

from spacy_elmo.bilm.products import _HAS, Precision

sys.path.append(str(Path(__file__).resolve().parents[1]))

import levels

TESTS = Path(levels.__file__).parent
PLACES = {
    f"vectors, {level}, {precision}": ({**variables, "SPACY_ELMO_PRECISION": precision}, options)
    for level, (variables, options) in levels.here().items()
    for precision in get_args(Precision)
    if precision != "int8" or _HAS["int8"]
}


def row(name: str) -> Row:
    """Run the tests at one of `PLACES` and return the results."""
    variables, options = PLACES[name]
    found = Row(name, "properties")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *options, TESTS / "test_properties.py"]
        subprocess.run(command, env={**os.environ, **variables}, cwd=TESTS.parent, stdout=subprocess.DEVNULL)
        cases = list(ElementTree.parse(report).iter("testcase"))
    for case in cases:
        faults = [part.get("message", "").partition("\n")[0] for part in case if part.tag in ("failure", "error")]
        if case.find("skipped") is None:
            found.count("wrong" if faults else "right", faults, case.get("name", ""))
    return found
