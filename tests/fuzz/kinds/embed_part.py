"""`OUT.part` of an interrupted `embed`, which `--resume` continues."""

import json
import shutil
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import h5py
import models
import numpy as np
from changes import Raw, damage, odd_json, odd_text, put

from spacy_elmo.formats import open_model
from spacy_elmo.tools import embed
from spacy_elmo.tools.embedding.encoder import Layout
from spacy_elmo.tools.embedding.spool import Spool, directory_of

_TEXT = "the bank\nwörd\nthe the a\na\nthe bank of the a\nb\n"
_OUT = "out.hdf5"
_RECORD = struct.Struct("<qI")
_COUNTS = (0, 1, 2, 3, 7, -1, -(2**63), 2**31, 2**62, 2**63 - 1, 10**9)


class Kind:
    """Half are changed before the checksums of the lines are computed. The checksums then match another file."""

    def __init__(self, seeds: Path) -> None:
        self._model, self._text = seeds / "model", seeds / "text.txt"
        models.characters(self._model)
        self._text.write_text(_TEXT, encoding="utf-8")
        self._opened = open_model(self._model)
        self._embed(seeds / _OUT)
        self._expected = _contents(seeds / _OUT)
        (seeds / _OUT).unlink()
        self._part = self._interrupted(seeds / _OUT)
        self._job = json.loads(self._part["job.json"])
        width = self._expected["0"].shape[-1]
        self._layout = Layout(len(self._expected["0"]), width, "float32")

    def make(self, rng: Random, folder: Path) -> bool:
        files = dict(self._part)
        behind = rng.random() < 0.5
        if behind:
            self._change_before(rng, files)
        else:
            self._change_after(rng, files)
        put({f"{_OUT}.part/{name}": content for name, content in files.items()}, folder)
        return behind

    def honest(self) -> Iterator[models.Files]:
        yield {f"{_OUT}.part/{name}": content for name, content in self._part.items()}

    def read(self, folder: Path, behind: bool) -> None:
        out = folder.with_name("out")
        shutil.copytree(folder, out)
        report = self._embed(out / _OUT, resume=True)
        found = _contents(out / _OUT)
        assert not directory_of(out / _OUT).exists(), "its parts were left"
        assert found.keys() == self._expected.keys(), "other lines"
        assert report.tokens == len(_TEXT.split()), "other tokens"
        for name, array in self._expected.items():
            assert found[name].shape == array.shape, "another shape"
            assert behind or np.array_equal(found[name], array), "other vectors"

    def _embed(self, out: Path, **settings: Any) -> Any:
        with mock.patch.object(embed, "open_model", return_value=self._opened):  # opening would take most of the time
            return embed.embed_file(self._text, out, model=str(self._model), device="cpu", batch_size=2, **settings)

    def _interrupted(self, out: Path) -> dict[str, bytes]:
        with mock.patch.object(Spool, "finish", side_effect=KeyboardInterrupt):
            try:
                self._embed(out)
            except KeyboardInterrupt:
                return {file.name: file.read_bytes() for file in directory_of(out).iterdir()}
        raise AssertionError

    def _change_before(self, rng: Random, files: dict[str, bytes]) -> None:
        """Change vectors, token counts, lines or settings, and update the checksums."""
        vectors, job, layout = files["vectors"], self._job, self._layout
        counts = [n_tokens for n_tokens, _ in _RECORD.iter_unpack(files["index"])]
        for _ in range(rng.choice((1, 1, 2, 3))):
            chance = rng.random()
            if chance < 0.4:
                vectors = damage(rng, vectors)
            elif chance < 0.7 and counts:
                number = rng.randrange(len(counts))
                counts[number] = rng.choice((*_COUNTS, 4, 5))
            elif chance < 0.75:
                counts += rng.choice(([0], [1], counts, [0] * 1_000))
            elif chance < 0.85:
                del counts[rng.randrange(len(counts) + 1) :]
            elif chance < 0.9:
                rng.shuffle(counts)
            elif chance < 0.95:
                layout = rng.choice((Layout(None, layout.width, "float32"), Layout(2, layout.width, "float16")))
            else:
                key = rng.choice(list(job))
                job = {**job, key: rng.choice((None, 0, 2, "x", True, [1], {"a": 1}))}
                files["job.json"] = json.dumps(job).encode()
        files["vectors"], files["index"] = vectors, _index(counts, vectors, job, layout)

    def _change_after(self, rng: Random, files: dict[str, bytes]) -> None:
        chance, name = rng.random(), rng.choice(("vectors", "index", "index", "job.json"))
        if chance < 0.6:
            files[name] = damage(rng, files[name], range(0, len(files["index"]), _RECORD.size))
        elif chance < 0.75:
            finished = {"size": 1, "time": 2, "number": 3, "with_sentences": True, "with_keys": False}
            files["job.json"] = odd_json(rng, rng.choice((self._job, {**self._job, "finished": finished})))
        elif chance < 0.8:
            files["job.json"] = odd_json(rng, Raw("1" * rng.choice((1, 10_000, 200_000))))
        elif chance < 0.9:
            files.pop(name)
        elif chance < 0.95:
            other = rng.choice(("lengths", "job.json.new", _OUT, "mine.txt", odd_text(rng)[:50]))
            other = other.encode(errors="replace").decode().replace("/", "_").replace("\0", "_")
            files[other if other.strip(".") else "dots"] = rng.randbytes(rng.choice((0, 10, 1_000)))
        else:
            files["vectors"] = files["vectors"] + rng.choice((b"\0", b"junk" * 1_000))
            files["index"] = files["index"] + rng.randbytes(rng.choice((1, 12, 1_200)))


def _index(counts: list[int], vectors: bytes, job: dict[str, Any], layout: Layout) -> bytes:
    """Return records of lines with these token counts. If part of an array is missing, its checksum covers the rest."""
    checksum = zlib.crc32(json.dumps([job, asdict(layout)], sort_keys=True).encode())
    records, at = [], 0
    for n_tokens in counts:
        end = at + max(0, n_tokens) * layout.token_bytes
        checksum = zlib.crc32(vectors[at:end], zlib.crc32(struct.pack("<q", n_tokens), checksum))
        records.append(_RECORD.pack(n_tokens, checksum))
        at = end
    return b"".join(records)


def _contents(path: Path) -> dict[str, Any]:
    with h5py.File(path) as file:
        return {name: node[...] for name, node in file.items() if name.isdigit()}
