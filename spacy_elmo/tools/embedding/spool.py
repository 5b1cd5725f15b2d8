"""Keeps vectors until all are there, in a directory `OUT.part` that stays readable if the run is killed.

`job.json` says what is being made. `vectors` has the arrays of all lines in order. `index` has a record per line: its
number of tokens, and a checksum over the job and all numbers and arrays up to this one. What the checksums do not
confirm is cut off and computed again. This can be the end of a killed run, something that was changed, or what another
job has left.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from spacy_elmo.errors import ElmoError
from spacy_elmo.support.files import behind_link, patiently, sync, sync_folder
from spacy_elmo.support.locks import claimed
from spacy_elmo.support.paths import path_of
from spacy_elmo.tools.embedding.encoder import Array, Layout
from spacy_elmo.tools.embedding.files import Wishes

_SUFFIX = ".part"  # of the directory
_FORMAT = 2  # format 1 had no checksums
_RECORD = np.dtype([("n_tokens", "<i8"), ("checksum", "<u4")])
_RECORDS_AT_ONCE = 2**16
_BYTES_AT_ONCE = 2**20
_MOST_JOB = 2**16  # read at most this many bytes of job.json
_JOB, _NEW_JOB, _INDEX, _VECTORS = "job.json", "job.json.new", "index", "vectors"


class Spool:
    """Arrays of lines, in order, in an existing directory.

    job: what the checksums cover. n_lines, n_tokens: how many are there and correct.
    """

    def __init__(self, out: Path, job: dict[str, Any], layout: Layout) -> None:
        self._out, self._job, self._layout = out, job, layout
        self._directory = directory_of(out)
        self._index, self._vectors = self._directory / _INDEX, self._directory / _VECTORS
        for path in (self._index, self._vectors):
            path.touch()
        self._seed = zlib.crc32(json.dumps([job, asdict(layout)], sort_keys=True).encode())
        self.n_lines, self.n_tokens, self._checksum = self._count_right()
        self._cut()

    def _count_right(self) -> tuple[int, int, int]:
        """Count the lines that are unchanged and their tokens; return these and the checksum of the last line."""
        n_lines, total, checksum = 0, 0, self._seed
        with self._vectors.open("rb") as vectors:
            for n_tokens, n_bytes, expected in self._records():
                found = _checksum(n_tokens, _pieces(vectors, n_bytes), checksum)
                if found != expected:
                    break
                n_lines, total, checksum = n_lines + 1, total + n_tokens, found
        return n_lines, total, checksum

    def _records(self) -> Iterator[tuple[int, int, int]]:
        """Yield number of tokens, bytes of the array and checksum of each line whose array can be complete."""
        left = self._vectors.stat().st_size
        with self._index.open("rb") as index:
            while len(some := np.fromfile(index, _RECORD, _RECORDS_AT_ONCE)):
                for n_tokens, expected in some.tolist():
                    n_bytes = n_tokens * self._layout.token_bytes
                    if not 0 <= n_bytes <= left:
                        return
                    left -= n_bytes
                    yield n_tokens, n_bytes, expected

    def _cut(self) -> None:
        os.truncate(self._vectors, self.n_tokens * self._layout.token_bytes)
        os.truncate(self._index, self.n_lines * _RECORD.itemsize)

    def cut(self, n_lines: int) -> None:
        """Remove all but the first `n_lines`."""
        if n_lines < self.n_lines:
            records = np.fromfile(self._index, _RECORD, n_lines)
            self.n_lines, self.n_tokens = n_lines, int(records["n_tokens"].sum())
            self._checksum = int(records["checksum"][-1]) if n_lines else self._seed
            self._cut()

    def add(self, arrays: Sequence[Array]) -> None:
        """Append the arrays of further lines. They are safely on disk when this returns."""
        records = np.empty(len(arrays), _RECORD)
        checksum = self._checksum
        with self._vectors.open("ab") as file:
            for number, array in enumerate(arrays):
                content, n_tokens = array.tobytes(), array.shape[-2]
                checksum = _checksum(n_tokens, [content], checksum)
                records[number] = n_tokens, checksum
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with self._index.open("ab") as file:
            file.write(records.tobytes())
        self.n_lines, self.n_tokens = self.n_lines + len(arrays), self.n_tokens + int(records["n_tokens"].sum())
        self._checksum = checksum

    def read(self) -> Iterator[Array]:
        """Yield the array of each line.

        Raises:
            ElmoError: something else has changed the files in the meantime.
        """
        n_read, checksum = 0, self._seed
        with self._vectors.open("rb") as vectors:
            for n_tokens, n_bytes, expected in self._records():
                content = vectors.read(n_bytes)
                checksum = _checksum(n_tokens, [content], checksum)
                if checksum != expected:
                    break
                yield np.frombuffer(content, self._layout.dtype).reshape(self._layout.shape(n_tokens))
                n_read += 1
        if n_read != self.n_lines:
            raise ElmoError(
                f"{self._directory}: its line {n_read} was changed by something else (a second run, a broken disk?); "
                "--resume computes it again"
            )

    def finish(self, write: Callable[[Path], object], wishes: Wishes) -> None:
        """Let `write` write the file, move it to OUT and remove the spool. If writing fails, the spool stays."""
        whole = self._directory / _name_in(self._directory)
        try:
            write(whole)
            sync(whole)
            _write_job(self._directory, {**self._job, "finished": _stamp(whole, wishes)})
        except BaseException:
            whole.unlink(missing_ok=True)  # a partial file only takes space
            raise
        target = behind_link(self._out)
        patiently(whole.replace, target)
        sync_folder(target.parent)  # before removing what OUT could be made from again
        _clear(self._directory)


@contextmanager
def open_spool(
    out: Path, job: dict[str, Any], layout: Layout, wishes: Wishes, resume: bool, force: bool
) -> Iterator[Spool | None]:
    """Context with a new spool of OUT, or with `resume` the existing one. No other run can use it in the meantime.

    job: what must be the same to resume; wishes: for OUT itself.

    Yields None if the interrupted run had already written OUT, and only its spool had to be removed.

    Raises:
        ElmoError: OUT exists without `force`, unless the interrupted run wrote it; the spool exists, and neither
            `resume` nor `force` is set; the spool to resume belongs to another job; or another run uses it.
    """
    directory = path_of(directory_of(out), "out")  # its name is longer than that of OUT
    with _held(directory, out):
        yield _begin(out, directory, {"format": _FORMAT, **job}, layout, wishes, resume, force)


@contextmanager
def _held(directory: Path, out: Path) -> Iterator[None]:
    """Make or find the directory of a spool, and lock it against other runs. At the end, remove it if it is empty."""

    def make(directory: Path) -> None:
        _refuse_foreign(directory)
        with suppress(FileExistsError):  # `exist_ok` would check again, after another run may have removed it
            directory.mkdir()

    in_use = ElmoError(f"{out}: another process is writing this file; wait until it ends, or name another file")
    with claimed(directory, make, in_use):
        try:
            yield
        finally:
            with suppress(OSError):  # it is not empty
                directory.rmdir()


def _begin(
    out: Path, directory: Path, job: dict[str, Any], layout: Layout, wishes: Wishes, resume: bool, force: bool
) -> Spool | None:
    left = {path.name for path in directory.iterdir()}
    is_begun = not left <= {_NEW_JOB}  # otherwise the run was killed before it began, or after it had finished
    if is_begun and resume:
        finished = _read_finished(directory, job)
        if out.exists() and finished == _stamp(out, wishes):
            _clear(directory)
            return None
        refuse_existing(out, force)
        return Spool(out, job, layout)
    refuse_existing(out, force)
    if is_begun and not force:
        raise ElmoError(f"{directory}: left by an interrupted run; add --resume to continue, or --force to start again")
    if left:
        _clear(directory)
    _write_job(directory, job)
    return Spool(out, job, layout)


def _refuse_foreign(directory: Path) -> None:
    """Raise an ElmoError if the place of the spool has something that is not a spool of ours."""
    try:
        entries = list(directory.iterdir())
    except FileNotFoundError:  # missing, or its run has just ended
        return
    except NotADirectoryError:
        entries = [directory]
    if any(path.is_dir() or path.name not in _names(directory) for path in entries):
        raise ElmoError(f"{directory}: not from embed, which needs this name; move it away")


def refuse_existing(out: Path, force: bool) -> None:
    """Raise an ElmoError if OUT exists and may not be replaced, or if its folder does not exist."""
    if out.is_dir():
        raise ElmoError(f"{out}: is a directory; name a file to write")
    if out.exists() and not force:
        raise ElmoError(f"{out}: already exists; add --force to replace it")
    try:
        parent = behind_link(out).parent
    except OSError as error:
        raise ElmoError(f"{out}: cannot be written ({error.strerror})") from None
    if not parent.is_dir():
        raise ElmoError(f"{out}: there is no directory {parent}; create it first")


def directory_of(out: Path) -> Path:
    """Return the directory of the spool of OUT. If OUT is a link, it is next to what the link names."""
    place = behind_link(out)
    return place.with_name(f"{place.name}{_SUFFIX}")


def _name_in(directory: Path) -> str:
    """Return the name of OUT, or of the file that it names if it is a link, in a spool."""
    return directory.name.removesuffix(_SUFFIX)


def _names(directory: Path) -> list[str]:
    """Return the names of all files that a spool may have, also one of an earlier version.

    They are in the order to remove them. The job comes last, so that it is there as long as any other file.
    """
    return [_name_in(directory), "lengths", _INDEX, _VECTORS, _NEW_JOB, _JOB]


def _clear(directory: Path) -> None:
    for known in _names(directory):
        (directory / known).unlink(missing_ok=True)


def _stamp(path: Path, wishes: Wishes) -> dict[str, Any]:
    """Return what tells the file that a run has written from any other, even after it was renamed."""
    found = path.stat()
    return {"size": found.st_size, "time": found.st_mtime_ns, "number": found.st_ino, **asdict(wishes)}


def _write_job(directory: Path, job: dict[str, Any]) -> None:
    new = directory / _NEW_JOB
    new.write_text(json.dumps(job, indent=1), encoding="utf-8")
    patiently(new.replace, directory / _JOB)


def _read_finished(directory: Path, job: dict[str, Any]) -> Any:
    """Return what job.json says about the finished file, None if there is none.

    Raises:
        ElmoError: job.json belongs to another job or version, is missing or damaged.
    """
    path, anew = directory / _JOB, "start again with --force and without --resume"
    try:
        with path.open("rb") as file:
            before = json.loads(file.read(_MOST_JOB))
        version = before.get("format")
        different = [key for key in job if before.get(key) != job[key]]
    except (FileNotFoundError, ValueError, AttributeError, RecursionError):
        raise ElmoError(f"{path}: missing or damaged, so the content of {directory.name} is unknown; {anew}") from None
    if version != _FORMAT:
        raise ElmoError(
            f"{directory}: from another version of spacy-elmo; continue with that version, or {anew} (earlier versions "
            "had no checksums)"
        )
    if different:
        raise ElmoError(f"{directory}: the interrupted run differs in {_listed(different)}; use the same, or {anew}")
    return before.get("finished")


def _checksum(n_tokens: int, content: Iterable[bytes], before: int) -> int:
    """Return the checksum of a line and all lines before it. before: the checksum of those."""
    checksum = zlib.crc32(n_tokens.to_bytes(8, "little"), before)
    for piece in content:
        checksum = zlib.crc32(piece, checksum)
    return checksum


def _pieces(file: BinaryIO, n_bytes: int) -> Iterator[bytes]:
    while n_bytes and (piece := file.read(min(n_bytes, _BYTES_AT_ONCE))):
        n_bytes -= len(piece)
        yield piece


_SETTINGS = {
    "text": "the text",
    "tokens": "the words that --pipeline splits the text into",
    "model": "the model",
    "carry_state": "--carry-state or its --batch-size",
}


def _listed(keys: list[str]) -> str:
    names = [_SETTINGS.get(key, f"--{key}") for key in keys]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
