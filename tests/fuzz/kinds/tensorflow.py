"""TensorFlow's bundles, checkpoints and hub modules: index, shards, and the graph if there are no options."""

import lzma
import tarfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import models
from changes import damage, odd_json, put

from spacy_elmo.formats import digest, load
from spacy_elmo.formats.tensorflow import bundle, table
from spacy_elmo.formats.tensorflow.crc32c import crc32c
from spacy_elmo.formats.tensorflow.protobuf import Reader

_ARCHIVES = Path(__file__).resolve().parents[2] / "data" / "tensorflow"
_MODELS = {
    "made": ("one_layer_tanh", "cell_clip_no_skip", "shared_softmax", "module", "resaved", "partitioned"),
    "references": ("trained_words", "trained_chars"),
}
_FOOTER = 48


class Kind:
    """Half of the changed indices, shards and graphs get correct checksums again."""

    def __init__(self, seeds: Path) -> None:
        self._models: list[tuple[models.Files, str | None]] = []
        for archive, names in _MODELS.items():
            with lzma.open(_ARCHIVES / f"{archive}.tar.xz") as content, tarfile.open(fileobj=content) as tar:
                members = {member.name.removeprefix("./"): member for member in tar.getmembers() if member.isfile()}
                read = {name: tar.extractfile(member).read() for name, member in members.items()}  # type: ignore[union-attr]
            for name in names:
                files = {
                    key.removeprefix(f"{name}/"): value for key, value in read.items() if key.startswith(f"{name}/")
                }
                files = {key: value for key, value in files.items() if not key.endswith((".npz", ".hdf5"))}
                put(files, seeds / name)
                self._models.append((files, None if name == "partitioned" else digest(load(seeds / name))))

    def make(self, rng: Random, folder: Path) -> bool:
        honest, self._digest = rng.choice(self._models)
        files, chance = dict(honest), rng.random()
        index = next(name for name in files if name.endswith(".index"))
        graph = next((name for name in files if name.endswith((".meta", ".pb"))), None)
        behind = rng.random() < 0.5
        if chance < 0.55:
            files[index] = _with_blocks(rng, files[index]) if behind else damage(rng, files[index])
        elif chance < 0.7:
            shard = rng.choice([name for name in files if ".data-" in name])
            files[shard] = damage(rng, files[shard])
            if behind:
                files[index] = _with_checksums_of_shards(files, index)
        elif chance < 0.9 and graph is not None:
            files.pop("options.json", None)
            files[graph], behind = damage(rng, files[graph], range(0, 4_000, 16)), True
        elif "options.json" in files:
            files["options.json"], behind = odd_json(rng, models.CHARACTERS), True
        else:
            files.pop(rng.choice(list(files)))
        put(files, folder)
        return behind

    def honest(self) -> Iterator[models.Files]:
        for files, digest_of_files in self._models:
            if digest_of_files is not None:  # `partitioned` is refused
                self._digest = digest_of_files
                yield files

    def read(self, folder: Path, behind: bool) -> None:
        models.use(folder, folder.with_name("out"), None if behind else self._digest)


def _with_blocks(rng: Random, index: bytes) -> bytes:
    """Change one or more blocks in place, and correct their checksums."""
    changed = bytearray(index)
    blocks = list(_blocks(index))
    for start, end in rng.sample(blocks, rng.choice((1, 1, min(2, len(blocks))))):
        content = damage(rng, bytes(changed[start:end]))[: end - start].ljust(end - start, b"\0")
        changed[start:end] = content
        changed[end + 1 : end + 5] = _checksum(bytes(changed[start : end + 1]))
    return bytes(changed)


def _blocks(index: bytes) -> Iterator[tuple[int, int]]:
    """Find the blocks. The end of the file names the metaindex and the index; the index names the others."""
    at = len(index) - _FOOTER
    for number in range(2):
        start, at = _varint(index, at)
        size, at = _varint(index, at)
        yield start, start + size
        if number:
            for _, value in table._block_entries(memoryview(index)[start : start + size]):
                first, next_at = _varint(bytes(value), 0)
                yield first, first + _varint(bytes(value), next_at)[0]


def _with_checksums_of_shards(files: models.Files, index: str) -> bytes:
    """Return the index with the correct checksum of each variable whose field tag is found."""
    content = files[index]
    changed = bytearray(content)
    reader = Reader(2**20)
    for key, value in table.entries(memoryview(content)):
        if not key:
            continue
        variable = bundle._parse_variable(reader, key.decode(errors="replace"), value)
        ending = f".data-{variable.shard:05d}-of-"
        shard = next(files[name] for name in files if ending in name)
        at = content.find(bytes(value)) + bytes(value).rfind(b"\x35" + variable.checksum.to_bytes(4, "little")) + 1
        changed[at : at + 4] = _checksum(shard[variable.offset : variable.offset + variable.size])
    for start, end in _blocks(content):
        changed[end + 1 : end + 5] = _checksum(bytes(changed[start : end + 1]))
    return bytes(changed)


def _checksum(content: bytes) -> bytes:
    return table.mask(crc32c(content)).to_bytes(4, "little")


def _varint(content: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while content[at] > 0x7F:
        number |= (content[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
    return number | content[at] << shift, at + 1
