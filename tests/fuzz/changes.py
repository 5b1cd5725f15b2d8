"""Turn honest files into damaged or hostile ones. Many kinds use this."""

import copy
import json
import string
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

_NUMBERS = (
    0,
    1,
    2,
    7,
    8,
    127,
    128,
    255,
    256,
    32_767,
    65_535,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
_MOST_JSON = 2**24  # characters of a generated list


def put(files: dict[str, bytes], folder: Path) -> None:
    """Write files by name, including folders in the names."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def damage(rng: Random, content: bytes, places: Sequence[int] = ()) -> bytes:
    """Change one or more places. Half of the changes are near `places`, the places that matter, if there are any."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5, 16))):
        if not changed:
            break
        at = (
            rng.choice(places) + rng.randrange(-4, 32) if places and rng.random() < 0.5 else rng.randrange(len(changed))
        )
        rng.choice(_CHANGES)(rng, changed, min(max(at, 0), len(changed) - 1))
    return bytes(changed)


def _flip_bit(rng: Random, content: bytearray, at: int) -> None:
    content[at] ^= 1 << rng.randrange(8)


def _set_byte(rng: Random, content: bytearray, at: int) -> None:
    content[at] = rng.randrange(256)


def _set_number(rng: Random, content: bytearray, at: int) -> None:
    size = rng.choice((1, 2, 4, 8))
    number = rng.choice(_NUMBERS) % 2 ** (8 * size)
    content[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))


def _shift_number(rng: Random, content: bytearray, at: int) -> None:
    form = rng.choice(("<H", "<I", "<Q", ">I"))
    if at + struct.calcsize(form) <= len(content):
        number = struct.unpack_from(form, content, at)[0] + rng.choice((-16, -8, -2, -1, 1, 2, 8, 16))
        struct.pack_into(form, content, at, number % 2 ** (8 * struct.calcsize(form)))


def _fill(rng: Random, content: bytearray, at: int) -> None:
    end = min(len(content), at + rng.choice((2, 8, 64, 512)))
    content[at:end] = bytes([rng.choice((0, 255, rng.randrange(256)))]) * (end - at)


def _cut(rng: Random, content: bytearray, at: int) -> None:
    del content[at:]


def _drop(rng: Random, content: bytearray, at: int) -> None:
    del content[at : at + rng.choice((1, 2, 8, 64, 512))]


def _insert(rng: Random, content: bytearray, at: int) -> None:
    content[at:at] = rng.randbytes(rng.choice((1, 2, 8, 64)))


def _repeat(rng: Random, content: bytearray, at: int) -> None:
    piece = content[at : at + rng.choice((1, 8, 64, 512))]
    where = rng.randrange(len(content))
    content[where : where + rng.choice((0, len(piece)))] = piece


_CHANGES: tuple[Callable[[Random, bytearray, int], None], ...] = (
    _flip_bit,
    _flip_bit,
    _set_byte,
    _set_number,
    _set_number,
    _shift_number,
    _fill,
    _cut,
    _drop,
    _insert,
    _repeat,
)


class Raw(str):
    """Text to insert into JSON as it is."""


def odd_json(rng: Random, honest: Any) -> bytes:
    """Return JSON with changed values and keys, and sometimes changed bytes."""
    holder = {"": copy.deepcopy(honest)}
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        before = copy.deepcopy(holder)
        _change_value(rng, holder)
        if _length(holder, {}) > 4 * _MOST_JSON:  # a change inside of something repeated is repeated, too
            holder = before
    content = to_json(holder.get("", honest)).encode(errors="surrogatepass")
    chance = rng.random()
    if chance < 0.1:
        return damage(rng, content)
    if chance < 0.15:
        return content.decode(errors="replace").encode(
            rng.choice(("utf-8-sig", "utf-16", "utf-32", "latin-1")), "replace"
        )
    return content


