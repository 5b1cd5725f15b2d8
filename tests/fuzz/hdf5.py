"""Change HDF5 files: their bytes, or what h5py writes. Several kinds share this."""

import io
import re
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import h5py
import numpy as np
from changes import damage, odd_text

_OBJECTS = re.compile(rb"OHDR|TREE|HEAP|SNOD|OCHK|FRHP|FHDB|BTHD|BTLF|EAHD|FAHD|\x89HDF|[\w/]{4,}")
_CHECKED = re.compile(rb"OHDR|\x89HDF\r\n\x1a\n[\2\3]")
_TYPES: tuple[Any, ...] = (
    "f2",
    "f4",
    "f8",
    ">f4",
    "i4",
    "S5",
    "c8",
    "?",
    h5py.string_dtype(),
    [("a", "f4")],
    "f16",
    "u1",
    "V10",
    "(2,3)f4",
    [("a", [("b", "(1000,1000)f4")])],
    h5py.vlen_dtype("i4"),
    h5py.enum_dtype({f"x{number}": number for number in range(100)}),
    h5py.ref_dtype,
    h5py.opaque_dtype("M8[s]"),
)


class HDF5File:
    """A given honest file, and ways to change it."""

    def __init__(self, content: bytes) -> None:
        with h5py.File(io.BytesIO(content)) as file:
            self._arrays: dict[str, Any] = {}
            file.visititems(
                lambda name, node: self._arrays.update({name: node[...]}) if isinstance(node, h5py.Dataset) else None
            )
        self._forms = {
            "as it is": content,
            "latest": self._write(libver="latest"),
            "packed": self._write(chunks=True, compression="gzip", shuffle=True, fletcher32=True),
            "latest, packed": self._write(libver="latest", chunks=True, compression="gzip", maxshape=True),
            "chunks": self._write(chunks=True),
        }
        self._places = {
            form: [match.start() for match in _OBJECTS.finditer(content)] for form, content in self._forms.items()
        }

    def change(self, rng: Random) -> tuple[bytes, bool]:
        """Return a changed file, and whether it was changed before its checksums were computed."""
        if rng.random() < 0.3:
            return self._made(rng), True
        form = rng.choice(list(self._forms))
        content = damage(rng, self._forms[form], self._places[form])
        if "latest" in form and rng.random() < 0.7:
            return _with_checksums(content), True
        return content, False

    def _write(self, libver: str = "earliest", maxshape: bool = False, **how: Any) -> bytes:
        target = io.BytesIO()
        with h5py.File(target, "w", libver=libver) as file:
            for name, array in self._arrays.items():
                file.create_dataset(name, data=array, **how, **({"maxshape": (None,) * array.ndim} if maxshape else {}))
        return target.getvalue()

    def _made(self, rng: Random) -> bytes:
        target = io.BytesIO()
        with h5py.File(target, "w", libver=rng.choice(("earliest", "latest"))) as file:
            for name, array in self._arrays.items():
                file.create_dataset(name, data=array)
            for _ in range(rng.choice((1, 1, 2, 5))):
                rng.choice(_TRICKS)(rng, file, rng.choice(list(self._arrays)))
        content = target.getvalue()
        return damage(rng, content) if rng.random() < 0.1 else content


def _with_checksums(content: bytes) -> bytes:
    """Correct the checksums of superblocks and object headers. In version 2, both end with one."""
    changed = bytearray(content)
    for start, end in _checked_ranges(content):
        changed[end : end + 4] = lookup3(changed[start:end]).to_bytes(4, "little")
    return bytes(changed)


def _checked_ranges(content: bytes) -> Iterator[tuple[int, int]]:
    for match in _CHECKED.finditer(content):
        start, end = match.start(), match.start() + 44
        if match[0] == b"OHDR":
            flags = content[start + 5] if start + 5 < len(content) else 0
            at = start + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
            width = 1 << (flags & 3)
            end = at + width + int.from_bytes(content[at : at + width], "little")
        if end + 4 <= len(content):
            yield start, end


