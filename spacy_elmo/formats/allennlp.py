"""Read the ELMo inside a model that AllenNLP trained for some task: `model.tar.gz`, or the same as a folder.

It has `config.json`, `weights.th` and, if its config asks for them, copies of the biLM's own files in `fta/`.

One table (`stored`) says from which tensors of `weights.th` each array of bilm-tf's HDF5 file is made. AllenNLP adds 1
to the forget gate's bias when it loads, and saves the sum in float32. Here 1 is subtracted again. Adding 1 to the
result gives the same sum (after fine-tuning, up to float32 rounding), so the vectors equal AllenNLP's. But if the sum
was rounded, the result is not exactly the original bias. It is off by at most 1.2e-7 for sums below 4. So the digest
equals the HDF5 file's only if no sum was rounded, or if the weights come from `fta/`.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.errors import OptionsError, WeightsError
from spacy_elmo.formats import beside, bilm_hdf5, state_dict
from spacy_elmo.formats.archive import File, Folder, read_options_of, reading, size_of
from spacy_elmo.formats.hdf5_file import Array, as_float32
from spacy_elmo.formats.reader import Parts, Place
from spacy_elmo.support import strict_json
from spacy_elmo.support.messages import listed, quoted, reason

FORMAT = "AllenNLP model"
WEIGHTS = ("weights.th", "best.th")  # in an archive; in the folder of a training
CONFIG, OPTIONS, ARCHIVED = "config.json", "options.json", "fta"

_EMBEDDER = "elmo_token_embedder"  # the name in a config of the module that need not name its options file
_DEFAULT = "elmo_2x4096_512_2048cnn_2xhighway_options.json"  # which is then this one
_CHARACTERS = "_token_embedder._char_embedding_weights"  # every biLM has it, and nothing else does


def _published(dim: int, projection_dim: int, n_highway: int) -> dict[str, Any]:
    return {
        "lstm": {
            "use_skip_connections": True,
            "projection_dim": projection_dim,
            "cell_clip": 3,
            "proj_clip": 3,
            "dim": dim,
            "n_layers": 2,
        },
        "char_cnn": {
            "activation": "relu",
            "filters": [[1, 32], [2, 32], [3, 64], [4, 128], [5, 256], [6, 512], [7, 1024]],
            "n_highway": n_highway,
            "embedding": {"dim": 16},
            "n_characters": 262,
            "max_characters_per_token": 50,
        },
    }


# The options files that AllenNLP published, by name. Configs name them by several addresses or as local copies.
PUBLISHED: dict[str, dict[str, Any]] = {
    "elmo_2x1024_128_2048cnn_1xhighway_options.json": _published(1024, 128, 1),
    "elmo_2x2048_256_2048cnn_1xhighway_options.json": _published(2048, 256, 1),
    _DEFAULT: _published(4096, 512, 2),
    "elmo_2x4096_512_2048cnn_2xhighway_5.5B_options.json": _published(4096, 512, 2),
}


def find(place: Place) -> "AllenNLPModel | None":
    """See `reader.Find`. A weights file that the user names may have any name that ends in `.th`."""
    if place.file is None:
        name = next((name for name in WEIGHTS if name in place.names), None)
        weights = None if name is None else place.folder / name
    else:
        weights = place.file if place.file.suffix == ".th" and place.file.is_file() else None
    return None if weights is None else AllenNLPModel(weights, place.options, FORMAT + place.container)


class AllenNLPModel:
    """Reads such a model; see `reader.Reader` and `reader.MixReader`."""

    def __init__(self, weights: File, named_options: Path | None, format: str) -> None:
        self.format = format
        self._weights, self._folder, self._named_options = weights, weights.parent, named_options
        self._mixes: list[list[float]] | None = None

    @property
    def weights_bytes(self) -> int:
        """Size of the file that the biLM is read from."""
        return size_of(self._archived_weights() or self._weights)

    def options(self) -> BiLMOptions:
        """Read the options: from the file that the user names, `options.json`, the file in `fta/`, or else the
        published file that the config names."""
        if self._named_options is not None:
            return BiLMOptions.from_file(self._named_options)
        own = self._folder / OPTIONS
        file = own if own.is_file() else _only(self._folder, "options_file")
        if file is not None:
            return BiLMOptions.from_json(read_options_of(file), str(file))
        return self._published_options()

    def card(self) -> dict[str, Any]:
        """Read `model_card.json`."""
        return beside.read_card(self._folder)

    def vocabulary(self) -> None:
        """Return None: `vocabulary/` holds the task's words and labels, not those of a softmax."""
        return

    def bilm(self, parts: Parts) -> BiLM:
        """Read the weights, from `fta/` unless they were fine-tuned."""
        if (archived := self._archived_weights()) is not None:
            tied = self._named_options is None
            return bilm_hdf5.read(archived, parts.options, None, parts.card, check_tie=tied)
        tensors = self._read_tensors()
        wanted = stored(parts.options, str(self._weights))
        _check(tensors, wanted, self._weights)
        return bilm_hdf5.assemble(parts.options, None, parts.card, _arrays(tensors, wanted, self._weights))

    def mixes(self) -> list[list[float]]:
        """Read the mixes; none if the layers were normalized first, which `layers` cannot express."""
        if any(section.get("do_layer_norm") for section in self._sections):
            return []
        if self._mixes is None:
            self._read_tensors()
        return self._mixes or []

    def why_no_softmax(self) -> str:
        """Say that there never is a softmax."""
        return f"{self._weights}: AllenNLP keeps no softmax; this model can embed words, but not predict them"

    def softmax(self, n_words: int, projection_dim: int) -> Softmax:
        """Raise an error: there is no softmax."""
        raise WeightsError(self.why_no_softmax())

    def _archived_weights(self) -> File | None:
        """Return the weights in `fta/`; None if the config says that they were fine-tuned, so that they differ now."""
        if any(section.get("requires_grad") for section in self._sections):
            return None
        return _only(self._folder, "weight_file")

    def _read_tensors(self) -> dict[str, Tensor]:
        """Return the biLM's tensors. The mixes are stored on the way, so that the file is read only once."""
        state = state_dict.read(self._weights, state_dict.OTHER_STORAGES)
        prefixes = _find_bilms(state, self._weights)
        elmos = [prefix.removesuffix("_elmo_lstm.") for prefix in prefixes]
        self._mixes = [mix for elmo in elmos for mix in _read_mixes(state, elmo, self._weights)]
        return {key: state[prefixes[0] + key] for key in _keys_behind(state, prefixes[0])}

    def _published_options(self) -> BiLMOptions:
        named = {_options_file(section) for section in self._sections}
        if len(named) == 1 and (name := re.split(r"[/\\]", next(iter(named)))[-1]) in PUBLISHED:
            return BiLMOptions.from_dict(PUBLISHED[name], name)
        what = f"names {listed(map(quoted, sorted(named)))}" if named else "names no options file"
        raise OptionsError(
            f"{self._weights}: the weights lack cell_clip, proj_clip and activation. Expected {CONFIG} to name one "
            f"options file that AllenNLP published, but it {what}. Unpack the archive and put the options file next to "
            f"{self._weights.name} as {OPTIONS}, or name it in Python: open_model(…, options=FILE)"
        )

    @cached_property
    def _sections(self) -> list[dict[str, Any]]:
        """The sections of the config that define an ELMo."""
        file = self._folder / CONFIG
        return _elmo_sections(file) if file.is_file() else []


