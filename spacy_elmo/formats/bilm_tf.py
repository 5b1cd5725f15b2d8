"""A model as bilm-tf, AllenNLP, NLPL and this package store it: `options.json` next to an HDF5 weights file.

It may also have `vocab.txt`, `softmax.hdf5` and `model_card.json`. With `lexicons.json`, it is an ELMoForManyLangs
model in our own layout.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.errors import OptionsError, WeightsError
from spacy_elmo.formats import beside, bilm_hdf5, lexicons_json, softmax_hdf5
from spacy_elmo.formats.archive import File, Folder, read_options_of, size_of
from spacy_elmo.formats.reader import Parts, Place
from spacy_elmo.support.messages import listed

FORMAT = "bilm-tf HDF5"
MANYLANGS_FORMAT = "ELMoForManyLangs as HDF5"  # how this package stores such a model


def find(place: Place) -> "BiLMFiles | None":
    """See `reader.Find`. A file that the user names may have any name; its content decides."""
    if place.file is None:
        weights = _weights_among(place)
    else:
        weights = place.file if place.file.is_file() and _is_hdf5(place.file) else None
    kind = MANYLANGS_FORMAT if lexicons_json.NAME in place.names else FORMAT
    return None if weights is None else BiLMFiles(weights, place.options, kind + place.container)


def _is_hdf5(file: File) -> bool:
    return file.suffix == ".hdf5" or (isinstance(file, Path) and bool(h5py.is_hdf5(file)))


def _weights_among(place: Place) -> File | None:
    found = _hdf5_files(place, ".hdf5") or _hdf5_files(place, ".h5")
    if "weights.hdf5" in found and (place.folder / "weights.hdf5").is_file():
        return place.folder / "weights.hdf5"
    if len(found) > 1:
        raise WeightsError(f"{place}: expected one weights file, weights.hdf5 or another .hdf5; found {listed(found)}")
    return place.folder / found[0] if found else None


def _hdf5_files(place: Place, ending: str) -> list[str]:
    return [name for name in place.names if name.endswith(ending) and not name.startswith("softmax")]


@dataclass(frozen=True)
class BiLMFiles:
    """Reads such a model; see `reader.Reader`."""

    weights: File
    named_options: Path | None
    format: str

    @property
    def folder(self) -> Folder:
        """The folder of the weights."""
        return self.weights.parent

    @property
    def weights_bytes(self) -> int:
        """Size of the weights file."""
        return size_of(self.weights)

    def options(self) -> BiLMOptions:
        """Read the architecture, see `BiLMOptions.from_file`."""
        file = self.named_options or self._options_beside()
        if isinstance(file, Path):
            return BiLMOptions.from_file(file)
        return BiLMOptions.from_json(read_options_of(file), str(file))

    def _options_beside(self) -> File:
        """Find options.json, the file named like the weights (AllenNLP), or the only one with options in its name."""
        stem = self.weights.stem
        named = self.folder / (stem.replace("weights", "options") + ".json")
        if "weights" in stem and named.is_file():
            return named
        usual = self.folder / "options.json"
        if usual.is_file():
            return usual
        others = [file for file in self.folder.iterdir() if "options" in file.name and file.suffix == ".json"]
        if len(others) != 1:
            raise OptionsError(
                f"{self.weights}: no options.json next to it; put the options file of these weights there"
            )
        return others[0]

    def card(self) -> dict[str, Any]:
        """Read `model_card.json`."""
        return beside.read_card(self.folder)

    def vocabulary(self) -> list[str] | None:
        """Read `vocab.txt` or `vocab.txt.gz`."""
        return beside.read_vocabulary(self.folder)

    def bilm(self, parts: Parts) -> BiLM:
        """Read the weights, see `bilm_hdf5.read`."""
        tied = self.named_options is None
        if parts.options.token_embedder is not None:
            lexicons = lexicons_json.read(self.folder / lexicons_json.NAME)
            return bilm_hdf5.read(self.weights, parts.options, None, parts.card, lexicons, check_tie=tied)
        if parts.options.char_cnn is not None:
            return bilm_hdf5.read(self.weights, parts.options, None, parts.card, check_tie=tied)
        words = beside.input_words(parts.vocabulary, self.folder, self.weights)
        return bilm_hdf5.read(self.weights, parts.options, words, parts.card, check_tie=tied)

    def why_no_softmax(self) -> str | None:
        """Say that there is no `softmax.hdf5`; None if there is one."""
        return softmax_hdf5.explain_missing(self.folder / softmax_hdf5.NAME)

    def softmax(self, n_words: int, projection_dim: int) -> Softmax:
        """Read `softmax.hdf5`, see `softmax_hdf5.read`."""
        return softmax_hdf5.read(self.folder / softmax_hdf5.NAME, n_words, projection_dim)
