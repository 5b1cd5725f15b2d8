"""ELMoForManyLangs folders: `config.json`, the network config, the dictionaries and the two pickles.

Also our own layout for such models, with `lexicons.json`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import models
import torch
from changes import damage, odd_json, odd_text, put
from pickles import TorchFile

from spacy_elmo.formats import digest, elmoformanylangs, lexicons_json, load

_NETWORK = "net.json"
_CONFIG = {"config_path": f"../configs/{_NETWORK}", "model": "x", "lr": 0.001}


class Kind:
    """Changes any of the files. The pickles are zip archives with checksums, or have none."""

    def __init__(self, seeds: Path) -> None:
        bilm = models.manylangs_bilm()
        self._ours = models.manylangs(seeds / "ours")
        states: dict[str, dict[str, torch.Tensor]] = {elmoformanylangs.EMBEDDER: {}, elmoformanylangs.ENCODER: {}}
        generator = torch.Generator().manual_seed(1)
        for tensor in elmoformanylangs.stored(bilm.options, models.LEXICONS):
            states[tensor.file][tensor.key] = torch.randn(tensor.shape, generator=generator)
        self._pickles = {name: TorchFile(state) for name, state in states.items()}
        dictionaries = {"word.dic": models.LEXICONS.words, "char.dic": models.LEXICONS.characters}
        self._model = {
            "config.json": json.dumps(_CONFIG).encode(),
            _NETWORK: json.dumps(models.MANYLANGS).encode(),
            **{name: _dictionary(entries or ()) for name, entries in dictionaries.items()},
            **{name: file.zipped for name, file in self._pickles.items()},
        }
        put(self._model, seeds / "theirs")
        self._digest = digest(load(seeds / "theirs"))

    def make(self, rng: Random, folder: Path) -> bool:
        files, behind, chance = dict(self._model), True, rng.random()
        if chance < 0.1:
            files["config.json"] = odd_json(rng, _CONFIG)
        elif chance < 0.2:
            files[_NETWORK] = odd_json(rng, models.MANYLANGS)
        elif chance < 0.35:
            name = rng.choice(("word.dic", "char.dic"))
            files[name] = _odd_dictionary(rng, files[name])
        elif chance < 0.45:
            files = dict(self._ours)
            files[lexicons_json.NAME] = odd_json(rng, lexicons_json.to_dict(models.LEXICONS))
        elif chance < 0.5:
            files.pop(rng.choice(list(files)))
        else:
            name = rng.choice(list(self._pickles))
            files[name], behind = self._pickles[name].change(rng)
        put(files, folder)
        return behind

    def honest(self) -> Iterator[models.Files]:
        yield self._model

    def read(self, folder: Path, behind: bool) -> None:
        models.use(folder, folder.with_name("out"), None if behind else self._digest)


def _dictionary(entries: "list[str] | tuple[str, ...]") -> bytes:
    return "".join(f"{entry}\t{number}\n" for number, entry in enumerate(entries)).encode()


def _odd_dictionary(rng: Random, honest: bytes) -> bytes:
    if rng.random() < 0.4:
        return damage(rng, honest)
    if rng.random() < 0.02:
        return rng.choice((b"\n", b"0\n", b"a\t1\n")) * 10**6
    lines = honest.decode().splitlines()
    number = rng.randrange(len(lines))
    entry, text = lines[number].split("\t")
    lines[number] = rng.choice(
        (
            f"{odd_text(rng)}\t{text}",
            f"{entry}\t{odd_text(rng)}",
            text,
            "",
            f"{entry}\t{text}\t1",
            f"{entry}\t-1",
            f"{entry}\t{10**30}",
            f"{entry}\t\u0663",
            f"{entry} {text}",
            f"\t{text}",
            f"{entry}\t{len(lines)}",
        )
    )
    return "".join(f"{line}\n" for line in lines).encode(errors="surrogatepass")
