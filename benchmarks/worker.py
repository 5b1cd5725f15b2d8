"""Commands in, answers out, one JSON object a line: both ends of the pipe between a benchmark and its workers.

A worker runs under the Python of an environment of its own, so this file needs the standard library only. Its script
calls `serve`; the benchmark starts it with `Worker` and asks.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

LOG_LINES = 5


class WorkerError(RuntimeError):
    """A worker could not do what it was asked to do."""


class Worker:
    """A process that answers commands; a context in which it lives.

    python: the interpreter; script: a file that calls `serve`; arguments: of the script.
    threads: for OpenMP, beside what the script does with its arguments.
    """

    def __init__(self, python: Path, script: Path, *arguments: str, threads: int) -> None:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 # closed by close
        self._process = subprocess.Popen(
            [str(python), str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )

    def ask(self, command: str, **arguments: Any) -> Any:
        """Have a command carried out; return what it gives.

        Raises:
            WorkerError: it failed, or the process has ended.
        """
        pipe = self._process
        assert pipe.stdin is not None
        assert pipe.stdout is not None
        try:
            print(json.dumps({"command": command, "arguments": arguments}), file=pipe.stdin, flush=True)
            line = pipe.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"{command}: the process ended with status {pipe.wait()}: {self._end_of_log()}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{command}: {answer['error']}")
        return answer["result"]

    def _end_of_log(self) -> str:
        self._log.seek(0)
        return " / ".join(self._log.read().split("\n")[-LOG_LINES:]).strip(" /")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(commands: Mapping[str, Callable[..., Any]]) -> None:
    """Carry out commands from standard input until it ends; beside those given, `reset_peak` and `peak`.

    What is printed meanwhile goes to standard error.
    """
    commands = {**commands, "reset_peak": reset_peak, "peak": max_resident}
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": commands[request["command"]](**request["arguments"])}
        except (Exception, SystemExit) as error:  # some peers exit where others raise
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def reset_peak() -> int:
    """Forget the peak so far (where the system can: Linux) and return the resident memory now, in bytes."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")
    return max_resident()


def max_resident() -> int:
    """Highest resident memory of this process so far, in bytes.

    On Linux not `ru_maxrss`, which starts at what the parent process had.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
