"""Copies the reference data that the tests carry along, from ../shared/references beside the checkout.

The expected numbers are the originals' own (bilm-tf and AllenNLP); none of them comes from spacy_elmo. Each
`expected.npz` holds, as `bilm_tf/KEY` and `allennlp/KEY`, the layers of every sentence from zero state
(`zs_NN`), the batches with carried state (`st0` .. `st3`) and the states after the last one (`state_*`). The
keys are explained in the README of the references. Those of models of ELMoForManyLangs are `alone_NN` and `st3_NN`,
as they stand in the references.

    python tests/data/make.py ../shared/references

TensorFlow's models go into an archive as they are; tensorflow/README.md says what lies beside them.
"""

import lzma
import shutil
import sys
import tarfile
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
    pack(references / "tensorflow", HERE / "tensorflow" / "references.tar.xz")
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


def pack(folder: Path, target: Path) -> None:
    """Write the files of a folder into an archive, the same bytes each time."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.mtime = 86_400 * 3653  # of 1980, before which a zip archive knows no time
        entry.uname = entry.gname = ""
        entry.mode = 0o755 if entry.isdir() else 0o644
        return entry

    with lzma.open(target, "wb", preset=9 | lzma.PRESET_EXTREME) as file, tarfile.open(fileobj=file, mode="w") as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, path.relative_to(folder), recursive=False, filter=plain)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