def _only(folder: Folder, kind: str) -> File | None:
    """Return the file in `fta/` whose config key ends in `kind`. If there are several, they must be equal."""
    place = folder / ARCHIVED
    files = [file for file in place.iterdir() if file.name.split(".")[-1] == kind] if place.is_dir() else []
    if len(files) > 1 and len({_hash(file) for file in files}) > 1:
        names = listed(sorted(file.name for file in files))
        raise WeightsError(
            f"{place}: several ELMos ({names}); copy the options and weights of one into a folder of its own"
        )
    return min(files, key=lambda file: file.name, default=None)


def _hash(file: File) -> bytes:
    sha = hashlib.sha256()
    with reading(file) as content:
        while chunk := content.read(2**20):
            sha.update(chunk)
    return sha.digest()


def _elmo_sections(file: File) -> list[dict[str, Any]]:
    try:
        config = strict_json.parse(read_options_of(file))
    except ValueError as error:
        if isinstance(error, OptionsError):
            raise
        raise OptionsError(
            f"{file}: not valid JSON ({reason(error)}); expected the config of AllenNLP's training"
        ) from None
    found, waiting = [], [config]
    while waiting:  # a config may be nested deeper than Python can recurse
        node = waiting.pop()
        if isinstance(node, dict):
            if "options_file" in node or node.get("type") == _EMBEDDER:
                found.append(node)
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
    return found


