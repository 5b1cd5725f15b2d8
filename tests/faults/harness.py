"""Apply a fault to a subject (something that writes files) and check what is left in the end.

Each trial has its own folder. Each of its steps runs in a process forked from this one, which has already imported
everything. So a step starts fast, and what it leaves in memory is gone afterwards.
"""

import os
import pickle
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from spacy_elmo.errors import ElmoError
from spacy_elmo.support import files

LIMIT = 120.0  # seconds after which a step is stuck, or a worker has outlived its parent
_PATIENCE = 20.0  # seconds for workers to end after their parent is gone
_WAIT = 0.5
_MOST = 10**9  # turns of a writer
_DISK, _LEAST_ROOM = 2**26, 2**14  # bytes: of a small disk, and of free space on it at the start
_listings: dict[str, list[list[str]]] = {}  # by subject: what is there in the end if nothing goes wrong


class Subject(Protocol):
    """Something that writes files, to be interrupted.

    kept: what `state` may return after a fault.
    ended: what it may return after `write` has finished.
    """

    name: str
    kept: set[str]
    ended: set[str]

    def make(self, folder: Path) -> None:
        """Make what it reads, and what it will overwrite."""

    def write(self, folder: Path) -> None:
        """Write. It may raise an ElmoError or an OSError, as documented."""

    def write_among_others(self, folder: Path, turn: int) -> None:
        """Write while others write and read, perhaps the old content again. turn: counts these calls."""

    def between(self, folder: Path) -> None:
        """Do what should happen after the fault, before the next run."""

    def state(self, folder: Path) -> str:
        """Say what is there, through its readers. If they raise, or find a mixture, that is our fault."""


# --- steps, each in its own process ---


@dataclass
class Outcome:
    """How a step ended: "done", "refused" (our error), "foreign" (another error), "killed" or "stuck"."""

    kind: str
    value: Any = None
    outlived: bool = False


