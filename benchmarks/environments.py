"""Finds the Python that runs a side. A peer has its own environment, which is made if it is missing.

peers/NAME.txt says what is in it: blocks of arguments for `pip install`, separated by blank lines. torch is alone in
the first block, because the resolver may choose a build of several gigabytes. Environments are in .envs/ next to this
file. If the requirements or Python have changed, the environment is made again.
"""

import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

PEERS = Path(__file__).with_name("peers")
ENVIRONMENTS = Path(__file__).with_name(".envs")
PIP = ("-m", "pip", "--disable-pip-version-check", "install", "--no-compile")


class SideError(RuntimeError):
    """A side of a comparison is not available, or failed."""


def note(text: str) -> None:
    """Print progress on stderr."""
    print(text, file=sys.stderr, flush=True)


def is_peer(name: str) -> bool:
    """Whether a side has its own environment."""
    return (PEERS / f"{name}.txt").exists()


def python_of(name: str) -> Path:
    """Return the interpreter of a side.

    Raises:
        SideError: the environment cannot be made.
    """
    if not is_peer(name):
        return Path(sys.executable)
    blocks, directory = pip_arguments(name), ENVIRONMENTS / name
    python, stamped = directory / "bin" / "python", directory / "requirements.txt"
    stamp = "\n".join([platform.python_version(), *map(" ".join, blocks)])
    try:
        if not (stamped.exists() and stamped.read_text(encoding="utf-8") == stamp):
            note(f"{name}: making its environment in {directory}")
            shutil.rmtree(directory, ignore_errors=True)
            commands = [[sys.executable, "-m", "venv", str(directory)], *([str(python), *PIP, *one] for one in blocks)]
            for command in commands:
                subprocess.run(command, check=True, capture_output=True, text=True)
            stamped.write_text(stamp, encoding="utf-8")
    except (OSError, subprocess.CalledProcessError) as error:
        last = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        raise SideError(f"its environment cannot be made ({last})") from None
    return python


def pip_arguments(name: str) -> list[list[str]]:
    """Return the arguments of `pip install` for each block."""
    blocks = (PEERS / f"{name}.txt").read_text(encoding="utf-8").split("\n\n")
    return [shlex.split(block, comments=True) for block in blocks]
