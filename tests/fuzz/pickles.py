"""Change files that `torch.save` wrote: their pickle, their numbers, or the archive. Several kinds share this."""

import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

import models
import torch
from changes import damage, odd_text

_CALLS = (
    (b"os", b"system"),
    (b"posix", b"system"),
    (b"builtins", b"eval"),
    (b"builtins", b"exec"),
    (b"builtins", b"open"),
    (b"subprocess", b"Popen"),
    (b"torch", b"load"),
    (b"torch.hub", b"load"),
    (b"shutil", b"rmtree"),
    (b"pathlib", b"Path"),
    (b"torch.storage", b"_load_from_bytes"),
    (b"torch._utils", b"_rebuild_tensor"),
    (b"collections", b"OrderedDict"),
    (b"torch._utils", b"_rebuild_parameter"),
    (b"numpy", b"ndarray"),
    (b"torch", b"FloatStorage"),
    (b"builtins", b"getattr"),
)


class TorchFile:
    """An honest state_dict or other content, and ways to change its file. odd: changes a copy of the content."""

    def __init__(self, state: dict[str, Any], odd: "Callable[[Random, dict[str, Any]], Any] | None" = None) -> None:
        self._state, self._odd = state, odd or _odd_state
        self.zipped, self.legacy = _saved(state, True), _saved(state, False)

    def change(self, rng: Random) -> tuple[bytes, bool]:
        """Return a changed file, and whether it was changed before its checksums were computed or has none."""
        chance = rng.random()
        if chance < 0.4:
            return damage(
                rng, self.zipped, [i for i in range(len(self.zipped)) if self.zipped[i : i + 2] == b"PK"]
            ), False
        if chance < 0.5:
            return damage(rng, self.legacy, range(400)), True
        if chance < 0.7:
            return self.of_odd_content(rng, rng.random() < 0.7), True
        return self._with_members(rng), True

    def of_odd_content(self, rng: Random, in_zip: bool = True) -> bytes:
        """Return a complete file with changed content."""
        return _saved(self._odd(rng, self._state), in_zip)

    def _with_members(self, rng: Random) -> bytes:
        """Rebuild the archive with a changed pickle, changed numbers, or other or fewer members."""
        with zipfile.ZipFile(io.BytesIO(self.zipped)) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        name = next(name for name in files if name.endswith(".pkl"))
        chance = rng.random()
        if chance < 0.5:
            files[name] = _odd_pickle(rng, files[name])
        elif chance < 0.7:
            name = rng.choice(list(files))
            files[name] = damage(rng, files[name])
        elif chance < 0.8:
            files.pop(rng.choice(list(files)))
        elif chance < 0.9:
            files[f"{name.split('/')[0]}/{odd_text(rng)[:200].encode(errors='replace').decode()}"] = rng.randbytes(100)
        else:
            files[name] = files[name] + _odd_pickle(rng, files[name])
        return models.zipped(files, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


def _saved(state: Any, in_zip: bool) -> bytes:
    target = io.BytesIO()
    torch.save(state, target, _use_new_zipfile_serialization=in_zip)
    return target.getvalue()


def _odd_state(rng: Random, honest: dict[str, torch.Tensor]) -> Any:
    state: dict[Any, Any] = dict(honest)
    key = rng.choice(list(state))
    value = odd_tensor(rng, state[key])
    chance = rng.random()
    if chance < 0.6:
        state[key] = value
    elif chance < 0.7:
        del state[key]
    elif chance < 0.8:
        state[rng.choice((odd_text(rng), 3, f"{key}.x", f"CNN{key}"))] = value
    elif chance < 0.9:
        state[odd_text(rng)] = state.pop(key)
    else:
        return rng.choice(([*state.values()], {"state": state}, value, {}, None, 3, "x"))
    return state


def odd_tensor(rng: Random, tensor: torch.Tensor) -> Any:
    """Return another tensor, or something that is not a tensor."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.numel() > 2**20:  # odd enough already
        return tensor
    return rng.choice(
        (
            lambda: tensor.double(),
            lambda: tensor.half(),
            lambda: tensor.long(),
            lambda: tensor.to(torch.complex64),
            lambda: tensor.bfloat16(),
            lambda: tensor.bool(),
            lambda: tensor.t() if tensor.dim() == 2 else tensor.flatten()[:1],
            lambda: tensor.flatten(),
            lambda: tensor[None],
            lambda: tensor.flatten()[:0],
            lambda: tensor.expand(1000, *tensor.shape),
            lambda: torch.full_like(tensor, rng.choice((float("nan"), float("inf"), 1e38, 0.0))),
            lambda: tensor.to_sparse(),
            lambda: torch.nn.Parameter(tensor),
            lambda: tensor.numpy(),
            lambda: tensor.tolist(),
            lambda: odd_text(rng),
            lambda: None,
            lambda: 3,
            lambda: {"a": tensor},
            lambda: torch.zeros(1).expand(2**40),
            lambda: torch.empty(5, device="meta"),
        )
    )()


def _odd_pickle(rng: Random, honest: bytes) -> bytes:
    chance = rng.random()
    if chance < 0.4:
        return damage(rng, honest, range(100))
    if chance < 0.6:
        return _with_odd_opcode(rng, honest)
    module, name = rng.choice(_CALLS)
    call = b"c" + module + b"\n" + name + b"\n" + _argument(rng) + b"\x85R"
    if chance < 0.8:
        return b"\x80\x02" + call + rng.choice((b".", b"0" + honest[2:]))
    stack_global = (
        b"\x8c"
        + bytes([len(module)])
        + module
        + b"\x8c"
        + bytes([len(name)])
        + name
        + b"\x93"
        + _argument(rng)
        + b"\x85R."
    )
    return b"\x80\x04" + rng.choice((stack_global, b"(" + _argument(rng) + b"i" + module + b"\n" + name + b"\n."))


def _argument(rng: Random) -> bytes:
    text = rng.choice(("touch canary", "open('canary', 'w')", "canary", "/", "import os; os.mkdir('canary')"))
    return pickle.dumps(text, 2)[2:-1]


def _with_odd_opcode(rng: Random, honest: bytes) -> bytes:
    """Replace, repeat or remove an opcode, or change its argument."""
    places = [position for _, _, position in pickletools.genops(honest) if position is not None]
    number = rng.randrange(len(places) - 1)
    start, end = places[number], places[number + 1]
    other = rng.randrange(len(places) - 1)
    piece = rng.choice(
        (
            b"",
            honest[start:end] * 2,
            honest[places[other] : places[other + 1]],
            b"\x8a" + bytes([8]) + struct.pack("<q", rng.choice((0, -1, 2**40, 2**62))),
            b"J" + struct.pack("<i", rng.choice((-1, 0, 2**31 - 1))),
            b"N",
            b"K\0",
            b"(",
            b"0",
            b"1",
            b"2",
            b"]",
            b"}",
            b"\x81",
            b"\x92",
            b"Q",
            b"R",
            b"b",
            b"\x8e" + struct.pack("<Q", 2**60),
            b"T" + struct.pack("<I", 2**31 - 1),
        )
    )
    return honest[:start] + piece + honest[end:]