def step(
    work: Callable[[], Any], kill_after: float | None = None, refusals: tuple[type, ...] = (ElmoError,)
) -> Outcome:
    """Do some work in a forked process. It may be killed after some seconds. Its own children must end, too."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        _do(work, writing, refusals)
    os.close(writing)
    try:
        killed = kill_after is not None and not select.select([reading], [], [], kill_after)[0]
        if killed:
            os.kill(pid, signal.SIGKILL)
        content, is_ended = _read_all(reading, _PATIENCE if killed else LIMIT)
    finally:
        os.close(reading)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if content:
        return Outcome(*pickle.loads(content), outlived=not is_ended)
    if is_ended or killed:
        return Outcome("killed", outlived=not is_ended)
    return Outcome("stuck")


def _do(work: Callable[[], Any], writing: int, refusals: tuple[type, ...]) -> None:
    os.setpgid(0, 0)
    devnull = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(devnull, stream)
    try:
        result: tuple[str, Any] = ("done", work())
    except refusals as error:
        result = ("refused", f"{type(error).__name__}: {error}")
    except BaseException:
        result = ("foreign", " | ".join(traceback.format_exc().splitlines()[-5:]))
    os.write(writing, pickle.dumps(result))
    os._exit(0)


def _read_all(reading: int, limit: float) -> tuple[bytes, bool]:
    """Read until all writers are gone or the limit is reached; return the content and whether they are gone."""
    content, waited = b"", 0.0
    while waited < limit:  # counted in waits instead of by the clock, because this process may be stopped for a while
        if not select.select([reading], [], [], _WAIT)[0]:
            waited += _WAIT
        elif chunk := os.read(reading, 2**16):
            content += chunk
            limit = min(limit, waited + _PATIENCE)  # it is done, so its children must end
        else:
            return content, True
    return content, False


# --- places to kill at ---

_CALLS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate"}


class Places:
    """Counts the changes that this process makes to files. Kills it before or after one of them."""

    def __init__(self, folder: Path, at: int = 0, after: bool = False) -> None:
        self.count = 0
        self._folder, self._at, self._after, self._pid, self._is_near = str(folder), at, after, os.getpid(), False

    def watch(self) -> None:
        """Start watching, for the rest of the process."""
        exchange = files.exchange

        def watched(one: Path, other: Path) -> bool:
            self._pass()
            done = exchange(one, other)
            self._leave()
            return done

        files.exchange = watched
        connect = sqlite3.connect

        def traced(*arguments: Any, **settings: Any) -> sqlite3.Connection:
            connection = connect(*arguments, **settings)
            connection.set_trace_callback(self._hear_statement)  # SQLite's changes to files cannot be heard
            return connection

        sqlite3.connect = traced
        sys.addaudithook(self._hear)
        if self._after:
            sys.setprofile(self._hear_return)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CALLS or (event == "open" and self._is_written(*arguments)):
            self._pass()

    def _hear_statement(self, statement: str) -> None:
        if not statement.startswith("SELECT"):
            self._pass()

    def _is_written(self, path: Any, mode: Any, flags: int) -> bool:
        return isinstance(path, str | os.PathLike) and (
            os.fspath(path).startswith(self._folder) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        )

    def _pass(self) -> None:
        if os.getpid() != self._pid:
            return
        self.count += 1
        if self.count == self._at:
            self._is_near = True
            if not self._after:
                self._leave()

    def _hear_return(self, frame: Any, event: str, argument: Any) -> None:
        if event in ("c_return", "c_exception"):  # hooks are not profiled, so this belongs to the call itself
            self._leave()

    def _leave(self) -> None:
        if self._is_near and os.getpid() == self._pid:
            os.kill(self._pid, signal.SIGKILL)


# --- trials ---


@dataclass
class Row:
    """The results of the trials of a subject with a kind of fault."""

    subject: str
    fault: str
    tried: int = 0
    left: Counter[str] = field(default_factory=Counter)  # how often each state was found after the fault
    wrong: list[str] = field(default_factory=list)

    def count(self, state: str, faults: list[str], what: str) -> None:
        """Add a trial."""
        self.tried += 1
        self.left[state] += 1
        self.wrong.extend(f"{what}: {fault}" for fault in faults[:1])

    def to_dict(self) -> dict[str, Any]:
        """Return a dict for JSON."""
        return {**vars(self), "left": dict(self.left)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Row":
        """Build a row from what `to_dict` returned."""
        return cls(**{**content, "left": Counter(content["left"])})


@contextmanager
def copied(template: Path) -> Iterator[Path]:
    """Copy a folder for one trial."""
    with tempfile.TemporaryDirectory(prefix="trial-", dir=template.parent) as name:
        folder = Path(name) / "folder"
        shutil.copytree(template, folder, symlinks=True)
        yield folder


@contextmanager
def template_of(subject: Subject, place: Path) -> Iterator[Path]:
    """Make a folder with the subject. Note what is there after one run of it, and after two."""
    with tempfile.TemporaryDirectory(prefix="faults-", dir=place) as name:
        folder = Path(name) / "template"
        folder.mkdir()
        made = step(lambda: subject.make(folder))
        if made.kind != "done":
            raise RuntimeError(f"{subject.name}: {made.value}")
        if subject.name not in _listings:
            _listings[subject.name] = [_listing_after(subject, folder, n_runs) for n_runs in (1, 2)]
        yield folder


def _listing_after(subject: Subject, template: Path, n_runs: int) -> list[str]:
    with copied(template) as folder:
        for number in range(n_runs):
            if number == n_runs - 1:
                subject.between(folder)
            done = step(lambda: subject.write(folder))
            if done.kind != "done":
                raise RuntimeError(f"{subject.name}: {done.value}")
        return _listing(folder)


def _listing(folder: Path) -> list[str]:
    """Return the paths of everything in a trial's folder, and of what lies next to it."""
    return sorted(str(path.relative_to(folder.parent)) for path in folder.parent.rglob("*"))


