"""Run commands as a reader of the docs does, in a shell with this Python first on the path."""

import os
import subprocess
import sys
from pathlib import Path


def run_in_shell(script, directory):
    """Run a script line by line until one fails, which fails the test."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-ec", script], cwd=directory, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