def _options_file(section: Mapping[str, Any]) -> str:
    named = section.get("options_file") or _DEFAULT
    return named if isinstance(named, str) else quoted(named)


@dataclass(frozen=True)
class Stored:
    """How an array of the HDF5 file is made from tensors.

    entry: name and shape of the array.
    keys: of the tensors, after the biLM's prefix.
    to_file: makes the array from them, in float32 or on torch's device `meta`, which has only shapes.
    """

    entry: bilm_hdf5.Entry
    keys: tuple[str, ...]
    to_file: Callable[..., Tensor]


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _gates_to_file(gates: Tensor) -> Tensor:
    """Reorder gates from i, f, j, o (AllenNLP) to i, j, f, o (TensorFlow)."""
    i, f, j, o = gates.chunk(4)
    return torch.cat([i, j, f, o])


def _bias_to_file(bias: Tensor) -> Tensor:
    """Reorder gates the same way, and subtract the 1 that AllenNLP added to the forget gate's bias."""
    i, f, j, o = bias.chunk(4)
    return torch.cat([i, j, f - 1, o])


# Name in the HDF5 file, keys of the tensors, conversion. Row 0 of the characters means "no character". A highway is one
# matrix, transform and carry. AllenNLP carries the input by sigmoid(z), bilm-tf by 1 - sigmoid(z) of its own z.
_CELL, _LAYER = r"RNN_(?P<d>[01])/RNN/MultiRNNCell/Cell(?P<i>\d+)/LSTMCell/", "_elmo_lstm.{d}_layer_{i}."
_CNN, _HIGHWAY = "_token_embedder.char_conv_{i}.", "_token_embedder._highways._layers.{i}."
_TABLE: tuple[tuple[str, tuple[str, ...], Callable[..., Tensor]], ...] = (
    (r"char_embed", (_CHARACTERS,), lambda weight: weight[1:]),
    (r"CNN/W_cnn_(?P<i>\d+)", (f"{_CNN}weight",), lambda weight: weight.permute(2, 1, 0)[None]),
    (r"CNN/b_cnn_(?P<i>\d+)", (f"{_CNN}bias",), _as_it_is),
    (r"CNN_high_(?P<i>\d+)/W_transform", (f"{_HIGHWAY}weight",), lambda weight: weight.chunk(2)[0].t()),
    (r"CNN_high_(?P<i>\d+)/W_carry", (f"{_HIGHWAY}weight",), lambda weight: -weight.chunk(2)[1].t()),
    (r"CNN_high_(?P<i>\d+)/b_transform", (f"{_HIGHWAY}bias",), lambda bias: bias.chunk(2)[0]),
    (r"CNN_high_(?P<i>\d+)/b_carry", (f"{_HIGHWAY}bias",), lambda bias: -bias.chunk(2)[1]),
    (r"CNN_proj/W_proj", ("_token_embedder._projection.weight",), Tensor.t),
    (r"CNN_proj/b_proj", ("_token_embedder._projection.bias",), _as_it_is),
    (
        f"{_CELL}W_0",
        (f"{_LAYER}input_linearity.weight", f"{_LAYER}state_linearity.weight"),
        lambda inputs, states: _gates_to_file(torch.cat([inputs, states], dim=1)).t(),
    ),
    (f"{_CELL}B", (f"{_LAYER}state_linearity.bias",), _bias_to_file),
    (f"{_CELL}W_P_0", (f"{_LAYER}state_projection.weight",), Tensor.t),
)
_DIRECTIONS = {"0": "forward", "1": "backward"}
_CACHED = "_word_embedding."  # vectors of words computed by the character CNN, see AllenNLP's `vocab_to_cache`


def stored(options: BiLMOptions, source: str) -> list[Stored]:
    """Return all arrays of a biLM with these options.

    Raises:
        OptionsError: AllenNLP has no such biLM.
    """
    if options.char_cnn is None or not options.lstm.use_skip_connections:
        raise OptionsError(
            f"{source}: AllenNLP has only biLMs with a character CNN and skip connections, but the options are for "
            "another; do both belong together?"
        )
    return [_stored(entry) for entry in bilm_hdf5.entries(options)]


