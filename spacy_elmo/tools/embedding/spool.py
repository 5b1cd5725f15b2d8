"""Where vectors wait until all are there: a directory `OUT.part` that a kill at any moment leaves readable.

`job.json` says what is being made. `vectors` holds the arrays of line after line, `lengths` their numbers of tokens
(int64), written once the arrays are: what it does not speak of is cut off and made again.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spacy_elmo.errors import ElmoError
from spacy_elmo.tools.embedding.encoder import Array, Layout

_READ_AT_ONCE = 2**16  # lengths
_JOB, _LENGTHS, _VECTORS = "job.json", "lengths", "vectors"


class Spool:
    """Arrays of lines, in order.

    n_lines, n_tokens: what is there.
    """

    def __init__(self, out: Path, layout: Layout) -> None:
        self._out, self._layout = out, layout
        self._directory = directory_of(out)
        self._lengths, self._vectors = self._directory / _LENGTHS, self._directory / _VECTORS
        for path in (self._lengths, self._vectors):
            path.touch()
        self._keep_readable()

    def _keep_readable(self) -> None:
        lengths = np.fromfile(self._lengths, np.int64)
        ends = np.cumsum(lengths) * self._layout.token_bytes
        self.n_lines = int(np.searchsorted(ends, self._vectors.stat().st_size, side="right"))
        self.n_tokens = int(lengths[: self.n_lines].sum())
        self._cut()

    def _cut(self) -> None:
        os.truncate(self._vectors, self.n_tokens * self._layout.token_bytes)
        os.truncate(self._lengths, self.n_lines * np.dtype(np.int64).itemsize)

    def cut(self, n_lines: int) -> None:
        """Forget all but the first `n_lines`."""
        if n_lines < self.n_lines:
            self.n_tokens = int(np.fromfile(self._lengths, np.int64, n_lines).sum())
            self.n_lines = n_lines
            self._cut()

    def add(self, arrays: Sequence[Array]) -> None:
        """Append the arrays of further lines; they are safe when this returns."""
        lengths = np.array([array.shape[-2] for array in arrays], np.int64)
        with self._vectors.open("ab") as file:
            for array in arrays:
                file.write(array.tobytes())
            file.flush()
            os.fsync(file.fileno())
        with self._lengths.open("ab") as file:
            file.write(lengths.tobytes())
        self.n_lines += len(lengths)
        self.n_tokens += int(lengths.sum())

    def read(self) -> Iterator[Array]:
        """Yield the array of each line."""
        with self._lengths.open("rb") as lengths, self._vectors.open("rb") as vectors:
            while some := np.fromfile(lengths, np.int64, _READ_AT_ONCE).tolist():
                for n_tokens in some:
                    shape = self._layout.shape(n_tokens)
                    yield np.fromfile(vectors, self._layout.dtype, int(np.prod(shape))).reshape(shape)

    def finish(self, write: Callable[[Path], object]) -> None:
        """Let `write` fill the file that then appears as OUT, and remove the spool; where it fails, the spool stays."""
        try:
            write(_whole(self._out))
        except BaseException:
            _whole(self._out).unlink(missing_ok=True)  # half a file: room for nothing
            raise
        (self._directory / _JOB).unlink()  # from here on, what is left to do is to move the file
        move_finished(self._out)


def open_spool(out: Path, job: dict[str, Any], layout: Layout, resume: bool, force: bool) -> Spool | None:
    """Begin the spool of OUT, or with `resume` go on with the one that is there.

    job: what must be the same to go on.

    Returns None where the run to be resumed had come to its end, and only the file had to be moved.

    Raises:
        ElmoError: OUT exists, or its spool, and nothing says what to do with it; or the spool is of another job.
    """
    directory = directory_of(out)
    _refuse_foreign(directory, out.name)
    if directory.exists() and resume:
        if not (directory / _JOB).exists():
            move_finished(out)
            return None
        refuse_existing(out, force)
        _check_same(directory / _JOB, job)
        return Spool(out, layout)
    refuse_existing(out, force)
    if directory.exists():
        if not force:
            raise ElmoError(
                f"{directory}: there from a run that was interrupted; --resume goes on, --force begins anew"
            )
        _drop(directory)
    _begin(directory, job)
    return Spool(out, layout)


def _refuse_foreign(directory: Path, name: str) -> None:
    """Raise an ElmoError where what lies in the place of the spool is not one of ours."""
    if not directory.exists():
        return
    known = {_JOB, _LENGTHS, _VECTORS, name}
    if not directory.is_dir() or {path.name for path in directory.iterdir()} - known:
        raise ElmoError(f"{directory}: not from a run of embed, which needs that place; move it away")


def refuse_existing(out: Path, force: bool) -> None:
    """Raise an ElmoError where OUT exists and may not be replaced, or cannot be made where it should be."""
    if out.is_dir():
        raise ElmoError(f"{out}: is a directory; name a file to write")
    if out.exists() and not force:
        raise ElmoError(f"{out}: exists already; --force replaces it")
    if not out.parent.is_dir():
        raise ElmoError(f"{out}: no such directory {out.parent}; make it first")


def move_finished(out: Path) -> None:
    """Move the finished file to OUT, unless that is done, and remove its directory."""
    if _whole(out).exists():
        _whole(out).replace(out)
    shutil.rmtree(directory_of(out))


def directory_of(out: Path) -> Path:
    """Where the spool of OUT lies."""
    return out.with_name(f"{out.name}.part")


def _whole(out: Path) -> Path:
    return directory_of(out) / out.name


def _begin(directory: Path, job: dict[str, Any]) -> None:
    """Make the directory; it appears with its job.json in it."""
    hidden = _hidden(directory)
    shutil.rmtree(hidden, ignore_errors=True)  # another run's, killed here
    hidden.mkdir()
    (hidden / _JOB).write_text(json.dumps(job, indent=1), encoding="utf-8")
    hidden.rename(directory)


def _drop(directory: Path) -> None:
    """Remove the directory, which disappears with all that is in it: without job.json it would pass for finished."""
    hidden = _hidden(directory)
    shutil.rmtree(hidden, ignore_errors=True)
    directory.rename(hidden)
    shutil.rmtree(hidden)


def _hidden(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.new")


def _check_same(path: Path, job: dict[str, Any]) -> None:
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        different = [key for key in job if before.get(key) != job[key]]
    except (ValueError, AttributeError):
        raise ElmoError(f"{path}: damaged; --force without --resume begins anew") from None
    if different:
        raise ElmoError(
            f"{path.parent}: the interrupted run differs in {_listed(different)}; give the same again, or begin anew "
            "with --force and without --resume"
        )


_SETTINGS = {
    "text": "the text",
    "model": "the model",
    "carry_state": "--carry-state or its --batch-size",
}


def _listed(keys: list[str]) -> str:
    names = [_SETTINGS.get(key, f"--{key}") for key in keys]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
