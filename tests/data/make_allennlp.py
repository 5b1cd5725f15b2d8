"""An archive as AllenNLP writes it of a trained model, with the biLM of tiny_2l_clip, and what AllenNLP gives for it.

The ELMo is AllenNLP 2.10.1's own `ElmoTokenEmbedder`, loaded from tiny_2l_clip's two files. Around it there is what any
task has, so that `weights.th` holds other tensors, whole numbers too. Its config names the options file by a name that
says nothing. `expected.npz` holds the mix of the layers for the first sentences of sentences.json, from zero state.

    ../../benchmarks/.envs/allennlp/bin/python make_allennlp.py

That environment is the one of the benchmarks: allennlp 2.10.1 and what its ELMo imports.
"""

import gzip
import importlib.util
import io
import json
import sys
import tarfile
import types
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
MODEL, TARGET = HERE / "tiny_2l_clip", HERE / "allennlp"
SCALARS, GAMMA = (0.3, -0.2, 0.5), 1.7
N_SENTENCES = 3


def main() -> None:
    enter_without_running("allennlp", "allennlp.modules", "allennlp.data", "allennlp.modules.token_embedders")
    from allennlp.modules.elmo import batch_to_ids
    from allennlp.modules.token_embedders.elmo_token_embedder import ElmoTokenEmbedder

    torch.manual_seed(1)
    embedder = ElmoTokenEmbedder(
        str(MODEL / "options.json"), str(MODEL / "weights.hdf5"), dropout=0.0, projection_dim=4
    )
    model = torch.nn.Module()
    model._text_field_embedder = torch.nn.Module()
    model._text_field_embedder.token_embedder_elmo = embedder
    model.norm = torch.nn.BatchNorm1d(4)
    model.tag_projection_layer = torch.nn.Linear(4, 2)
    with torch.no_grad():
        for parameter, value in zip(embedder._elmo.scalar_mix_0.scalar_parameters, SCALARS, strict=True):
            parameter.fill_(value)
        embedder._elmo.scalar_mix_0.gamma.fill_(GAMMA)
    state = io.BytesIO()
    torch.save(model.state_dict(), state)
    section = {"type": "elmo_token_embedder", "options_file": "/data/options.json", "weight_file": "/data/weights.hdf5"}
    config = {"model": {"text_field_embedder": {"token_embedders": {"elmo": section}}, "type": "simple_tagger"}}
    members = {
        "config.json": json.dumps(config, indent=4).encode(),
        "weights.th": state.getvalue(),
        "vocabulary/labels.txt": b"A\nB\n",
        "vocabulary/non_padded_namespaces.txt": b"*tags\n*labels",
    }
    TARGET.mkdir(exist_ok=True)
    pack(members, TARGET / "model.tar.gz")
    np.savez_compressed(TARGET / "expected.npz", **mixes(embedder._elmo, batch_to_ids))


def enter_without_running(*names: str) -> None:
    """Make packages whose `__init__`, which imports all of the library, is not run."""
    spec = importlib.util.find_spec("allennlp")
    root = Path(spec.submodule_search_locations[0]).parent
    for name in names:
        package = types.ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")))]
        sys.modules[name] = package


def mixes(elmo: torch.nn.Module, batch_to_ids) -> dict[str, np.ndarray]:
    sentences = json.loads((HERE / "sentences.json").read_text())
    found = {}
    elmo.eval()
    for number, sentence in enumerate(sentences[:N_SENTENCES]):
        elmo._elmo_lstm._elmo_lstm.reset_states()
        with torch.no_grad():
            found[f"mix_{number:02}"] = elmo(batch_to_ids([sentence]))["elmo_representations"][0][0].numpy()
    return found


def pack(members: dict[str, bytes], target: Path) -> None:
    """Write an archive, the same bytes each time."""
    tarred = io.BytesIO()
    with tarfile.open(fileobj=tarred, mode="w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    target.write_bytes(gzip.compress(tarred.getvalue(), mtime=0))


if __name__ == "__main__":
    main()
