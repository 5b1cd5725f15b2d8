"""Try cases of a kind under limits. Print a line of JSON for each: what the reader did with it.

It runs in its own process (`python worker.py KINDS SCRATCH SECONDS`), so that a case may end it. The missing line then
shows which case it was. A case is lost if the reader

- raises an exception that is not ours, or one of ours whose message is not one line of at most 1,000 characters;
- takes more than SECONDS of processor time, or too much more memory than before;
- starts a process, opens a connection, or writes anywhere except to its own temporary files, which it must remove;
- returns something that the kind knows to be wrong (an AssertionError).
"""

import contextlib
import faulthandler
import importlib.util
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, Protocol

from changes import put

from spacy_elmo.errors import ElmoError

BYTES = 2**30  # of address space
_LONGEST_MESSAGE = 1_000  # characters, without the name of the folder
_FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "os.startfile",
    "subprocess.Popen",
    "pty.spawn",
    "socket.connect",
    "socket.bind",
    "socket.getaddrinfo",
)
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod")


class Kind(Protocol):
    """Files of one kind. `kinds/NAME.py` defines it as the class `Kind`, whose argument is a folder for honest files.

    Everything about a case follows from `rng`, so its number reproduces it.
    """

    def __init__(self, seeds: Path) -> None: ...

    def make(self, rng: Random, folder: Path) -> bool:
        """Write the files of a case into an empty folder.

        Return whether the change was made before a checksum or digest of the format was computed. If so, it tests the
        reader behind the checksum. If not, the file must not load as something else.
        """

    def honest(self) -> Iterator[dict[str, bytes]]:
        """Yield undamaged files, at least once: their contents by name. `read` must load them."""

    def read(self, folder: Path, behind: bool) -> None:
        """Do everything that users do with such files. `folder.with_name("out")` may be written to.

        Raises:
            ElmoError: they are refused.
            AssertionError: something was read that is not in the file, or cannot be saved again.
        """


class TooSlowError(BaseException):
    """A case has used up its time."""


def main() -> None:
    """Try what each line of standard input asks for: `kind`, `seed`, and the numbers of the `cases`."""
    kinds, scratch, seconds = Path(sys.argv[1]), Path(sys.argv[2]).resolve(), int(sys.argv[3])
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is not part of the results
    faulthandler.enable()
    warnings.simplefilter("ignore")
    guard = _Guard(scratch, seconds)
    for line in sys.stdin:
        job = json.loads(line)
        name, seeds = job["kind"], scratch / "seeds" / job["kind"]
        if name not in guard.kinds:
            guard.add(name, load(kinds, name)(seeds))
        kind = guard.kinds[name]
        for number in job["cases"]:
            result = guard.try_case(kind, case_rng(name, job["seed"], number))
            print(json.dumps({"case": number, **result}), file=out)


