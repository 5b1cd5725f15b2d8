"""A name or path in, the files of a model out: bundled name, directory, or a `.hdf5` beside its options."""

import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.errors import OptionsError, WeightsError
from spacy_elmo.formats import bilm_hdf5

MODELS = Path(__file__).resolve().parent.parent / "models"
BUNDLED = "en_elmo_sm"

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class ModelFiles:
    """Where the parts of a model are. `format` is a name to show."""

    weights: Path
    options: Path
    name: str
    format: str = "bilm-tf HDF5"

    def card(self) -> dict[str, Any]:
        """Content of the model card beside the weights; empty where there is none."""
        path = self.weights.with_name("model_card.json")
        if not path.is_file():
            return {}
        try:
            card = json.loads(path.read_text(encoding="utf8"))
        except ValueError as error:
            raise WeightsError(f"{path}: the model card is not valid JSON ({error})") from None
        if not isinstance(card, dict):
            raise WeightsError(f"{path}: the model card is not a JSON object")
        return card

    def vocabulary(self) -> list[str] | None:
        """Words of the `vocab.txt` beside the weights, one a line; None where there is none."""
        path = self.weights.with_name("vocab.txt")
        if not path.is_file():
            return None
        try:
            lines = path.read_text(encoding="utf8").split("\n")
        except UnicodeDecodeError as error:
            raise WeightsError(f"{path}: the vocabulary is not UTF-8 ({error})") from None
        return [line.strip() for line in (lines if lines[-1] else lines[:-1])]  # stripped, as bilm-tf does


def load(path: PathLike, options: PathLike | None = None) -> BiLM:
    """Load a biLM, in evaluation mode on the CPU.

    path: the name of a bundled model (`en_elmo_sm`), a directory with an options.json and one weights file,
        or a `.hdf5` file with its options beside it.
    options: the options.json, where it lies elsewhere.

    Raises:
        OptionsError, WeightsError: see `BiLMOptions.from_file` and `bilm_hdf5.read`.
    """
    files = locate(path, options)
    parsed = BiLMOptions.from_file(files.options)
    vocabulary = files.vocabulary() if parsed.char_cnn is None else None
    if parsed.char_cnn is None and vocabulary is None:
        raise WeightsError(f"{files.weights}: a biLM without char_cnn reads words and needs a vocab.txt beside it")
    return bilm_hdf5.read(files.weights, parsed, vocabulary, files.card())


def locate(path: PathLike, options: PathLike | None = None) -> ModelFiles:
    """Find weights and options of a model.

    Raises:
        WeightsError: there is no such model, or a directory holds several weights files.
        OptionsError: no options file is found beside the weights.
    """
    names = sorted(model.parent.name for model in MODELS.glob("*/weights.hdf5"))
    root = MODELS / path if path in names else Path(path)
    if _exists(root.is_dir):
        weights = _weights_in(root)
    elif _exists(root.is_file):
        weights = root
    else:
        raise WeightsError(
            f"{path}: no such weights; expected a bundled name ({', '.join(names)}), a directory with options.json and "
            "weights.hdf5, or a .hdf5 file"
        )
    if zipfile.is_zipfile(weights):
        raise WeightsError(f"{weights}: archives are not read in this version; unpack it and name the directory")
    found = Path(options) if options is not None else _options_of(weights)
    return ModelFiles(weights, found, root.name or str(root))


def _exists(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:  # a name too long to be one
        return False


def _weights_in(directory: Path) -> Path:
    usual = directory / "weights.hdf5"
    if usual.is_file():
        return usual
    found = [path for path in sorted(directory.glob("*.hdf5")) if not path.name.startswith("softmax")]
    if len(found) != 1:
        seen = ", ".join(path.name for path in found) or "none"
        raise WeightsError(f"{directory}: expected one weights file, weights.hdf5 or another .hdf5; found {seen}")
    return found[0]


def _options_of(weights: Path) -> Path:
    """options.json, the file named like the weights (AllenNLP), or the only one with options in its name."""
    named = weights.with_name(weights.stem.replace("weights", "options") + ".json")
    if "weights" in weights.stem and named.is_file():
        return named
    usual = weights.with_name("options.json")
    if usual.is_file():
        return usual
    others = sorted(weights.parent.glob("*options*.json"))
    if len(others) != 1:
        raise OptionsError(f"{weights}: no options.json beside it; pass the path of its options file")
    return others[0]
