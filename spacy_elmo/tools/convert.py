"""Writes any model in our directory layout (behind `python -m spacy elmo convert`)."""

from pathlib import Path
from typing import Any

from spacy_elmo import formats
from spacy_elmo.bilm import BiLM
from spacy_elmo.errors import ElmoError, WeightsError
from spacy_elmo.formats.hdf5_file import StoredDtype
from spacy_elmo.support.files import recover, replacing
from spacy_elmo.support.paths import place_of


def convert(source: str, target: str | Path, dtype: StoredDtype = "float32", force: bool = False) -> dict[str, Any]:
    """Write a model as options.json and weights.hdf5, with vocab.txt, model_card.json, softmax.hdf5 and lexicons.json
    if it has them. Return `source, target, dtype, digest, files` (files: their sizes in bytes).

    A model with a lexicons.json is one of ELMoForManyLangs, in our own form. bilm-tf and AllenNLP do not read it.

    source: see `formats.load`; dtype: see `formats.write`.
    force: write into a directory that is not empty, and overwrite a model there; its other files stay.

    The written model is read again and compared before it appears under its name.

    Raises:
        ElmoError: the model cannot be read or written, or the target is not empty.
    """
    target = place_of(target, "target").absolute()  # "." has no name
    recover(target, formats.LAYOUT)
    _refuse_taken(target, force)
    model = formats.open_model(source)
    bilm, words = model.bilm(), model.vocabulary
    softmax = model.softmax() if model.has_softmax else None
    try:
        with replacing(target, formats.LAYOUT) as new:
            formats.write_files(bilm, new, dtype, words, softmax)
            digest = _compare(bilm, new, rounded=dtype == "float16")
    except OSError as error:
        raise ElmoError(f"{target}: cannot be written ({error})") from None
    sizes = {name: (target / name).stat().st_size for name in formats.LAYOUT if (target / name).is_file()}
    return {"source": source, "target": str(target), "dtype": dtype, "digest": digest, "files": sizes}


def _refuse_taken(target: Path, force: bool) -> None:
    try:
        if target.exists() and not target.is_dir():
            raise ElmoError(f"{target}: is a file; name a directory")
        if target.is_dir() and any(target.iterdir()) and not force:
            raise ElmoError(f"{target}: is not empty; name another directory, or add --force to write into it")
    except OSError as error:
        raise ElmoError(f"{target}: cannot be read ({error})") from None


def _compare(bilm: BiLM, written: Path, rounded: bool) -> str:
    """Read the written model, compare it with the original, and return its digest."""
    copy = formats.load(written)
    if formats.digest(copy, rounded) != formats.digest(bilm, rounded):
        raise WeightsError(f"{written}: the written model differs from the original; check the disk")
    return formats.digest(copy)
