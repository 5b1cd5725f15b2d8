"""Write the state of a run to one file, completely or not at all, and read it back, checking each part."""

import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from spacy_elmo.bilm.time_steps import State
from spacy_elmo.errors import PretrainingError
from spacy_elmo.formats.state_dict import is_written_by_torch
from spacy_elmo.pretraining.precision import Precision
from spacy_elmo.support import strict_json
from spacy_elmo.support.files import write_whole
from spacy_elmo.support.messages import quoted, reason, shown

NAME = "checkpoint.pt"
FORMAT = 1
_MOST = 2**62  # limit of any whole number in it


def fit(expected: str, is_fit: Callable[[Any], bool]) -> dict[str, Any]:
    """Metadata of a part of a checkpoint: what is expected, and a check."""
    return {"expected": expected, "is_fit": is_fit}


def _is_count(value: Any, least: int = 0) -> bool:
    return type(value) is int and least <= value < _MOST


def _is_positive(value: Any) -> bool:
    return _is_count(value, 1)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_options(value: Any) -> bool:
    is_json = isinstance(value, dict) and _is_json(value)
    return is_json and all(isinstance(value.get(key), dict) for key in ("lstm", "char_cnn"))


def _is_json(value: Any) -> bool:
    try:
        strict_json.check(value)
    except ValueError:
        return False
    return True


def _is_origin(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict) and all(_is_text(key) and (_is_text(v) or _is_count(v)) for key, v in value.items())
    )


def _is_precision(value: Any) -> bool:
    return value is None or (_is_text(value) and value in get_args(Precision))


def _is_plain(value: Any) -> bool:
    """Return whether this is a plain tensor, as runs have them.

    Files can also hold sparse tensors, tensors without memory (device `meta`), tensors whose numbers share one place
    (stride 0), and parameters, which can't be changed in place.
    """
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and not value.is_meta
        and not value.is_quantized
        and not value.requires_grad
        and all(stride > 0 for stride, size in zip(value.stride(), value.shape, strict=True) if size > 1)
    )


def _are_named_tensors(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_text(key) and _is_plain(v) for key, v in value.items())


def _are_averages(value: Any) -> bool:
    return value is None or _are_named_tensors(value)


def _is_optimizer(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("state"), dict)


def _is_scaler(value: Any) -> bool:
    names = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}
    return isinstance(value, dict) and (
        not value or (value.keys() == names and all(type(v) in (int, float) and 0 <= v < _MOST for v in value.values()))
    )


def _are_states(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(state, tuple)
        and len(state) == 2
        and all(_is_plain(one) and one.is_floating_point() for one in state)
        for state in value
    )


