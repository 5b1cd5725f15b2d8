"""Try faults on subjects and print one table. The exit status is 1 if anything was lost or wrong.

    python tests/faults/run.py --keep build/faults        # everything, takes long; resumes where it was stopped
    python tests/faults/run.py --subject convert --fault kill --trials 10 --json
    python tests/faults/run.py --fault properties         # of vectors, at each level and precision; not a fault

A full disk, a read-only disk and an overlay need a mount namespace. For them, the command restarts itself under
`unshare --map-root-user --mount`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

os.environ["OMP_NUM_THREADS"] = "1"  # without threads, this process can be forked

import harness
import properties
import subjects

sys.path.append(str(Path(__file__).resolve().parents[1]))

from helpers.kept import Kept, digest_of_code

UNSHARE = ("unshare", "--map-root-user", "--mount")
FAULTS, PROPERTIES = ("kill", "disk", "overlay", "readers"), "properties"
MOUNTED = ("disk", "overlay")


def main() -> int:
    """Run what the arguments ask for."""
    arguments = _parse()
    if not arguments.in_name_space and any(fault in MOUNTED for _, fault in _chosen(arguments)):
        _enter_name_space()
    kept = _kept(arguments)
    rows = [row for name, fault in _chosen(arguments) for row in _rows(name, fault, kept, arguments)]
    print(json.dumps([row.to_dict() for row in rows]) if arguments.json else harness.table(rows))
    return 1 if any(row.wrong for row in rows) else 0


def _chosen(arguments: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Yield subjects and faults, and the properties of vectors unless other things are chosen."""
    for name in arguments.subject or [name for name in subjects.SUBJECTS if name not in arguments.skip]:
        yield from ((name, fault) for fault in arguments.fault or FAULTS if fault != PROPERTIES)
    if PROPERTIES in (arguments.fault or ([] if arguments.subject else [PROPERTIES])):
        yield from ((name, PROPERTIES) for name in properties.PLACES)


def _kept(arguments: argparse.Namespace) -> Kept:
    """Return the results of earlier runs with the same code, seed and number of trials, by subject and fault."""
    if arguments.keep is None:
        return Kept(None)
    here = Path(__file__).resolve().parent
    others = [here.parent / name for name in ("conftest.py", "levels.py", "test_properties.py")]
    digest = digest_of_code([*here.glob("*.py"), *here.parent.glob("helpers/*.py"), *others])
    return Kept(arguments.keep / f"{arguments.seed}-{arguments.trials or 'all'}-{digest}.jsonl")


def _rows(name: str, fault: str, kept: Kept, arguments: argparse.Namespace) -> list[harness.Row]:
    """Try a fault on a subject, unless that was done before and nothing was lost."""
    rows = [harness.Row.from_dict(row) for row in kept.results.get(f"{name} {fault}", [])]
    if not rows or any(row.wrong for row in rows):
        rows = list(_run(name, fault, arguments))
        kept.add(f"{name} {fault}", [row.to_dict() for row in rows])
    return rows


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", action="append", choices=subjects.SUBJECTS, help="what to cut (default: all)")
    parser.add_argument("--skip", action="append", choices=subjects.SUBJECTS, default=[], help="what not to cut")
    parser.add_argument("--fault", action="append", choices=(*FAULTS, PROPERTIES), help="the fault (default: all)")
    parser.add_argument(
        "--trials", type=int, help="at most this many of each; default: 50, and every place to kill at on this disk"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of random choices")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep results there, and resume from them")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--place", type=Path, default=Path(tempfile.gettempdir()), help="where to write")
    parser.add_argument("--in-name-space", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _tell(row: harness.Row) -> None:
    """Print the result right away, because a long run may be stopped."""
    print(f"{row.subject}, {row.fault}: {row.tried} tried, {len(row.wrong)} lost or wrong", file=sys.stderr)
    for wrong in row.wrong:
        print(f"✘ {wrong}", file=sys.stderr)


def _run(name: str, fault: str, arguments: argparse.Namespace) -> Iterator[harness.Row]:
    tried = [properties.row(name)] if fault == PROPERTIES else _try(subjects.SUBJECTS[name](), fault, arguments)
    for row in tried:
        _tell(row)
        yield row


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
            row = harness.kill_at_places(subject, place, trials, arguments.seed)
        row.fault += ", overlay"
        yield row
    else:
        yield harness.read_meanwhile(subject, arguments.place, seconds=min(trials, 20))


def _enter_name_space() -> NoReturn:
    """Restart in our own mount namespace."""
    if subprocess.run([*UNSHARE, "true"], stderr=subprocess.DEVNULL).returncode:
        faults = [fault for fault in (*FAULTS, PROPERTIES) if fault not in MOUNTED]
        raise SystemExit(f"✘ {' '.join(UNSHARE)} is not allowed here; it is not needed for --fault {', '.join(faults)}")
    os.execvp(UNSHARE[0], [*UNSHARE, sys.executable, __file__, "--in-name-space", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
