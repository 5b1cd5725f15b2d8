"""`python -m spacy elmo …`, in this process and in a separate one. Starting a process costs two seconds. So one or two
tests of a command show that it starts (../test_migrating.py for `embed` and `substitutes`), and the others run it
here."""

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
    """Run a command in this process. Returns exit status, stdout and stderr."""

    def run(*arguments):
        done = CliRunner().invoke(elmo_cli, list(map(str, arguments)), catch_exceptions=False)
        return Done(done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def elmo_process():
    """Run a command in a separate process with these environment variables. Returns the same."""

    def run(*arguments, stdout=subprocess.PIPE, **variables):
        command = [sys.executable, "-m", "spacy", "elmo", *map(str, arguments)]
        environment = {**os.environ, **variables}
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment)
        return Done(done.returncode, done.stdout, done.stderr)

    return run