def _stored(entry: bilm_hdf5.Entry) -> Stored:
    for name, keys, to_file in _TABLE:
        if match := re.fullmatch(name, entry.name):
            parts = match.groupdict()
            numbers = {"i": parts.get("i", ""), "d": _DIRECTIONS.get(parts.get("d", ""), "")}
            return Stored(entry, tuple(key.format(**numbers) for key in keys), to_file)
    raise AssertionError(f"{entry.name} is not in the table")


def _check(tensors: Mapping[str, Tensor], wanted: list[Stored], file: File) -> None:
    """Refuse tensors that do not fit the options, before memory is allocated for the model."""
    for array in wanted:
        if missing := [key for key in array.keys if key not in tensors]:
            raise WeightsError(f"{file}: the ELMo has no tensor {missing[0]!r}, which the options expect")
        parts = [tensors[key] for key in array.keys]
        shape = _shape_in_file(array, parts)
        if shape != array.entry.shape or not all(part.is_floating_point() for part in parts):
            found = ", ".join(f"{str(part.dtype).removeprefix('torch.')} {list(part.shape)}" for part in parts)
            raise WeightsError(
                f"{file}: {' and '.join(array.keys)} of the ELMo: {found}, which does not fit the options; do both "
                "belong together?"
            )
    used = {key for array in wanted for key in array.keys}
    if surplus := sorted(key for key in tensors if key not in used and not key.startswith(_CACHED)):
        raise WeightsError(f"{file}: the options have no place for {listed(surplus)}")
    n_bytes = sum(tensors[key].numel() * tensors[key].element_size() for key in used)
    if n_bytes > size_of(file):
        raise WeightsError(f"{file}: has {size_of(file):,} bytes, but declares {n_bytes:,} for its ELMo; hostile")


def _shape_in_file(array: Stored, parts: list[Tensor]) -> tuple[int, ...] | None:
    try:
        return tuple(array.to_file(*(part.to("meta") for part in parts)).shape)
    except (RuntimeError, IndexError, ValueError):  # for example, too few dimensions
        return None


def _arrays(tensors: Mapping[str, Tensor], wanted: list[Stored], file: File) -> Iterator[tuple[bilm_hdf5.Entry, Array]]:
    for array in wanted:
        content = array.to_file(*(tensors[key].float() for key in array.keys))
        yield array.entry, as_float32(content.numpy(), f"{file}: {' and '.join(array.keys)}")


def _find_bilms(state: Mapping[str, Tensor], file: File) -> list[str]:
    """Return the prefixes of the biLMs among the tensors. These biLMs must all be equal."""
    prefixes = [key.removesuffix(_CHARACTERS) for key in state if key.endswith(_CHARACTERS)]
    if not prefixes:
        raise WeightsError(
            f"{file}: no ELMo in it (no tensor …{_CHARACTERS}); only the ELMo of an AllenNLP model is read"
        )
    first, *others = ({key: state[prefix + key] for key in _keys_behind(state, prefix)} for prefix in prefixes)
    if not all(_are_equal(first, other) for other in others):
        names = listed(prefix.rstrip(".") or "the top" for prefix in prefixes)
        raise WeightsError(
            f"{file}: several ELMos that differ ({names}); save the state_dict of one of them with torch.save, and "
            "name that file (….th)"
        )
    return prefixes


def _keys_behind(state: Mapping[str, Tensor], prefix: str) -> list[str]:
    return [key.removeprefix(prefix) for key in state if key.startswith(prefix)]


def _are_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        tensor.dtype == other[key].dtype and torch.equal(tensor, other[key]) for key, tensor in one.items()
    )


def _read_mixes(state: Mapping[str, Tensor], prefix: str, file: File) -> list[list[float]]:
    """Return the mixes of the ELMo with this prefix: the softmax of their weights, times their gamma."""
    found = []
    for number in takewhile(lambda i: f"{prefix}scalar_mix_{i}.gamma" in state, count()):
        mix = f"{prefix}scalar_mix_{number}."
        keys = takewhile(state.__contains__, (f"{mix}scalar_parameters.{layer}" for layer in count()))
        parts = [state[f"{mix}gamma"], *(state[key] for key in keys)]
        if len(parts) == 1 or not all(part.numel() == 1 and part.isfinite().all() for part in parts):
            raise WeightsError(f"{file}: {mix}gamma and {mix}scalar_parameters are not the numbers of a mix")
        gamma, *scalars = (part.reshape(()).double() for part in parts)
        found.append([float(weight) for weight in torch.stack(scalars).softmax(0) * gamma])
    return found