def _is_loss_sum(value: Any) -> bool:
    return _is_plain(value) and value.shape == (2,) and bool(value.is_floating_point())


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to continue as if it had never stopped; a part with a default may be missing in a file.

    options: of the biLM, as in options.json; vocabulary: its digest; n_positions: of the corpus.
    step: steps taken; rows: of all processes; tokens_per_step: predictions of one direction per step.
    origin: what the model card says about the model that the run started from, if any.
    model, optimizer, scaler: their `state_dict`; states: of the rows, for each layer; since_log: `[2]` float64, the sum
        of the losses since the last line of the log, and their number.
    precision: None in files of earlier versions; average: moving average of the weights by name, if the run has one.
    source: the file it was read from, for errors.
    """

    options: dict[str, Any] = field(metadata=fit("the options of a biLM", _is_options))
    vocabulary: str = field(metadata=fit("text", _is_text))
    step: int = field(metadata=fit("a whole number", _is_count))
    rows: int = field(metadata=fit("a whole number of at least 1", _is_positive))
    tokens_per_step: int = field(metadata=fit("a whole number of at least 1", _is_positive))
    n_positions: int = field(metadata=fit("a whole number of at least 1", _is_positive))
    origin: dict[str, Any] | None = field(metadata=fit("nothing, or names with texts and whole numbers", _is_origin))
    optimizer_name: str = field(metadata=fit("text", _is_text))
    model: dict[str, Tensor] = field(metadata=fit("tensors by name", _are_named_tensors))
    optimizer: dict[str, Any] = field(metadata=fit("the state of an optimizer", _is_optimizer))
    scaler: dict[str, Any] = field(metadata=fit("the state of a scaler of losses", _is_scaler))
    states: list[State] = field(metadata=fit("pairs of tensors", _are_states))
    since_log: Tensor = field(metadata=fit("a tensor of two numbers", _is_loss_sum))
    precision: Precision | None = field(
        default=None, metadata=fit(f"one of {', '.join(get_args(Precision))}", _is_precision)
    )
    average: dict[str, Tensor] | None = field(default=None, metadata=fit("tensors by name", _are_averages))
    source: str = "checkpoint"

    def write(self, path: Path) -> None:
        """Write to a file. An older file is replaced once the new one is on disk.

        Raises:
            PretrainingError: the file cannot be written (disk full, ...); the older one is kept.
        """
        content = {"format": FORMAT, **{one.name: getattr(self, one.name) for one in _parts()}}

        def fill(file: Any) -> None:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())

        try:
            write_whole(path, fill)
        except (OSError, RuntimeError) as error:  # torch turns an OSError into a RuntimeError
            raise PretrainingError(
                f"{path}: the checkpoint cannot be written ({error}); the previous one is kept"
            ) from None

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """Read a file, on the CPU, without running anything in it.

        Raises:
            PretrainingError: the file is missing, damaged, or not a checkpoint; or a part is missing or wrong.
        """
        content = _load(path)
        number = content.get("format") if isinstance(content, dict) else None
        if not isinstance(number, int) or number != FORMAT:
            raise PretrainingError(f"{path}: not a checkpoint of this version of spacy-elmo")
        checkpoint = cls(**{one.name: _value(content, one, path) for one in _parts()}, source=str(path))
        if checkpoint.tokens_per_step % checkpoint.rows:
            raise PretrainingError(
                f"{path}: tokens_per_step is {checkpoint.tokens_per_step}, expected a multiple of rows, "
                f"{checkpoint.rows}; {_DAMAGED}"
            )
        return checkpoint


_DAMAGED = "the file is damaged: restore a copy of it, or start a new run"


def _parts() -> list["Field[Any]"]:
    return [one for one in fields(Checkpoint) if one.metadata]


def _load(path: Path) -> Any:
    try:
        _check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise PretrainingError(f"{path}: no checkpoint to resume from") from None
    except pickle.UnpicklingError:  # torch's own message recommends to load it anyway
        raise PretrainingError(
            f"{path}: not loaded, because it holds objects that no checkpoint has; it may be damaged or hostile"
        ) from None
    except Exception as error:  # with a damaged file the unpickler can raise anything
        raise PretrainingError(f"{path}: cannot be read as a checkpoint; damaged? ({reason(error)})") from None


def _check_archive(path: Path) -> None:
    """Raise if this is not a zip archive as torch writes it, or a checksum is wrong: torch checks none."""
    with zipfile.ZipFile(path) as archive:
        if not is_written_by_torch(archive, path.stat().st_size):
            raise ValueError("not a zip archive as torch writes it")
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")


def _value(content: dict[str, Any], one: "Field[Any]", path: Path) -> Any:
    if one.name not in content and one.default is not MISSING:
        return one.default
    expected = one.metadata["expected"]
    if one.name not in content:
        raise PretrainingError(f"{path}: {one.name} is missing, expected {expected}; {_DAMAGED}")
    value = content[one.name]
    if not one.metadata["is_fit"](value):
        raise PretrainingError(f"{path}: {one.name} is {_shown(value)}, expected {expected}; {_DAMAGED}")
    return value


def _shown(value: Any) -> str:
    """Show a value in an error: text and numbers themselves, anything else by its type."""
    is_short = value is None or isinstance(value, bool | float | str | int)
    return quoted(value) if is_short else f"of type {type(value).__name__}"


def load_tensors(module: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Load the tensors of a checkpoint into a network.

    Raises:
        PretrainingError: a tensor is missing, unknown, or of another shape.
    """
    check_tensors(tensors, module.state_dict(), source)
    module.load_state_dict(tensors)


def check_tensors(tensors: dict[str, Tensor], like: dict[str, Tensor], source: str) -> None:
    """Raise a PretrainingError if these tensors don't have the names and shapes of `like`."""
    if odd := sorted(like.keys() ^ tensors.keys()):
        what = "is missing" if odd[0] in like else "belongs to no part of the model"
        raise PretrainingError(f"{source}: {shown(odd[0])} {what}; {_DAMAGED}")
    for name, tensor in tensors.items():
        check_tensor(tensor, like[name], f"{source}: {name}")


def check_tensor(tensor: Any, like: Tensor, source: str) -> None:
    """Raise a PretrainingError if this is not a tensor of numbers with the shape of `like`."""
    if not _is_plain(tensor) or tensor.shape != like.shape or not tensor.is_floating_point():
        found = f"{list(tensor.shape)} {tensor.dtype}" if isinstance(tensor, Tensor) else _shown(tensor)
        raise PretrainingError(f"{source} is {found}, expected numbers {list(like.shape)}; {_DAMAGED}")