def load(kinds: Path, name: str) -> Any:
    """Return the class `Kind` of `kinds/NAME.py`."""
    spec = importlib.util.spec_from_file_location(f"kinds_{name}", kinds / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Kind


def case_rng(kind: str, seed: int, number: int) -> Random:
    """Return the generator that determines everything about a case."""
    return Random(f"{kind} {seed} {number}")


class _Guard:
    """Tries cases and watches what they do."""

    def __init__(self, scratch: Path, seconds: int) -> None:
        self.kinds: dict[str, Kind] = {}
        self._scratch, self._folder, self._seconds = scratch, scratch / "case", seconds
        self._out, self._tmp = scratch / "out", scratch / "tmp"
        (scratch / "seeds").mkdir(parents=True, exist_ok=True)
        self._tmp.mkdir(exist_ok=True)
        tempfile.tempdir = str(self._tmp)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(scratch / "torch")  # made when torch first uses the device `meta`
        self._is_watching, self._seen = False, list[str]()
        signal.signal(signal.SIGPROF, _too_slow)
        sys.addaudithook(self._watch)

    def add(self, name: str, kind: Kind) -> None:
        """Add a kind, and have its honest files read. If they were refused, the damage of a case would show nothing."""
        for files in kind.honest():
            self._clear()
            put(files, self._folder)
            kind.read(self._folder, behind=False)
            self.kinds[name] = kind
        assert name in self.kinds, f"{name} has no honest files"

    def _clear(self) -> None:
        for folder in (self._folder, self._out):
            shutil.rmtree(folder, ignore_errors=True)
        self._folder.mkdir()

    def try_case(self, kind: Kind, rng: Random) -> dict[str, Any]:
        """Make a case and have it read. Return how it ended and what it used."""
        self._clear()
        with _limits(self._seconds):  # if this takes longer, the kind is wrong
            behind = kind.make(rng, self._folder)
        files, self._seen = _listing(self._folder), []
        kept = set(self._tmp.iterdir())  # as torch 2.6 has a folder there from its import to the end
        start, memory = time.process_time(), _PeakMemory()
        self._is_watching = True
        try:
            with _limits(self._seconds):
                kind.read(self._folder, behind)
            end, what = "loaded", ""
        except ElmoError as error:
            what = _fault_of_message(str(error).replace(str(self._folder), ""))
            end = "lost" if what else "refused"
        except (Exception, TooSlowError) as error:
            end, what = "lost", _where(error)
        finally:
            self._is_watching = False
        result = {"behind": behind, "seconds": round(time.process_time() - start, 3), "bytes": memory.grown()}
        faults = [*self._seen, *self._left_behind(files, kept)]
        if faults:
            end, what = "lost", "; ".join(faults)[:500]
        return {"end": end, **result, **({"what": what} if what else {})}

    def _left_behind(self, files: dict[str, int], kept: set[Path]) -> Iterator[str]:
        if _listing(self._folder) != files:
            yield "changed its input files"
        if left := set(self._tmp.iterdir()) - kept:
            yield f"left {', '.join(path.name for path in left)[:100]}"
            for path in left:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._is_watching:
            return
        if event in _FORBIDDEN:
            self._seen.append(f"{event} {str(arguments)[:100]}")
        elif event in _CHANGES or (event == "open" and _is_writing(arguments)):
            path = _place(event, arguments)
            if not path.startswith(f"{self._scratch}/"):
                self._seen.append(f"{event} {path[:100]}")


def _place(event: str, arguments: tuple[Any, ...]) -> str:
    """Return the path of an event. `shutil.rmtree` names files relative to a folder that it has opened."""
    path = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else str(arguments[0])
    folder = arguments[2 if event == "os.rename" else -1]
    if event != "open" and isinstance(folder, int) and folder >= 0 and not os.path.isabs(path):  # noqa: PTH117
        path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)  # noqa: PTH115, PTH118
    return os.path.abspath(path)  # noqa: PTH100 (events within Path's)


def _is_writing(arguments: tuple[Any, ...]) -> bool:
    path, _, flags = arguments
    return not isinstance(path, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) and path != os.devnull


@contextlib.contextmanager
def _limits(seconds: int) -> Iterator[None]:
    """Limit the time with a signal to Python, and with one that ends the process if Python does not get control."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    end = int(used.ru_utime + used.ru_stime) + 2 * seconds
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    everything = resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_CPU, (end, everything))
    resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, everything))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (everything, everything))
        resource.setrlimit(resource.RLIMIT_CPU, (everything, everything))


def _too_slow(*_: object) -> None:
    raise TooSlowError("all of its time")


class _PeakMemory:
    """Measures the peak memory of a case."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self._before = self._read("VmRSS")

    def grown(self) -> int:
        return max(0, self._read("VmHWM") - self._before)

    def _read(self, key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def _listing(folder: Path) -> dict[str, int]:
    return {str(file.relative_to(folder)): file.lstat().st_size for file in folder.rglob("*") if not file.is_dir()}


def _fault_of_message(message: str) -> str:
    if len(message) > _LONGEST_MESSAGE:
        return f"a message of {len(message):,} characters: {message[:200]!r}"
    return (
        "" if message.isprintable() else f"a message of more than one line, or with odd characters: {message[:200]!r}"
    )


def _where(error: BaseException) -> str:
    """Return the exception, and the last lines of our code that it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames if "spacy_elmo" in frame.filename]
    return f"{type(error).__name__}: {str(error)[:200]} ({' > '.join(own[-4:])})"


if __name__ == "__main__":
    main()
