"""Name of a side in, the Python that runs it out: for a peer that of an environment, which is made where it is missing.

peers/NAME.txt says what is in it: blocks of what `pip install` is given, set apart by blank lines. torch stands in the
first one, alone: left to the resolver, it may be taken in a build of several gigabytes. Environments lie in .envs/
beside this file; one whose requirements or Python have changed is made anew.
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
    """A side of a comparison cannot be had, or could not do what it was asked to do."""


def note(text: str) -> None:
    """Tell on the error stream what is going on."""
    print(text, file=sys.stderr, flush=True)


def is_peer(name: str) -> bool:
    """Whether a side has an environment of its own."""
    return (PEERS / f"{name}.txt").exists()


def python_of(name: str) -> Path:
    """The interpreter for a side.

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
    """What `pip install` is given for each block."""
    blocks = (PEERS / f"{name}.txt").read_text(encoding="utf-8").split("\n\n")
    return [shlex.split(block, comments=True) for block in blocks]
