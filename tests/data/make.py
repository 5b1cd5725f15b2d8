"""Copies the reference data that the tests carry along, from ../shared/references beside the checkout.

The expected numbers are the originals' own (bilm-tf and AllenNLP); none of them comes from spacy_elmo. Each
`expected.npz` holds, as `bilm_tf/KEY` and `allennlp/KEY`, the layers of every sentence from zero state
(`zs_NN`), the batches with carried state (`st0` .. `st3`) and the states after the last one (`state_*`). The
keys are explained in the README of the references. Those of models of ELMoForManyLangs are `alone_NN` and `st3_NN`,
as they stand in the references.

    python tests/data/make.py ../shared/references
"""

import shutil
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent


def main(references: Path) -> None:
    shutil.copyfile(references / "sentences.json", HERE / "sentences.json")
    for name in ("tiny_2l_skip", "tiny_2l_clip"):
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        for part in ("weights.hdf5", "options.json"):
            shutil.copyfile(references / name / part, folder / part)
        expected = {}
        for original in ("bilm_tf", "allennlp"):
            with np.load(references / name / f"{original}.npz") as arrays:
                expected |= {f"{original}/{key}": arrays[key] for key in arrays.files if wanted(key)}
        np.savez_compressed(folder / "expected.npz", **expected)
    for name in ("words_chars", "clip3", "words_only"):
        source, folder = references / "elmoformanylangs" / name, HERE / "elmoformanylangs" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in source.iterdir():
            if file.suffix in (".json", ".dic", ".pkl"):
                shutil.copyfile(file, folder / file.name)
        with np.load(source / "expected.npz") as arrays:
            kept = {key: arrays[key] for key in arrays.files if key.startswith(("alone_", "st3_"))}
        np.savez_compressed(folder / "expected.npz", **kept)


def wanted(key: str) -> bool:
    return key in ("st0", "st1", "st2", "st3") or key.startswith("state_") or (key.startswith("zs_") and len(key) == 5)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