def lookup3(data: bytes) -> int:
    """Bob Jenkins' hash, as used in HDF5."""
    mask = 0xFFFFFFFF
    a = b = c = (0xDEADBEEF + len(data)) & mask

    def rotated(value: int, by: int) -> int:
        return (value << by | value >> (32 - by)) & mask

    whole = max(0, (len(data) - 1) // 12) * 12
    for at in range(0, whole, 12):
        a, b, c = (
            (part + int.from_bytes(data[at + i : at + i + 4], "little")) & mask for part, i in ((a, 0), (b, 4), (c, 8))
        )
        a = (a - c & mask) ^ rotated(c, 4)
        c = c + b & mask
        b = (b - a & mask) ^ rotated(a, 6)
        a = a + c & mask
        c = (c - b & mask) ^ rotated(b, 8)
        b = b + a & mask
        a = (a - c & mask) ^ rotated(c, 16)
        c = c + b & mask
        b = (b - a & mask) ^ rotated(a, 19)
        a = a + c & mask
        c = (c - b & mask) ^ rotated(b, 4)
        b = b + a & mask
    rest = bytes(data[whole:])
    if not rest:
        return c
    rest = rest.ljust(12, b"\0")
    a, b, c = ((part + int.from_bytes(rest[i : i + 4], "little")) & mask for part, i in ((a, 0), (b, 4), (c, 8)))
    for x, y, by in (
        ("c", "b", 14),
        ("a", "c", 11),
        ("b", "a", 25),
        ("c", "b", 16),
        ("a", "c", 4),
        ("b", "a", 14),
        ("c", "b", 24),
    ):
        values = {"a": a, "b": b, "c": c}
        values[x] = ((values[x] ^ values[y]) - rotated(values[y], by)) & mask
        a, b, c = values["a"], values["b"], values["c"]
    return c


def _retype(rng: Random, file: h5py.File, name: str) -> None:
    shape, kind = (file[name].shape or ()), rng.choice(_TYPES)
    del file[name]
    file.create_dataset(name, shape, kind)


def _reshape(rng: Random, file: h5py.File, name: str) -> None:
    shape = list(file[name].shape or ())
    del file[name]
    if shape and rng.random() < 0.7:
        shape[rng.randrange(len(shape))] = rng.choice((0, 1, 3, 2**20, 2**40))
    else:
        shape = rng.choice(([], [1] * 30, [2**31], [*shape, 1]))
    how: dict[str, Any] = rng.choice(({}, {"chunks": True}, {"chunks": True, "compression": "gzip"}))
    file.create_dataset(name, shape, "f4", **(how if shape and 0 not in shape and len(shape) < 30 else {}))


def _values(rng: Random, file: h5py.File, name: str) -> None:
    node = file[name]
    if not isinstance(node, h5py.Dataset) or (node.chunks and np.prod(node.chunks, dtype=float) > 2**24):
        return  # to write one of `_huge_chunks` would take all memory
    if node.dtype.kind == "f" and 0 < node.size < 10**6:
        array = node[...]
        array.flat[rng.randrange(array.size)] = rng.choice((np.nan, np.inf, 1e38, 65_504, 1e-40, -0.0))
        node[...] = array


def _huge_chunks(rng: Random, file: h5py.File, name: str) -> None:
    shape = file[name].shape or (1,)
    del file[name]
    chunks = (rng.choice((2**10, 2**20, 2**27)), *([1] * (len(shape) - 1)))
    made = file.create_dataset(
        name, shape, "f4", chunks=chunks, maxshape=(None,) * len(shape), compression=rng.choice((None, "gzip"))
    )
    if chunks[0] < 2**24 and np.prod(shape, dtype=float) < 10**5:
        made[...] = 0.5


def _link(rng: Random, file: h5py.File, name: str) -> None:
    link = rng.choice(
        (
            h5py.SoftLink("/nowhere"),
            h5py.SoftLink(f"/{name}"),
            h5py.ExternalLink("/etc/passwd", "/a"),
            h5py.ExternalLink(".", "/"),
        )
    )
    del file[name]
    file[name] = link


def _elsewhere(rng: Random, file: h5py.File, name: str) -> None:
    shape = file[name].shape
    del file[name]
    if rng.random() < 0.5 and shape:
        layout = h5py.VirtualLayout(shape, "f4")
        layout[...] = h5py.VirtualSource("other.hdf5", "x", shape)
        file.create_virtual_dataset(name, layout)
    else:
        file.create_dataset(name, shape, "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def _group(rng: Random, file: h5py.File, name: str) -> None:
    del file[name]
    file.create_group(name)


def _nest(rng: Random, file: h5py.File, name: str) -> None:
    group = file.require_group(rng.choice(("deep", "CNN_deep", "RNN_0/RNN", "CNN")))
    for _ in range(rng.choice((10, 16, 17, 100, 1_500))):
        group = group.require_group(rng.choice(("a", "CNN", "0")))


def _many(rng: Random, file: h5py.File, name: str) -> None:
    group = file.require_group(rng.choice(("many", "CNN_many", "CNN")))
    for number in range(rng.choice((10, 1_000))):
        group[f"x{number}"] = h5py.SoftLink("/") if number % 2 else file["/"]


def _cycle(rng: Random, file: h5py.File, name: str) -> None:
    parent = file[name].parent
    parent[rng.choice(("again", "CNN_again", odd_text(rng).replace("/", "").replace("\0", "").strip(".") or "x"))] = (
        rng.choice((parent, file["/"]))
    )


def _rename(rng: Random, file: h5py.File, name: str) -> None:
    new = odd_text(rng)[:1000].replace("\0", "").strip("./")
    if new and "/" not in new:
        file[f"CNN_{new}"] = file[name]


def _attributes(rng: Random, file: h5py.File, name: str) -> None:
    for number in range(rng.choice((1, 100))):
        file[name].attrs[f"x{number}"] = rng.choice((1, "text", b"\xff" * 1000))


def _careful(trick: Callable[[Random, h5py.File, str], None]) -> Callable[[Random, h5py.File, str], None]:
    """Ignore that h5py cannot write everything. What was done before stays."""

    def do(rng: Random, file: h5py.File, name: str) -> None:
        try:
            trick(rng, file, name)
        except (ValueError, OSError, KeyError, TypeError, RuntimeError, AttributeError, UnicodeError):
            return

    return do


_TRICKS = tuple(
    _careful(trick)
    for trick in (
        _retype,
        _reshape,
        _values,
        _huge_chunks,
        _link,
        _elsewhere,
        _group,
        _nest,
        _many,
        _cycle,
        _rename,
        _attributes,
    )
)
