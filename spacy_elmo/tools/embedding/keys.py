"""Checks that lines can name arrays (`--use-sentence-keys`)."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from spacy_elmo.errors import ElmoError
from spacy_elmo.tools.embedding.text import Text, line_hash

_LONGEST_IN_ZIP = 2**16 - 1 - len(".npy")  # bytes
_SHOWN = 60  # characters
_AT_ONCE = 1000  # lines


@dataclass(frozen=True)
class _Format:
    """A format with names. reason: why a line cannot be a name, or None; claimed: names that no other line may have."""

    name: str
    reason: Callable[[str], str | None]
    claimed: Callable[[str], Iterable[str]]


def _reason_of_hdf5(line: str) -> str | None:
    if line == ".":
        return "it stands for the group itself"
    if {"", "."} & set(line.split("/")):  # for HDF5, `a//b`, `./a/b` and `a/b` are the same
        return "slashes separate groups, and next to a slash there is nothing or only a dot"
    return None


def _groups(line: str) -> Iterator[str]:
    at = line.find("/")
    while at >= 0:
        yield line[:at]
        at = line.find("/", at + 1)


def _reason_of_npz(line: str) -> str | None:
    return "it is too long" if len(line.encode()) > _LONGEST_IN_ZIP else None


def _stem(line: str) -> Iterator[str]:
    if line.endswith(".npy"):
        yield line.removesuffix(".npy")  # `numpy.load` returns the same array for both names


_HDF5 = _Format("HDF5", _reason_of_hdf5, _groups)
_NPZ = _Format("npz", _reason_of_npz, _stem)
FORMATS = {".hdf5": _HDF5, ".h5": _HDF5, ".npz": _NPZ}


def check_keys(text: Text, suffix: str) -> None:
    """Check that every line can name an array in the format of this suffix, one of FORMATS.

    Raises:
        ElmoError: a line cannot be a name, or not together with another line; the message names both.
    """
    form = FORMATS[suffix]
    for number, line in enumerate(text.lines(), 1):
        if reason := form.reason(line):
            raise ElmoError(_refusal(text, number, form, line, f": {reason}"))
    if (clash := _find_clash(text, form)) is not None:
        number, line = clash
        others = enumerate(text.lines(), 1)
        beside, other = next((n, other) for n, other in others if line in form.claimed(other))
        raise ElmoError(_refusal(text, number, form, line, f" because of {_short(other)} (line {beside})"))


def _find_clash(text: Text, form: _Format) -> tuple[int, str] | None:
    """Return the number (from 1) and text of a line whose name another line claims; None if there is none. The memory
    is some 30 bytes per claimed name, whatever the length of the text."""
    claimed = np.fromiter((line_hash(name) for line in text.lines() for name in form.claimed(line)), dtype="S16")
    claimed.sort()
    lines, n_read = text.lines(), 0
    while len(claimed) and (some := list(islice(lines, _AT_ONCE))):
        hashes = np.fromiter(map(line_hash, some), dtype="S16")
        at = np.searchsorted(claimed, hashes).clip(max=len(claimed) - 1)
        if len(found := np.flatnonzero(claimed[at] == hashes)):
            return n_read + int(found[0]) + 1, some[found[0]]
        n_read += len(some)
    return None


def _refusal(text: Text, number: int, form: _Format, line: str, why: str) -> str:
    found = f"{text.path}, line {number}: {form.name} cannot name an array {_short(line)}{why}"
    return f"{found}; run again without --use-sentence-keys"


def _short(line: str) -> str:
    return repr(line if len(line) <= _SHOWN else line[:_SHOWN] + "...")
