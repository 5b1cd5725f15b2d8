"""Faults on the command line: subjects and faults in, one table out; exit status 1 where anything was lost or wrong.

    python tests/faults/run.py                   # all of it, long
    python tests/faults/run.py --subject convert --fault kill --trials 10 --json

Disks of one's own (a full one, a read-only one, an overlay) need a name space of mounts: for them, the command starts
itself again under `unshare --map-root-user --mount`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # no threads, so that this process can be forked

import harness
import subjects

UNSHARE = ("unshare", "--map-root-user", "--mount")
FAULTS = ("kill", "disk", "overlay", "readers")


def main() -> int:
    """Run what the arguments ask for."""
    arguments = _parse()
    rows = []
    for fault in arguments.fault or FAULTS:
        if fault in ("disk", "overlay") and not arguments.in_name_space:
            rows += _run_in_name_space(arguments, fault)
            continue
        for name in arguments.subject or subjects.SUBJECTS:
            for row in _try(subjects.SUBJECTS[name](), fault, arguments):
                _tell(row)
                rows.append(row)
    print(json.dumps([row.to_dict() for row in rows]) if arguments.json else harness.table(rows))
    return 1 if any(row.wrong for row in rows) else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", action="append", choices=subjects.SUBJECTS, help="what is cut; all of them")
    parser.add_argument("--fault", action="append", choices=FAULTS, help="how; all of them")
    parser.add_argument(
        "--trials", type=int, help="at most so many of each; without it, 50, and every place to kill at"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is chosen by chance")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--place", type=Path, default=Path(tempfile.gettempdir()), help="where to write")
    parser.add_argument("--in-name-space", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _tell(row: harness.Row) -> None:
    """What came of it, at once: a long run may be stopped."""
    print(f"{row.subject}, {row.fault}: {row.tried} tried, {len(row.wrong)} lost or wrong", file=sys.stderr)
    for wrong in row.wrong:
        print(f"✘ {wrong}", file=sys.stderr)


def _try(subject: harness.Subject, fault: str, arguments: argparse.Namespace) -> Iterator[harness.Row]:
    trials = arguments.trials or 50
    if fault == "kill":
        yield harness.kill_at_places(subject, arguments.place, arguments.trials, arguments.seed)
        yield harness.kill_at_moments(subject, arguments.place, trials, arguments.seed)
    elif fault == "disk":
        yield harness.fill_disk(subject, arguments.place, trials)
        yield harness.write_protect(subject, arguments.place)
    elif fault == "overlay":
        with harness.overlay(arguments.place) as place:
            row = harness.kill_at_places(subject, place, arguments.trials, arguments.seed)
        row.fault += ", overlay"
        yield row
    else:
        yield harness.read_meanwhile(subject, arguments.place, seconds=min(trials, 20))


def _run_in_name_space(arguments: argparse.Namespace, fault: str) -> list[harness.Row]:
    chosen = [part for name in arguments.subject or () for part in ("--subject", name)]
    trials = ["--trials", str(arguments.trials)] if arguments.trials else []
    command = [*UNSHARE, sys.executable, __file__, "--in-name-space", "--json", "--fault", fault, *chosen, *trials]
    run = subprocess.run([*command, "--seed", str(arguments.seed), "--place", arguments.place], stdout=subprocess.PIPE)
    if run.returncode > 1 or not run.stdout:
        raise SystemExit(f"✘ {' '.join(UNSHARE)}: mounts of one's own are not allowed here (see above)")
    return [_row(facts) for facts in json.loads(run.stdout)]


def _row(facts: dict) -> harness.Row:
    facts.pop("lost")
    return harness.Row(**{**facts, "left": harness.Counter(facts["left"])})


if __name__ == "__main__":
    sys.exit(main())
