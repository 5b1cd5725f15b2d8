"""Try thousands of hostile and damaged files of every kind: `python tests/fuzz` prints one table.

    python tests/fuzz                                # all kinds, 12,000 cases each; resumes
    python tests/fuzz --kinds zip,tar --cases 500
    python tests/fuzz --again                        # lost cases, once more
    python tests/fuzz --kinds zip --case 1234        # one case, here; keeps its files

To add a kind, add a file to `kinds/`, see `worker.Kind`. A case is identified by its kind, seed and number. OUT holds
the results, one line per case. The exit status is 1 if a case is lost.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent
SEED = 20261129
_BATCH = 250  # cases to request from a worker at once
_MOST_BATCHES = 8  # per worker, because the memory that it keeps adds up
_MEMORY = Path("/dev/shm")  # a file system where files cost almost nothing


def main() -> int:
    """Run what the command line asks for."""
    arguments = _parse()
    names = arguments.kinds.split(",") if arguments.kinds else _names(arguments.folder)
    if arguments.case is not None:
        return _try_here(arguments.folder, names[0], arguments.seed, arguments.case)
    arguments.out.mkdir(parents=True, exist_ok=True)
    campaigns = [Campaign(name, arguments.seed, arguments.out) for name in names]
    with ThreadPoolExecutor(arguments.workers) as pool:
        shares = [campaigns[number :: arguments.workers] for number in range(arguments.workers)]
        for done in [pool.submit(_run, share, arguments) for share in shares]:
            done.result()
    found = {campaign.name: list(campaign.results().values()) for campaign in campaigns}
    print(_table([_row(name, results) for name, results in found.items()]))
    lost = [
        f"{name} {result['case']}: {result['what']}" for name in found for result in found[name] if _is_lost(result)
    ]
    print("\n".join(lost))
    return int(bool(lost))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests/fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kinds", default="", help="names of kinds, separated by commas")
    parser.add_argument("--cases", type=int, default=12_000, help="number of cases of each kind")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--case", type=int, help="try only this case")
    parser.add_argument("--again", action="store_true", help="try lost cases once more")
    parser.add_argument("--seconds", type=int, default=20, help="processor time that a case may take")
    parser.add_argument("--workers", type=int, default=1, help="number of processes")
    parser.add_argument("--out", type=Path, default=CHECKOUT / "build" / "fuzz", help="folder for the results")
    parser.add_argument("--folder", type=Path, default=HERE / "kinds", help="folder that defines the kinds")
    return parser.parse_args()


def _names(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.py"))


def _run(campaigns: "list[Campaign]", arguments: argparse.Namespace) -> None:
    with Workers(arguments.folder, arguments.seconds) as workers:
        for campaign in campaigns:
            campaign.run(workers, arguments.cases, arguments.again)


class Campaign:
    """All cases of a kind, and the results so far."""

    def __init__(self, name: str, seed: int, out: Path) -> None:
        self.name, self._seed = name, seed
        self._file = out / f"{name}-{seed}.jsonl"

    def results(self) -> dict[int, dict[str, Any]]:
        """Return the results by case number."""
        if not self._file.exists():
            return {}
        lines = self._file.read_text().splitlines(keepends=True)
        whole = [json.loads(line) for line in lines if line.endswith("\n")]  # the last line may be cut off
        return {result["case"]: result for result in whole}

    def run(self, workers: "Workers", cases: int, again: bool) -> None:
        """Try the cases that have no result yet; with `again`, also those that were lost."""
        kept = {number: result for number, result in self.results().items() if not (again and _is_lost(result))}
        self._file.write_text("".join(f"{json.dumps(result)}\n" for result in kept.values()))
        waiting = deque(number for number in range(cases) if number not in kept)
        with self._file.open("a", buffering=1) as file:
            while waiting:
                for result in workers.get().results(self.name, self._seed, list(islice(waiting, _BATCH))):
                    file.write(f"{json.dumps(result)}\n")
                    waiting.popleft()
                print(f"{self.name}: {len(waiting):,} of {cases:,} are left", file=sys.stderr)


class Workers:
    """One worker at a time. It is replaced when it has died or done its share."""

    def __init__(self, kinds: Path, seconds: int) -> None:
        self._kinds, self._seconds = kinds, seconds
        self._open = ExitStack()
        self._worker: Worker | None = None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def get(self) -> "Worker":
        """Return the worker to ask now."""
        if self._worker is None or self._worker.is_done:
            self._open.close()
            scratch = Path(
                self._open.enter_context(tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None))
            )
            self._worker = self._open.enter_context(Worker(self._kinds, scratch, self._seconds))
        return self._worker


class Worker:
    """A process that tries cases."""

    def __init__(self, kinds: Path, scratch: Path, seconds: int) -> None:
        self._log = (scratch / "stderr").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-B", HERE / "worker.py", kinds, scratch / "files", str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"},
        )
        self._n_batches, self._has_died = 0, False

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._process.communicate()
        self._log.close()

    @property
    def is_done(self) -> bool:
        """Whether it should get no more cases."""
        return self._has_died or self._n_batches >= _MOST_BATCHES

    def results(self, kind: str, seed: int, cases: list[int]) -> Iterator[dict[str, Any]]:
        """Yield the result of each case. If a case ends the process, its result says so."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"kind": kind, "seed": seed, "cases": cases}), file=self._process.stdin, flush=True)
        self._n_batches += 1
        for number in cases:
            line = self._process.stdout.readline()
            if not line:
                self._has_died = True
                yield {"case": number, "end": "lost", "behind": False, "seconds": 0, "bytes": 0, "what": self._cause()}
                return
            yield json.loads(line)

    def _cause(self) -> str:
        status = self._process.wait()
        self._log.seek(0)
        log = self._log.read().splitlines()
        if status >= 0:  # a case cannot cause that
            raise RuntimeError("a case could not be made:\n" + "\n".join(log))
        return f"the process died of {signal.Signals(-status).name}: {' | '.join(log[-12:])}"[:1000]


def _is_lost(result: dict[str, Any]) -> bool:
    return bool(result["end"] == "lost")


def _row(name: str, results: list[dict[str, Any]]) -> list[str]:
    ends = [result["end"] for result in results]
    seconds = [result["seconds"] for result in results]
    numbers = (
        len(results),
        sum(result["behind"] for result in results),
        *(ends.count(end) for end in ("refused", "loaded", "lost")),
    )
    costs = (
        len(results) / (sum(seconds) or 1),
        max(seconds, default=0),
        max((result["bytes"] for result in results), default=0) / 2**20,
    )
    return [name, *(f"{number:,}" for number in numbers), f"{costs[0]:.0f}", f"{costs[1]:.1f}", f"{costs[2]:.0f}"]


def _table(rows: list[list[str]]) -> str:
    head = [
        "kind",
        "tried",
        "behind a checksum",
        "refused",
        "loaded",
        "lost or wrong",
        "a second",
        "longest, s",
        "most memory, MB",
    ]
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _try_here(kinds: Path, name: str, seed: int, number: int) -> int:
    sys.path[:0] = [str(HERE), str(CHECKOUT)]
    import worker

    scratch = Path(tempfile.mkdtemp())
    folder = scratch / "case"
    folder.mkdir()
    (scratch / "seeds").mkdir()
    kind = worker.load(kinds, name)(scratch / "seeds" / name)
    behind = kind.make(worker.case_rng(name, seed, number), folder)
    print(f"{folder} (changed {'before' if behind else 'after'} any checksum)")
    start = time.process_time()
    try:
        kind.read(folder, behind)
        print("loaded")
    finally:
        print(f"{time.process_time() - start:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
