"""Install torch into the environment of the Python that runs this script, from an index that it chooses.

If spacy-elmo can use the installed torch, it stays as it is, unless TORCH asks for another. TORCH is a requirement or a
wheel file for pip. TORCH_INDEX is the index where pip looks for it (empty: pip's default). Without a TORCH_INDEX, Linux
on x86-64 without an NVIDIA GPU gets the CPU build, because the default build has gigabytes of CUDA. If the index does
not answer or has no such torch, pip's default index is used.
"""

import http.client
import os
import platform
import re
import subprocess
import sys
import threading
import urllib.request
from contextlib import suppress
from importlib import metadata

DEFAULT = "torch==2.13.0"
OLDEST = (2, 6)  # as in pyproject.toml
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
SECONDS = 10.0  # an index that does not answer within this time is not used


def main() -> int:
    """Install what the environment variables ask for. Return the exit status."""
    wanted, index = os.environ.get("TORCH"), os.environ.get("TORCH_INDEX")
    if not wanted and (version := installed()):
        say(f"{version} is installed and stays")
        return 0
    wanted = wanted or DEFAULT
    if wanted.endswith(".whl"):
        index = ""  # a wheel file needs no index
    elif index is None and has_cuda_by_default() and not sees_gpu():
        index = CPU_INDEX
    if index:
        say(f"installing {wanted} from {index} (TORCH_INDEX names another index)")
        # Without dependencies: not every index has them, and they come with spacy-elmo.
        if not answers(index):
            say(f"{index} does not answer within {SECONDS:g} seconds")
        elif pip("--no-deps", "--index-url", index, wanted) == 0:
            return 0
        say("asking pip's default index")
    say(f"installing {wanted}")
    return pip(wanted)


def installed() -> str | None:
    """Return the version of the installed torch, if spacy-elmo can use it."""
    with suppress(metadata.PackageNotFoundError):
        version = metadata.version("torch")
        if tuple(map(int, re.findall(r"\d+", version)[:2])) >= OLDEST:
            return version
    return None


def has_cuda_by_default() -> bool:
    """Whether the default index has a build with CUDA for this system."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


def sees_gpu() -> bool:
    """Whether NVIDIA's driver lists a GPU."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return b"GPU" in done.stdout


def answers(index: str, seconds: float | None = None) -> bool:
    """Whether a package index lists torch within `seconds`, including the time to resolve its name."""
    listed = threading.Event()

    def ask() -> None:
        with suppress(OSError, ValueError, http.client.HTTPException):
            urllib.request.urlopen(f"{index.rstrip('/')}/torch/").read()
            listed.set()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(SECONDS if seconds is None else seconds)
    return listed.is_set()


def pip(*arguments: str) -> int:
    """Run `pip install` with visible progress. Return the exit status."""
    return subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *arguments]
    ).returncode


def say(what: str) -> None:
    """Print a line at once, before the output of pip."""
    print(f"torch: {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
