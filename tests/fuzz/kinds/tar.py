"""Tar archives of a model, plain and compressed: the members, or the archive around them."""

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import models
from changes import damage, odd_json, odd_text

_KINDS: tuple[bytes, ...] = (b"0", b"\0", b"7", b"1", b"2", b"3", b"4", b"5", b"6", b"x", b"g", b"L", b"K", b"S", b"Z")
_PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".tar": lambda content: content,
    ".tar.gz": lambda content: gzip.compress(content, 1, mtime=0),
    ".tar.bz2": lambda content: bz2.compress(content, 1),
    ".tar.xz": lambda content: lzma.compress(content, preset=0),
}


class Kind:
    """Half are changed before the checksums of the headers and of the compression are computed."""

    def __init__(self, seeds: Path) -> None:
        self._model = models.words(seeds)

    def make(self, rng: Random, folder: Path) -> bool:
        behind = rng.random() < 0.5
        ending = rng.choice(list(_PACKERS))
        content = self._made(rng) if behind else _tar(self._model)
        content = _PACKERS[ending](content)
        if not behind:
            content = damage(rng, content, range(0, len(content), 512))
        elif rng.random() < 0.05:
            content += rng.choice((content, b"junk", bytes(2_000)))
        (folder / f"model{ending}").write_bytes(content)
        return behind

    def honest(self) -> Iterator[models.Files]:
        for ending, pack in _PACKERS.items():
            yield {f"model{ending}": pack(_tar(self._model))}

    def read(self, folder: Path, behind: bool) -> None:
        (path,) = folder.iterdir()
        models.use(path, folder.with_name("out"))

    def _made(self, rng: Random) -> bytes:
        files = dict(self._model)
        chance = rng.random()
        if chance < 0.2:
            name = rng.choice(list(files))
            files[name] = damage(rng, files[name])
        elif chance < 0.3:
            files["model_card.json"] = odd_json(rng, models.CARD)
        elif chance < 0.45:
            files = {_odd_name(rng, name) if rng.random() < 0.3 else name: content for name, content in files.items()}
        elif chance < 0.9:
            return _with_odd_headers(
                rng, _tar(files, rng.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)))
            )
        else:
            files |= rng.choice(
                (
                    lambda: {
                        rng.choice(("vocab.txt", "README")): bytes([rng.choice((0, 10))]) * rng.choice((2**20, 2**25))
                    },
                    lambda: {f"{number}": b"" for number in range(rng.choice((90, 1_100)))},
                    lambda: {f"{'d/' * 200}{number}": b"" for number in range(5)},
                )
            )()
        return _tar(files, rng.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)))


def _tar(files: models.Files, form: int = tarfile.USTAR_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return target.getvalue()


def _odd_name(rng: Random, name: str) -> str:
    return rng.choice(
        (
            lambda: f"folder/{name}",
            lambda: f"./{name}",
            lambda: f"../{name}",
            lambda: f"/{name}",
            lambda: f"a/b/{name}",
            lambda: f"{name}/",
            lambda: f"__MACOSX/{name}",
            lambda: "x" * 120 + name,
            lambda: odd_text(rng)[:20_000].replace("\0", "").encode(errors="replace").decode() or "x",
        )
    )()


def _with_odd_headers(rng: Random, content: bytes) -> bytes:
    changed = bytearray(content)
    headers = [at for at in range(0, len(content) - 512, 512) if content[at + 257 : at + 262] == b"ustar"]
    for at in rng.sample(headers, min(len(headers), rng.choice((1, 1, 2, 4)))):
        start, size = rng.choice(
            ((0, 100), (100, 8), (124, 12), (124, 12), (156, 1), (156, 1), (157, 100), (257, 8), (345, 155))
        )
        changed[at + start : at + start + size] = _odd_field(rng, size)
        if rng.random() < 0.9:
            block = changed[at : at + 512]
            changed[at + 148 : at + 156] = b"%06o\0 " % (sum(block[:148]) + sum(block[156:]) + 8 * 32)
    return bytes(changed)


def _odd_field(rng: Random, size: int) -> bytes:
    if size == 1:
        return rng.choice(_KINDS)
    return rng.choice(
        (
            lambda: b"%o" % rng.choice((0, 1, 511, 512, 2**16, 2**31, 8 ** min(size - 1, 11) - 1)),
            lambda: (
                b"\x80" + rng.choice((0, 100, 2**40, 2**62, 2**80)).to_bytes(size - 1, "big")[: size - 1]
                if size > 11
                else b"\xff"
            ),
            lambda: rng.choice(
                (
                    b"-1",
                    b"9",
                    b" 7 ",
                    b"",
                    b"\xff" * size,
                    b"../x",
                    b"/etc/passwd",
                    b"options.json",
                    b"vocab.txt",
                    b"a\nb",
                )
            ),
            lambda: rng.randbytes(size),
        )
    )()[:size].ljust(size, b"\0")
