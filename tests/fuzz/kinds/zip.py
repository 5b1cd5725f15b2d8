"""Zip archives of a model: the members, or the archive around them."""

import io
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import models
from changes import damage, odd_json, odd_text
from hdf5 import HDF5File

from spacy_elmo.formats import digest, load


class Kind:
    """Half are changed before their checksums are computed: members, names, and the directory."""

    def __init__(self, seeds: Path) -> None:
        self._model = models.characters(seeds)
        self._weights = HDF5File(self._model["weights.hdf5"])
        self._digest = digest(load(seeds))

    def make(self, rng: Random, folder: Path) -> bool:
        behind = rng.random() < 0.5
        method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        if behind:
            content = self._made(rng, method)
        else:
            content = models.zipped(self._model, method)
            content = damage(rng, content, [i for i in range(len(content)) if content[i : i + 2] == b"PK"])
        (folder / "model.zip").write_bytes(content)
        return behind

    def honest(self) -> Iterator[models.Files]:
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            yield {"model.zip": models.zipped(self._model, method)}

    def read(self, folder: Path, behind: bool) -> None:
        models.use(folder / "model.zip", folder.with_name("out"), None if behind else self._digest)

    def _made(self, rng: Random, method: int) -> bytes:
        files = dict(self._model)
        chance = rng.random()
        if chance < 0.2:
            name = rng.choice(list(files))
            files[name] = damage(rng, files[name])
        elif chance < 0.3:
            files["weights.hdf5"] = self._weights.change(rng)[0]
        elif chance < 0.4:
            files["model_card.json"] = odd_json(rng, models.CARD)
        elif chance < 0.6:
            files = {_odd_name(rng, name) if rng.random() < 0.3 else name: content for name, content in files.items()}
        elif chance < 0.8:
            return _with_odd_entries(rng, models.zipped(files, method))
        else:
            return _bomb(rng, files)
        return models.zipped(files, method)


def _odd_name(rng: Random, name: str) -> str:
    return rng.choice(
        (
            lambda: f"folder/{name}",
            lambda: f"./{name}",
            lambda: f"../{name}",
            lambda: f"/{name}",
            lambda: name.upper(),
            lambda: f"a/b/{name}",
            lambda: f"{name}/",
            lambda: name.replace(".", "\\"),
            lambda: f"{name}\0.txt",
            lambda: f"__MACOSX/{name}",
            lambda: f".{name}",
            lambda: odd_text(rng).encode(errors="replace").decode()[:30_000] or "x",
        )
    )()


def _with_odd_entries(rng: Random, content: bytes) -> bytes:
    """Change fields of the directory, of the header before a member, and of the end, all alike or separately."""
    changed = bytearray(content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        start, infos = archive.start_dir, archive.infolist()
    where, headers = start, []
    for info in infos:
        headers.append((where, info.header_offset))
        where += 46 + len(info.filename.encode()) + len(info.extra) + len(info.comment)
    fields = (
        (8, 6, "<H"),
        (10, 8, "<H"),
        (16, 14, "<I"),
        (20, 18, "<I"),
        (24, 22, "<I"),
        (28, 26, "<H"),
        (30, 28, "<H"),
        (38, None, "<I"),
        (42, None, "<I"),
    )
    for _ in range(rng.choice((1, 1, 2, 4))):
        central, local = rng.choice(headers)
        at, at_local, form = rng.choice(fields)
        value = rng.choice((0, 1, 8, 9, 12, 14, 99, 0xFFFF, rng.randrange(2**16)))
        if form == "<I" and rng.random() < 0.6:
            value = rng.choice((0xFFFFFFFF, 2**31, len(content), rng.randrange(2**32), start))
        struct.pack_into(form, changed, central + at, value)
        if at_local is not None and rng.random() < 0.5:
            struct.pack_into(form, changed, local + at_local, value)
    if rng.random() < 0.3:
        end = len(content) - 22
        at, form = rng.choice(((8, "<H"), (10, "<H"), (12, "<I"), (16, "<I"), (20, "<H"), (4, "<H")))
        struct.pack_into(
            form,
            changed,
            end + at,
            rng.choice((0, 1, 0xFFFF, rng.randrange(2**16), start + rng.choice((-1, 1, 1000)))) % 2**16,
        )
    return rng.choice((b"", b"", b"x" * 100)) + bytes(changed) + rng.choice((b"", b"", b"x" * 100))


def _bomb(rng: Random, files: models.Files) -> bytes:
    """Make small files that unpack to much: one member, many, an archive in an archive."""
    size = rng.choice((2**20, 2**24, 2**25))
    kind = rng.choice(("one", "many", "names", "nested", "directory"))
    more = {
        "one": lambda: {
            rng.choice(("vocab.txt", "README", "options.json", "model_card.json")): bytes([rng.choice((0, 10, 32, 91))])
            * size
        },
        "many": lambda: {f"{number}": bytes(2**15) for number in range(rng.choice((90, 999, 1_100)))},
        "names": lambda: {"x" * rng.choice((255, 256, 60_000)) + str(number): b"" for number in range(5)},
        "nested": lambda: {"weights.hdf5": models.zipped(files)},
        "directory": lambda: {f"{'d/' * 100}{number}": b"" for number in range(3_000)},
    }
    return models.zipped({**files, **more[kind]()}, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
