"""The state of a run in, one file out, and back: written whole or not at all, read without running what is in it."""

import os
from pathlib import Path
from typing import Any

import torch

from spacy_elmo.errors import PretrainingError
from spacy_elmo.support.files import write_whole

NAME = "checkpoint.pt"


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint: tensors, and plain data of Python. An older one is replaced once the new one is on disk.

    Raises:
        PretrainingError: it cannot be written (disk full, ...); the older one is still there.
    """

    def fill(file: Any) -> None:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())

    try:
        write_whole(path, fill)
    except (OSError, RuntimeError) as error:  # torch makes one of the other
        raise PretrainingError(f"{path}: the checkpoint cannot be written ({error}); the one before is kept") from None


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint, on the CPU.

    Raises:
        PretrainingError: it is missing, damaged, or no checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise PretrainingError(f"{path}: no checkpoint to resume from") from None
    except Exception as error:  # a damaged file makes the unpickler fail in any way
        raise PretrainingError(f"{path}: cannot be read as a checkpoint; damaged? ({error})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise PretrainingError(f"{path}: not a checkpoint of this version of spacy-elmo")
    return state


FORMAT = 1
