"""The tutorials and the notebook run unchanged, from their first command to their last."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.shell import run_in_shell

ROOT = Path(__file__).resolve().parent.parent
WITH_COMMANDS = [
    page for page in sorted((ROOT / "docs" / "tutorials").glob("*.md")) if "```bash" in page.read_text(encoding="utf8")
]
SHORTENED = {  # whole trainings: two steps show that the commands fit together
    "--training.max_steps 200 --training.eval_frequency 50": "--training.max_steps 2 --training.eval_frequency 1",
    "pretrain_domain/pretrain.cfg": "pretrain_domain/pretrain.cfg --training.max_steps 2",
}


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.stem)
def test_commands_of_a_tutorial_run_one_after_the_other(page, tmp_path):
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf8"), re.DOTALL)
    script = "".join(blocks)
    for whole, short in SHORTENED.items():
        script = script.replace(whole, short)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    run_in_shell(script, tmp_path)


def test_cells_of_the_notebook_run():
    notebook = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text(encoding="utf8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 4
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(cells)], env=os.environ | {"MPLBACKEND": "agg"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    shown = [
        text for cell in notebook["cells"] for output in cell.get("outputs", []) for text in output.get("text", [])
    ]
    printed = [line for line in shown if re.search(r"\d\.\d\d$", line)]
    assert len(printed) == 4
    for line in printed:
        begin, number = line.rsplit(maxsplit=1)
        (found,) = re.findall(rf"^{re.escape(begin)}\s+(\S+)$", done.stdout, re.MULTILINE)
        assert abs(float(found) - float(number)) < 0.015, line  # a unit of the last place
