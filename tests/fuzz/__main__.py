"""Try thousands of hostile and damaged files of every kind: `python tests/fuzz` prints one table.

    python tests/fuzz                                # all kinds, 12,000 cases each; resumes
    python tests/fuzz --kinds zip,tar --cases 500
    python tests/fuzz --kinds zip --case 1234        # one case, here; keeps its files

To add a kind, add a file to `kinds/`, see `worker.Kind`. A case is identified by its kind, seed and number. OUT holds
the results, one line per case. As long as the code stays the same, a later run tries only what is missing or was lost.
The exit status is 1 if a case is lost.
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

sys.path.append(str(Path(__file__).resolve().parents[1]))

from helpers.kept import CHECKOUT, Kept, digest_of_code

HERE = Path(__file__).resolve().parent
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
    campaigns = [Campaign(name, arguments) for name in names]
    with ThreadPoolExecutor(arguments.workers) as pool:
        shares = [campaigns[number :: arguments.workers] for number in range(arguments.workers)]
        for done in [pool.submit(_run, share, arguments) for share in shares]:
            done.result()
    found = {campaign.name: campaign.results() for campaign in campaigns}
    print(_table([_row(name, results) for name, results in found.items()]))
    lost = [f"{name} {case['case']}: {case['what']}" for name in found for case in found[name] if _is_lost(case)]
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
            campaign.run(workers, arguments.cases)


class Campaign:
    """All cases of a kind, and the results so far: those of this code and seed."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        self.name, self._seed = name, arguments.seed
        digest = digest_of_code([*HERE.glob("*.py"), arguments.folder / f"{name}.py"])
        self._kept = Kept(arguments.out / f"{name}-{arguments.seed}-{digest}.jsonl")

    def results(self) -> list[dict[str, Any]]:
        """Return the results."""
        return list(self._kept.results.values())

    def run(self, workers: "Workers", cases: int) -> None:
        """Try the cases that have no result yet, or were lost."""
        kept = self._kept.results
        waiting = deque(number for number in range(cases) if number not in kept or _is_lost(kept[number]))
        while waiting:
            for result in workers.get().results(self.name, self._seed, list(islice(waiting, _BATCH))):
                self._kept.add(result["case"], result)
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


_HEAD = [
    "kind",
    "tried",
    "behind a checksum",
    "refused",
    "loaded",
    "survived",
    "lost or wrong",
    "longest, s",
    "most memory, MB",
]


def _row(name: str, results: list[dict[str, Any]]) -> list[str]:
    ends = [result["end"] for result in results]
    lost = ends.count("lost")
    behind = sum(result["behind"] for result in results)
    numbers = (len(ends), behind, ends.count("refused"), ends.count("loaded"), len(ends) - lost, lost)
    seconds = max((result["seconds"] for result in results), default=0)
    memory = max((result["bytes"] for result in results), default=0) / 2**20
    return [name, *(f"{number:,}" for number in numbers), f"{seconds:.1f}", f"{memory:.0f}"]


def _table(rows: list[list[str]]) -> str:
    lines = [_HEAD, ["---", *["--:"] * (len(_HEAD) - 1)], *rows]
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
