"""Logs of figures in `.jsonl` files: a run appends lines, and cuts the log back when it resumes."""

import json
from pathlib import Path
from typing import Any

from spacy_elmo.errors import PretrainingError
from spacy_elmo.support.files import write_text

_MOST = 2**62  # limit of the words of a run


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Add a JSON object.

    Raises:
        PretrainingError: the file cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise PretrainingError(f"{path}: cannot be written ({error})") from None


def cut_log(path: Path, tokens: float) -> None:
    """Drop the lines after this many words, and a last line that a crash left incomplete.

    Raises:
        PretrainingError: the log cannot be read or written, or another line is damaged.
    """
    try:
        if path.is_file():
            write_text(path, "".join(f"{line}\n" for line, entry in read_log(path) if entry["tokens"] <= tokens))
    except OSError as error:
        raise PretrainingError(f"{path}: the log cannot be read and written ({error})") from None


def read_log(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return each line as text and parsed, without a last line that a crash left incomplete.

    Raises:
        PretrainingError: a line is damaged.
        OSError: the file cannot be read.
    """
    *lines, unfinished = path.read_bytes().split(b"\n")
    entries = []
    for number, line in enumerate([*lines, *([unfinished] if _parse(unfinished) else [])], start=1):
        if (entry := _parse(line)) is None:
            raise PretrainingError(
                f'{path}, line {number}: expected a JSON object with "tokens", a number; the log is damaged: delete '
                "this line, or move the file away"
            )
        entries.append((line.decode(), entry))
    return entries


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    tokens = entry.get("tokens") if isinstance(entry, dict) else None
    if not isinstance(tokens, int | float) or isinstance(tokens, bool):
        return None
    return entry if 0 <= tokens < _MOST else None
