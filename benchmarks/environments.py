"""Name of a peer in, the Python of an environment that holds it out; the environment is made where it is not there.

peers/NAME.txt says what is in it: blocks of pinned requirements, set apart by blank lines, each installed by a call of
pip of its own. torch stands in the first one, alone: left to the resolver, it may be taken in a build of several
gigabytes. A block with the comment `# --no-deps` is installed without what it says it depends on.

Environments lie in .envs/ beside this file. One whose requirements or Python have changed is made anew.
"""

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PEERS = Path(__file__).with_name("peers")
ENVIRONMENTS = Path(__file__).with_name(".envs")
NO_DEPS = "# --no-deps"


class MissingPeerError(RuntimeError):
    """The environment of a peer cannot be made here."""


def note(text: str) -> None:
    """Tell on the error stream what is going on."""
    print(text, file=sys.stderr, flush=True)


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment.

    Raises:
        MissingPeerError: it cannot be made.
    """
    requirements = (PEERS / f"{name}.txt").read_text(encoding="utf-8")
    stamp = f"# Python {platform.python_version()}\n{requirements}"
    directory = ENVIRONMENTS / name
    python, stamped = directory / "bin" / "python", directory / "requirements.txt"
    try:
        if not (python.exists() and stamped.exists() and same(stamped.read_text(encoding="utf-8"), stamp)):
            note(f"{name}: making its environment in {directory}")
            make(directory, requirements)
            stamped.write_text(stamp, encoding="utf-8")
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()[-1:]
        raise MissingPeerError(f"its environment cannot be made ({' '.join(last) or error})") from None
    except OSError as error:
        raise MissingPeerError(f"its environment cannot be made ({error})") from None
    return python


def same(stamp: str, other: str) -> bool:
    """Whether two stamps are of the same Python and packages; comments do not matter."""
    return stamp.split("\n")[0] == other.split("\n")[0] and [*pip_arguments(stamp)] == [*pip_arguments(other)]


def make(directory: Path, requirements: str) -> None:
    """Make an environment out of blocks of requirements, in place of one that is there.

    Raises:
        CalledProcessError, OSError: it cannot be made.
    """
    if directory.exists():
        shutil.rmtree(directory)
    install = [str(directory / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--no-compile"]
    commands = [[sys.executable, "-m", "venv", str(directory)]]
    commands += [[*install, *arguments] for arguments in pip_arguments(requirements)]
    for command in commands:
        subprocess.run(command, check=True, capture_output=True, text=True)


def pip_arguments(requirements: str) -> Iterator[list[str]]:
    """Yield what `pip install` is given for each block."""
    for block in requirements.split("\n\n"):
        lines = [line.strip() for line in block.splitlines()]
        packages = [line for line in lines if line and not line.startswith("#")]
        if packages:
            yield [*(["--no-deps"] if any(line.startswith(NO_DEPS) for line in lines) else []), *packages]
