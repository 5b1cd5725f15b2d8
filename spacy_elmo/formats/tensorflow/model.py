"""Read the parts of a biLM from a bundle of variables. Checkpoints and TF-Hub modules share this code."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.errors import OptionsError, WeightsError
from spacy_elmo.formats import beside, bilm_hdf5
from spacy_elmo.formats.archive import File, Folder, read_options_of
from spacy_elmo.formats.hdf5_file import Array, as_float32
from spacy_elmo.formats.reader import Parts
from spacy_elmo.formats.tensorflow import architecture, graph
from spacy_elmo.formats.tensorflow.bundle import Bundle
from spacy_elmo.formats.tensorflow.variables import by_hdf5_name, mixes
from spacy_elmo.support.messages import listed, shown

_BIAS = "softmax/b"
_EMBEDDINGS = ("char_embed", "embedding")  # an inference graph has a row of zeros in front


@dataclass(frozen=True)
class TensorFlowModel:
    """Reads a model that TensorFlow saved; see `reader.Reader`.

    index: of its bundle.
    graph: its `.meta` or `saved_model.pb`, which may be missing.
    folder: where options.json, vocabulary and model card are looked for.
    named_options: the options file that the user names.
    """

    format: str
    folder: Folder
    index: File
    graph: File
    named_options: Path | None = None

    @property
    def weights_bytes(self) -> int:
        """Size of the bundle's files."""
        return self.bundle.n_bytes

    def options(self) -> BiLMOptions:
        """Read the options.json, or the graph if there is none."""
        if self.named_options is not None:
            return BiLMOptions.from_file(self.named_options)
        file = self.folder / "options.json"
        if file.is_file():
            return BiLMOptions.from_json(read_options_of(file), str(file))
        shapes = {name: self.bundle.variables[variable].shape for name, variable in self._names.items()}
        if not self.graph.is_file():
            raise OptionsError(
                f"{self.index}: neither options.json nor {self.graph.name} is next to it, and "
                f"{architecture.UNKNOWABLE}; put the options.json of its training there"
            )
        return architecture.derive(shapes, graph.read(self.graph, self._named[1]), str(self.index))

    def card(self) -> dict[str, Any]:
        """Read `model_card.json`."""
        return beside.read_card(self.folder)

    def vocabulary(self) -> list[str] | None:
        """Read `vocab.txt` or `vocab.txt.gz`."""
        return beside.read_vocabulary(self.folder)

    def bilm(self, parts: Parts) -> BiLM:
        """Read the weights. Every shape is checked against the options before memory is allocated."""
        options = parts.options
        vocabulary = beside.input_words(parts.vocabulary, self.folder, self.index) if options.char_cnn is None else None
        table = list(bilm_hdf5.entries(options, len(vocabulary or ())))
        found = {self._find(entry.name, entry.shape): entry for entry in table}
        self._refuse_surplus({entry.name for entry in table})
        arrays = self._arrays({variable: entry.shape for variable, entry in found.items()})
        pairs = ((found[variable], array) for variable, array in arrays)
        return bilm_hdf5.assemble(options, vocabulary, parts.card, pairs)

    def why_no_softmax(self) -> str | None:
        """Say that the variables have no softmax, or that there is no vocabulary (training does not copy it there)."""
        if not {self._softmax_weight, _BIAS} <= self._names.keys():
            return f"{self.index}: has no softmax; without one, a model can embed words, but not predict them"
        if self.vocabulary() is None:
            return f"{self.index}: has a softmax, but no vocabulary; put the vocab.txt of its training next to it"
        return None

    @torch.inference_mode(False)  # see `bilm_hdf5.assemble`
    def softmax(self, n_words: int, projection_dim: int) -> Softmax:
        """Read the output layer. With `share_embedding_softmax`, its weights are the word embeddings."""
        shapes = {self._softmax_weight: (n_words, projection_dim), _BIAS: (n_words,)}
        found = {self._find(name, shape, "the vocabulary expects"): name for name, shape in shapes.items()}
        softmax = Softmax(n_words, projection_dim, seed=None).requires_grad_(False)
        for variable, array in self._arrays({variable: shapes[name] for variable, name in found.items()}):
            parameter = softmax.bias if found[variable] == _BIAS else softmax.weight
            parameter.copy_(torch.from_numpy(array))
        return softmax.eval()

    def mixes(self) -> list[list[float]]:
        """Read the mixes: the softmax of their weights, times their scale."""
        found = []
        for names in mixes(self.bundle.variables):
            arrays = dict(self.bundle.arrays(names))
            weights, scale = (as_float32(arrays[name], f"{self.index}: {shown(name)}") for name in names)
            if weights.ndim != 1 or scale.size != 1 or not weights.size:
                raise WeightsError(
                    f"{self.index}: {shown(names[0])} and {shown(names[1])} are not the weights and the scale of a mix"
                )
            shares = np.exp(weights - weights.max())
            found.append([float(weight) for weight in shares / shares.sum() * scale.reshape(())])
        return found

    @cached_property
    def bundle(self) -> Bundle:
        """All variables."""
        return Bundle(self.index)

    @cached_property
    def _named(self) -> tuple[dict[str, str], str]:
        return by_hdf5_name(self.bundle.variables, str(self.index))

    @property
    def _names(self) -> dict[str, str]:
        """The biLM's variables, by their names in bilm-tf's HDF5 file."""
        return self._named[0]

    @property
    def _softmax_weight(self) -> str:
        return "softmax/W" if "softmax/W" in self._names else "embedding"

    def _find(self, name: str, shape: tuple[int, ...], asking: str = "the options expect") -> str:
        """Return the variable with this name in the HDF5 file. For inference it may have a first row for "no token"."""
        if name not in self._names:
            raise WeightsError(f"{self.index}: no variable for {name}, which {asking}; do both belong together?")
        variable = self.bundle.find(self._names[name])
        if variable.shape not in (shape, (shape[0] + 1, *shape[1:]) if name in _EMBEDDINGS else shape):
            raise WeightsError(
                f"{self.index}: {shown(variable.name)} has shape {list(variable.shape)}, but {asking} "
                f"{list(shape)}; do both belong together?"
            )
        return self._names[name]

    def _refuse_surplus(self, wanted: set[str]) -> None:
        surplus = sorted(
            variable
            for name, variable in self._names.items()
            if name not in wanted and name.startswith(bilm_hdf5.OWN_ROOTS)
        )
        if surplus:
            raise WeightsError(
                f"{self.index}: the options have no place for {listed(surplus)}; do both belong together?"
            )

    def _arrays(self, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Array]]:
        """Yield variables as finite float32 arrays of these shapes, by name."""
        for name, array in self.bundle.arrays(shapes):
            if array.shape != shapes[name]:
                if array[0].any():
                    raise WeightsError(
                        f"{self.index}: {shown(name)} has {len(array)} rows, one too many; its first row "
                        "should be zero (no token), but is not; do the options belong to it?"
                    )
                array = array[1:]
            yield name, as_float32(array, f"{self.index}: {shown(name)}")
