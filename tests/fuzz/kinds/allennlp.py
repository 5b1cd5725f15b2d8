"""AllenNLP models: `config.json`, `options.json` and `weights.th`, as a folder and as `model.tar.gz`."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import models
import torch
from changes import odd_json, put
from pickles import TorchFile

from spacy_elmo.bilm import BiLMOptions
from spacy_elmo.formats import digest, load

_PREFIX = "_text_field_embedder.token_embedder_elmo._elmo."
_CONFIG = {
    "model": {
        "text_field_embedder": {
            "elmo": {"type": "elmo_token_embedder", "options_file": "x/options.json", "requires_grad": True}
        }
    },
    "trainer": {"lr": 0.1},
}


class Kind:
    """Changes any of the files. The pickles are zip archives with checksums, or have none."""

    def __init__(self, seeds: Path) -> None:
        self._weights = TorchFile(_state(BiLMOptions.from_dict(models.CHARACTERS)))
        self._model = {
            "config.json": json.dumps(_CONFIG).encode(),
            "options.json": json.dumps(models.CHARACTERS).encode(),
            "weights.th": self._weights.zipped,
        }
        put(self._model, seeds)
        self._digest = digest(load(seeds))

    def make(self, rng: Random, folder: Path) -> bool:
        files, behind, chance = dict(self._model), True, rng.random()
        if chance < 0.2:
            files["config.json"] = odd_json(rng, _CONFIG)
        elif chance < 0.3:
            files["options.json"] = odd_json(rng, models.CHARACTERS)
        else:
            files["weights.th"], behind = self._weights.change(rng)
        if rng.random() < 0.2:
            files.pop("options.json")
        if rng.random() < 0.2:
            (folder / "model.tar.gz").write_bytes(_packed(files))
        else:
            put(files, folder)
        return behind

    def honest(self) -> Iterator[models.Files]:
        yield self._model
        yield {"model.tar.gz": _packed(self._model)}

    def read(self, folder: Path, behind: bool) -> None:
        path = folder / "model.tar.gz"
        models.use(path if path.exists() else folder, folder.with_name("out"), None if behind else self._digest)


def _state(options: BiLMOptions) -> dict[str, torch.Tensor]:
    """Return a state_dict of such an ELMo, with a mix and the task's own layer."""
    lstm, cnn = options.lstm, options.char_cnn
    assert cnn is not None
    filters = cnn.n_filters
    shapes = {"_token_embedder._char_embedding_weights": (262, cnn.embedding_dim)}
    for number, (size, n) in enumerate(cnn.filters):
        shapes |= {
            f"_token_embedder.char_conv_{number}.weight": (n, cnn.embedding_dim, size),
            f"_token_embedder.char_conv_{number}.bias": (n,),
        }
    for number in range(cnn.n_highway):
        layer = f"_token_embedder._highways._layers.{number}."
        shapes |= {f"{layer}weight": (2 * filters, filters), f"{layer}bias": (2 * filters,)}
    shapes |= {
        "_token_embedder._projection.weight": (lstm.projection_dim, filters),
        "_token_embedder._projection.bias": (lstm.projection_dim,),
    }
    for direction in ("forward", "backward"):
        for number in range(lstm.n_layers):
            layer = f"_elmo_lstm.{direction}_layer_{number}."
            shapes |= {
                f"{layer}input_linearity.weight": (4 * lstm.dim, lstm.projection_dim),
                f"{layer}state_linearity.weight": (4 * lstm.dim, lstm.projection_dim),
                f"{layer}state_linearity.bias": (4 * lstm.dim,),
                f"{layer}state_projection.weight": (lstm.projection_dim, lstm.dim),
            }
    generator = torch.Generator().manual_seed(1)
    state = {f"{_PREFIX}_elmo_lstm.{key}": torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    state |= {
        f"{_PREFIX}scalar_mix_0.scalar_parameters.{number}": torch.zeros(1) for number in range(options.n_outputs)
    }
    return {**state, f"{_PREFIX}scalar_mix_0.gamma": torch.ones(1), "tagger.weight": torch.zeros(2, options.width)}


def _packed(files: models.Files) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return target.getvalue()