def judge(subject: Subject, folder: Path, after: Outcome) -> tuple[str, list[str]]:
    """Return what is there after a fault, and what is wrong with it, also after it has been run again."""
    faults = []
    if after.outlived:
        faults.append("a process that it started outlived it")
    if after.kind in ("stuck", "foreign"):
        faults.append(f"{after.kind} {after.value}")
    found = step(lambda: subject.state(folder))
    if found.kind != "done" or found.value not in subject.kept | (subject.ended if after.kind == "done" else set()):
        faults.append(f"then {found.kind} {found.value}")
    subject.between(folder)
    again = step(lambda: subject.write(folder))
    if again.kind != "done" or again.outlived:
        faults.append(f"run again: {again.kind} {again.value}")
    ended = step(lambda: subject.state(folder))
    if ended.kind != "done" or ended.value not in subject.ended:
        faults.append(f"in the end {ended.kind} {ended.value}")
    if (left := _listing(folder)) not in (expected := _listings[subject.name]):
        more, missing = set(left) - set(expected[-1]), set(expected[-1]) - set(left)
        faults.append(f"left in the end: {', '.join(sorted(more))}; missing: {', '.join(sorted(missing))}")
    return (str(found.value) if found.kind == "done" else found.kind), faults


def kill_at_places(subject: Subject, place: Path, most: int | None = None, seed: int = 0) -> Row:
    """Kill it before and after each change that it makes to files. most: how many changes to choose at random."""
    row = Row(subject.name, "kill -9 before and after each change")
    with template_of(subject, place) as template:
        with copied(template) as folder:
            count = step(lambda: _counted(subject, folder)).value
        if not isinstance(count, int):
            raise RuntimeError(f"{subject.name}: {count}")
        points = [(at, after) for at in range(1, count + 1) for after in (False, True)]
        if most is not None and most < len(points):
            points = sorted(random.Random(f"{seed} {subject.name}").sample(points, most))
        for at, after in points:
            with copied(template) as folder:
                outcome = step(lambda at=at, after=after, folder=folder: _watched(subject, folder, at, after))
                if outcome.kind == "done":  # fewer changes this time
                    continue
                row.count(*judge(subject, folder, outcome), f"{'after' if after else 'before'} change {at} of {count}")
    return row


def _counted(subject: Subject, folder: Path) -> int:
    places = Places(folder)
    places.watch()
    subject.write(folder)
    return places.count


def _watched(subject: Subject, folder: Path, at: int, after: bool) -> None:
    Places(folder, at, after).watch()
    subject.write(folder)


def kill_at_moments(subject: Subject, place: Path, trials: int, seed: int = 0) -> Row:
    """Kill it at random moments."""
    row, pick = Row(subject.name, "kill -9 at random moments"), random.Random(f"{seed} {subject.name}")
    with template_of(subject, place) as template:
        with copied(template) as folder:
            begin = time.monotonic()
            step(lambda: subject.write(folder))
            seconds = time.monotonic() - begin
        for _ in range(trials):
            moment = pick.uniform(0, seconds)
            with copied(template) as folder:
                outcome = step(lambda folder=folder: subject.write(folder), kill_after=moment)
                row.count(*judge(subject, folder, outcome), f"killed after {moment:.3f} s of {seconds:.3f}")
    return row


# --- disks, in our own mount namespace, see run.py ---


def fill_disk(subject: Subject, place: Path, trials: int) -> Row:
    """Let it write with more and more free space, up to twice what it needs."""
    row = Row(subject.name, "disk full")
    with template_of(subject, place) as template, _disk(place) as disk:
        most = _LEAST_ROOM
        while most < _DISK // 4 and _write_within(subject, template, disk, most)[0].kind != "done":
            most *= 2
        for number in range(trials):
            room = most * (2 * number + 1) // (2 * trials)
            outcome, folder = _write_within(subject, template, disk, room)
            state, faults = judge(subject, folder, outcome)
            died = ["it died without an error"] if outcome.kind == "killed" else []
            row.count(state, died + faults, f"room for {room:,} bytes")
    return row


def _write_within(subject: Subject, template: Path, disk: Path, room: int) -> tuple[Outcome, Path]:
    """Let it write with `room` bytes free, then free more. Return the outcome and the folder."""
    folder = disk / "trial" / "folder"
    shutil.rmtree(folder.parent, ignore_errors=True)
    shutil.copytree(template, folder, symlinks=True)
    _leave_room(disk, room)
    outcome = step(lambda: subject.write(folder), refusals=(ElmoError, OSError))
    (disk / "ballast").unlink()
    return outcome, folder


