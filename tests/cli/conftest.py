"""`python -m spacy elmo …`, in this process and in one of its own. Starting one costs two seconds: a test or two of a
command show that it starts (of `embed` and `substitutes`, ../test_migrating.py), the others ask here."""

import os
import subprocess
import sys
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from spacy_elmo.cli import elmo_cli


class Done(NamedTuple):
    status: int
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def elmo():
    """Run a command in this process; exit status, stdout and stderr."""

    def run(*arguments):
        done = CliRunner().invoke(elmo_cli, list(map(str, arguments)), catch_exceptions=False)
        return Done(done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def elmo_process():
    """The same in a process of its own, with these environment variables."""

    def run(*arguments, stdout=subprocess.PIPE, **variables):
        command = [sys.executable, "-m", "spacy", "elmo", *map(str, arguments)]
        environment = {**os.environ, **variables}
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment)
        return Done(done.returncode, done.stdout, done.stderr)

    return run