def _change_value(rng: Random, node: Any) -> None:
    """Walk to a random place and change the value there."""
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(node[key], dict | list) and node[key] and (rng.random() < 0.8 or "" in keys):
            node = node[key]
            continue
        break
    chance = rng.random()
    if chance < 0.6:
        node[key] = odd_value(rng)
    elif chance < 0.7:
        del node[key]
    elif chance < 0.8:
        node[key] = _repeated(copy.deepcopy(node[key]), rng.choice((1, 2, 1000)))
    elif isinstance(node, dict):
        name = rng.choice((odd_text(rng), str(key).upper(), f"{key}s", str(key)[1:]))
        node[name] = node.pop(key) if chance < 0.9 else odd_value(rng)
    else:
        node.insert(key, odd_value(rng))


def odd_value(rng: Random) -> Any:
    """Return anything that JSON can express, or that Python reads as JSON."""
    return rng.choice(
        (
            lambda: rng.choice((None, True, False, "", [], {}, 0, -1, 1, 2, 1.0, 0.5, -0.0)),
            lambda: rng.choice(_NUMBERS) * rng.choice((-1, 1)),
            lambda: Raw(rng.choice(("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-400", "1E+2", "-0"))),
            lambda: Raw("9" * rng.choice((17, 20, 25, 310, 4_000, 4_301))),
            lambda: Raw(_nested(rng, rng.choice((3, 90, 99, 101, 200, 330, 511, 700, 990, 3_000, 50_000)))),
            lambda: odd_text(rng),
            lambda: str(rng.choice(_NUMBERS)),
            lambda: _repeated(odd_text(rng), rng.choice((1, 3, 5_000))),
            lambda: {odd_text(rng): rng.choice((1, "x")) for _ in range(rng.choice((1, 3, 2_000)))},
            lambda: rng.uniform(-10, 10),
        )
    )()


def _repeated(value: Any, times: int) -> list[Any]:
    """Return a list of equal values, as long as the limits allow: a case is made under the limits of its reader."""
    return [value] * max(1, min(times, _MOST_JSON // len(to_json(value))))


def _length(value: Any, known: dict[int, int]) -> int:
    """About how long it is as JSON. known: lengths by identity, since a list may hold one thing many times."""
    if not isinstance(value, dict | list):
        return len(to_json(value))
    if id(value) not in known:
        parts = value if isinstance(value, list) else [*value.keys(), *value.values()]
        known[id(value)] = sum(_length(part, known) + 2 for part in parts)
    return known[id(value)]


def _nested(rng: Random, depth: int) -> str:
    start, end = rng.choice((("[", "]"), ('{"a":', "}"), ('[{"":', "}]")))
    return start * depth + rng.choice(("1", '"x"', "null")) + end * depth


def odd_text(rng: Random) -> str:
    """Return a text that programmers may not have thought of."""
    return rng.choice(
        (
            lambda: chr(rng.choice((0xD800, 0xDBFF, 0xDC00, 0xDFFF))),
            lambda: "".join(
                rng.choice("\0\n\r\t\x0b\x1b\x85\u2028\u200d\ufeff\u202e😀é ") for _ in range(rng.randrange(1, 5))
            ),
            lambda: rng.choice(
                ("../", "/etc/passwd", "\\\\host\\x", "C:", "%s%n", "{0}", "${x}", "$(id)", "a\0b", ".", "..")
            ),
            lambda: rng.choice(string.printable) * rng.choice((1, 300, 5_000, 100_000)),
            lambda: "".join(rng.choices(string.ascii_letters, k=rng.randrange(1, 9))),
            lambda: "".join(chr(rng.randrange(1, 0x110000)) for _ in range(rng.randrange(1, 6))),
        )
    )()


def to_json(value: Any) -> str:
    """Like `json.dumps`, but `Raw` text stays as it is, and some characters become escapes."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {to_json(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(to_json, value)) + "]"
    return json.dumps(value)