def _leave_room(disk: Path, room: int) -> None:
    status = os.statvfs(disk)
    with (disk / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, status.f_bfree * status.f_frsize - room))


def write_protect(subject: Subject, place: Path) -> Row:
    """Let it write and read where nothing can be written."""
    row = Row(subject.name, "read-only")
    with template_of(subject, place) as template, copied(template) as folder:
        with _mounted(folder, "--bind", str(folder)):
            subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
            outcome = step(lambda: subject.write(folder), refusals=(ElmoError, OSError))
            found = step(lambda: subject.state(folder))
        faults = [] if outcome.kind == "refused" else [f"{outcome.kind} {outcome.value}"]
        if found.kind != "done" or found.value not in subject.kept:
            faults.append(f"then {found.kind} {found.value}")
        row.count(str(found.value), faults, "read-only")
        row.count(*judge(subject, folder, Outcome("killed")), "writable again")
    return row


@contextmanager
def overlay(place: Path) -> Iterator[Path]:
    """Return a folder on an overlay file system, which cannot exchange folders, as in a container."""
    with _disk(place) as disk:
        for name in ("lower", "upper", "work", "merged"):
            (disk / name).mkdir()
        options = f"lowerdir={disk}/lower,upperdir={disk}/upper,workdir={disk}/work"
        with _mounted(disk / "merged", "-t", "overlay", "-o", options, "overlay"):
            yield disk / "merged"


@contextmanager
def _disk(place: Path) -> Iterator[Path]:
    """Mount a small disk."""
    with (
        tempfile.TemporaryDirectory(prefix="disk-", dir=place) as name,
        _mounted(Path(name), "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs"),
    ):
        yield Path(name)


@contextmanager
def _mounted(place: Path, *what: str) -> Iterator[None]:
    subprocess.run(["mount", *what, place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


# --- several at once ---


def read_meanwhile(subject: Subject, place: Path, seconds: float) -> Row:
    """Read again and again while two processes write again and again."""
    row = Row(subject.name, "readers and two writers at once")
    with template_of(subject, place) as template, copied(template) as folder:
        end = time.monotonic() + seconds
        work = partial(subject.write_among_others, folder)
        writers = [_start(partial(_repeat, work, range(first, _MOST, 3), end)) for first in (0, 1)]
        while time.monotonic() < end:
            found = step(lambda: [subject.state(folder) for _ in range(10)])
            wrong = found.kind != "done" or not set(found.value) <= subject.kept | subject.ended
            for state in found.value if found.kind == "done" else [found.kind]:
                row.count(state, [f"{found.kind} {found.value}"] if wrong else [], "read meanwhile")
        for writer in writers:
            _, status = os.waitpid(writer, 0)
            row.count("written", [f"exit status {status}"] if status else [], "a writer")
        row.count(*judge(subject, folder, Outcome("done")), "in the end")
    return row


def _start(work: Callable[[], None]) -> int:
    pid = os.fork()
    if not pid:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid


def _repeat(work: Callable[[int], None], turns: Iterable[int], end: float) -> None:
    for turn in turns:
        if time.monotonic() >= end:
            break
        work(turn)


# --- the table ---


def table(rows: list[Row]) -> str:
    """Return a Markdown table: the trials of each subject by fault, and how many were right or wrong."""
    faults = list(dict.fromkeys(row.fault for row in rows))
    head = ["written", *faults, "tried", "survived", "lost or wrong"]
    subjects = {name: [row for row in rows if row.subject == name] for name in dict.fromkeys(r.subject for r in rows)}
    lines = [head, ["---", *["--:"] * (len(head) - 1)]]
    for name, own in [*subjects.items(), ("all", rows)]:
        counts = [sum(row.tried for row in own if row.fault == fault) for fault in faults]
        tried, lost = sum(row.tried for row in own), sum(len(row.wrong) for row in own)
        by_fault = [f"{count:,}" if count else "" for count in counts]
        lines.append([name, *by_fault, f"{tried:,}", f"{tried - lost:,}", f"{lost:,}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
