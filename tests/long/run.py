"""Long runs: measure memory and open files over a million sentences, and run many threads and processes.

    python tests/long/run.py                                  # everything, an hour or two on one core
    python tests/long/run.py --part fixed --size 100000

It prints one table. Each part runs in its own process. The results are in OUT. As long as the code stays the same, a
later run does not repeat a part that went well with this size. The exit status is 1 if something is wrong. Linux only,
because it reads /proc.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from helpers.kept import CHECKOUT, Kept, digest_of_code

HERE = Path(__file__).resolve().parent

# What each part does, and its size.
PARTS = {
    "threads": ("8 threads, half of them with memory zones of pipelines of their own: rounds", 4000),
    "shared_zones": ("8 threads with memory zones of one pipeline: zones", 4000),
    "processes": ("two worker processes, by each way to start them: runs of nlp.pipe each", 20),
    "loads": ("a pipeline with a listener, loaded and dropped: times", 1000),
    "holes": ("sentences of 60,000 fixed words, bundled biLM: then malloc_trim", 100_000),
    "zones": ("sentences that keep bringing new words, in memory zones", 1_000_000),
    "fixed": ("sentences of 60,000 fixed words", 1_000_000),
}


def main() -> int:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS, help="the part (default: all)")
    parser.add_argument("--size", type=int, help="size of each part, instead of its default")
    parser.add_argument("--out", type=Path, default=CHECKOUT / "build" / "long", help="folder for the results")
    arguments = parser.parse_args()
    kept = Kept(arguments.out / f"{digest_of_code(HERE.glob('*.py'))}.jsonl")
    results = []
    for name in arguments.part or PARTS:
        size = arguments.size or PARTS[name][1]
        results.append((name, size, _result(name, size, kept)))
    print(_table(results))
    wrong = [f"✘ {name}: {fault}" for name, _, result in results for fault in result["wrong"][:5]]
    print("\n".join(wrong))
    return int(bool(wrong))


def _result(name: str, size: int, kept: Kept) -> dict[str, Any]:
    """Run a part, unless that was done before and nothing was wrong."""
    key = f"{name} {size}"
    if key not in kept.results or kept.results[key]["wrong"]:
        kept.add(key, _run(name, size))
    result: dict[str, Any] = kept.results[key]
    return result


def _run(name: str, size: int) -> dict[str, Any]:
    begin = time.monotonic()
    run = subprocess.run([sys.executable, HERE / "parts.py", name, str(size)], stdout=subprocess.PIPE, text=True)
    if run.returncode:
        return {"figures": {}, "wrong": [f"ended with status {run.returncode}"]}
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    result["seconds"] = round(time.monotonic() - begin)
    print(f"{name}: {result}", file=sys.stderr)
    return result


def _table(results: list[tuple[str, int, dict[str, Any]]]) -> str:
    lines = ["| run | how much | figures | seconds | wrong |", "|---|--:|---|--:|--:|"]
    for name, size, result in results:
        figures = ", ".join(f"{key} {value}" for key, value in result["figures"].items())
        lines.append(
            f"| {PARTS[name][0]} | {size:,} | {figures} | {result.get('seconds', '')} | {len(result['wrong'])} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
