"""Content in, files and folders out that appear whole or not at all: written aside, then renamed."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, write_to: Callable[[BinaryIO], object]) -> None:
    """Let `write_to` fill a file, which replaces the one that is there once it is whole.

    Raises:
        OSError: it cannot be written; the one that was there is still there.
    """
    temporary = aside(path)
    try:
        with temporary.open("w+b") as file:
            write_to(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with the line ends that it has; see `write_whole`."""
    write_whole(path, lambda file: file.write(text.encode()))


@contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """Give a new folder beside `path`, to be filled and then renamed to it; what is left there in the end is removed.

    Raises:
        OSError: it cannot be made.
    """
    temporary = aside(path)
    shutil.rmtree(temporary, ignore_errors=True)  # of a process of the same number that was killed
    try:
        temporary.mkdir(parents=True)
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def aside(path: Path) -> Path:
    """Where this process writes what is to become `path`: beside it, hidden, ending in `.part`."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")
