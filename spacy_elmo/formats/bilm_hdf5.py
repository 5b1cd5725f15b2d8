"""The HDF5 weights file that bilm-tf and AllenNLP exchange.

One table (`entries`) says where each array of the file goes in the biLM and how its layout changes. Reading and writing
walk the table in opposite directions. Values never change. Both originals add the forget bias when they load; here it
stays out of the weights, as in the file.

ELMoForManyLangs models use the same layout, but bilm-tf cannot read them. `options.json` is their network config, with
`lexicons.json` next to it. `char_embed` has a row for each character of the lexicon, and `word_embed` one for each
word. `CNN_proj` and `W_P_0` are always there, and `B` includes the forget bias.

Files that we write have an attribute with a hash of their options, which the originals ignore. So options of one model
next to weights of another are refused, even if all shapes fit.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import torch

from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.bilm.characters import N_CHARACTERS
from spacy_elmo.bilm.lexicons import Lexicons
from spacy_elmo.bilm.options import CharCNNOptions, TokenEmbedderOptions
from spacy_elmo.errors import WeightsError
from spacy_elmo.formats import lexicons_json
from spacy_elmo.formats.archive import File
from spacy_elmo.formats.hdf5_file import (
    Array,
    StoredDtype,
    dataset_names,
    find_dataset,
    naming_damage,
    open_hdf5,
    read_array,
    read_note,
    refuse_bomb,
    write_arrays,
)
from spacy_elmo.support.messages import listed

TIED_TO = "options_sha256"  # the attribute
OWN_ROOTS = ("CNN", "RNN", "char_embed", "word_embed")  # datasets with other names are not checked


@dataclass(frozen=True)
class Entry:
    """One array of the file.

    name: its path in the file; others: its paths in older files.
    parameter: our parameter; direction: the row of an LSTM parameter.
    shape: in the file.
    to_ours, to_file: change the layout; each is the inverse of the other.
    """

    name: str
    parameter: str
    shape: tuple[int, ...]
    direction: int | None = None
    others: tuple[str, ...] = ()
    to_ours: Callable[[Array], Array] = np.asarray
    to_file: Callable[[Array], Array] = np.asarray


def entries(options: BiLMOptions, n_words: int = 0, lexicons: Lexicons | None = None) -> Iterator[Entry]:
    """Yield every array of a file with these options.

    n_words: number of words in the vocabulary of a word-input biLM.
    lexicons: of an ELMoForManyLangs model.
    """
    lstm, cnn = options.lstm, options.char_cnn
    if options.token_embedder is not None and lexicons is not None:
        yield from _token_embedder_entries(options.token_embedder, lexicons, lstm.projection_dim)
    elif cnn is None:
        yield Entry("embedding", "embedder.weight", (n_words, lstm.projection_dim), to_ours=_add_row, to_file=_drop_row)
    else:
        yield Entry(
            "char_embed",
            "embedder.embedding",
            (N_CHARACTERS - 1, cnn.embedding_dim),
            to_ours=_add_row,
            to_file=_drop_row,
        )
        yield from _cnn_entries(cnn, "embedder")
        if cnn.n_filters != lstm.projection_dim:
            yield from _projection_entries(cnn.n_filters, lstm.projection_dim)
    for direction in (0, 1):
        for i in range(lstm.n_layers):
            yield from _lstm_entries(options, direction, i)


def _cnn_entries(cnn: CharCNNOptions, module: str) -> Iterator[Entry]:
    """Yield the arrays of convolutions and highways."""
    for i, (size, number) in enumerate(cnn.filters):
        shape = (1, size, cnn.embedding_dim, number)
        flat = (size * cnn.embedding_dim, number)
        to_ours, to_file = _reshape(flat), _reshape(shape)
        yield Entry(f"CNN/W_cnn_{i}", f"{module}.filters.{i}", shape, to_ours=to_ours, to_file=to_file)
        yield Entry(f"CNN/b_cnn_{i}", f"{module}.biases.{i}", (number,))
    n = cnn.n_filters
    for i in range(cnn.n_highway):
        for gate in ("carry", "transform"):
            yield Entry(f"CNN_high_{i}/W_{gate}", f"{module}.highways.{i}.{gate}_weight", (n, n))
            yield Entry(f"CNN_high_{i}/b_{gate}", f"{module}.highways.{i}.{gate}_bias", (n,))


def _projection_entries(n_in: int, n_out: int) -> Iterator[Entry]:
    yield Entry("CNN_proj/W_proj", "embedder.projection.weight", (n_in, n_out))
    yield Entry("CNN_proj/b_proj", "embedder.projection.bias", (n_out,))


def _token_embedder_entries(options: TokenEmbedderOptions, lexicons: Lexicons, width: int) -> Iterator[Entry]:
    """Yield the arrays of ELMoForManyLangs. Its tables get no extra row, and there is always a projection."""
    if lexicons.words is not None:
        yield Entry("word_embed", "embedder.words.weight", (len(lexicons.words), options.word_dim))
    if options.char_cnn is not None and lexicons.characters is not None:
        shape = len(lexicons.characters), options.char_cnn.embedding_dim
        yield Entry("char_embed", "embedder.char_cnn.embedding", shape)
        yield from _cnn_entries(options.char_cnn, "embedder.char_cnn")
    yield from _projection_entries(options.n_features, width)


def _lstm_entries(options: BiLMOptions, direction: int, layer: int) -> Iterator[Entry]:
    lstm = options.lstm
    cell = f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell/"
    # bilm-tf dumps a one-layer model without MultiRNNCell, but its own loader cannot read that.
    single = f"RNN_{direction}/RNN/LSTMCell/" if lstm.n_layers == 1 else None

    def entry(name: str, parameter: str, shape: tuple[int, ...], gates: bool = False) -> Entry:
        return Entry(
            cell + name,
            f"layers.{layer}.{parameter}",
            shape,
            direction,
            others=(single + name,) if single else (),
            to_ours=_gates_to_ours if gates else np.asarray,
            to_file=_gates_to_file if gates else np.asarray,
        )

    yield entry("W_0", "weight", (2 * lstm.projection_dim, 4 * lstm.dim), gates=True)
    yield entry("B", "bias", (4 * lstm.dim,), gates=True)
    if lstm.always_projects or lstm.projection_dim != lstm.dim:
        yield entry("W_P_0", "projection", (lstm.dim, lstm.projection_dim))


def _gates_to_ours(array: Array) -> Array:
    """Reorder gates on the last axis from i, j, f, o (TensorFlow) to i, f, o, j (one sigmoid for the first three)."""
    i, j, f, o = np.split(array, 4, axis=-1)
    return np.concatenate([i, f, o, j], axis=-1)


def _gates_to_file(array: Array) -> Array:
    i, f, o, j = np.split(array, 4, axis=-1)
    return np.concatenate([i, j, f, o], axis=-1)


def _add_row(array: Array) -> Array:
    """Put a row of zeros in front, for id 0, "no token"."""
    return np.concatenate([np.zeros_like(array[:1]), array])


def _drop_row(array: Array) -> Array:
    return array[1:]


def _reshape(shape: tuple[int, ...]) -> Callable[[Array], Array]:
    return lambda array: array.reshape(shape)


def read(
    weights: File | BinaryIO,
    options: BiLMOptions,
    vocabulary: list[str] | None = None,
    card: dict[str, Any] | None = None,
    lexicons: Lexicons | None = None,
    check_tie: bool = True,
) -> BiLM:
    """Read a weights file (float16, float32 or float64) into a frozen biLM in evaluation mode.

    Every array is checked against the options before memory is allocated for the model.

    check_tie: if the file records its options, refuse others. False if the user names the options.

    Raises:
        WeightsError: the file is missing, truncated, not HDF5, or links to elsewhere; an array is missing, is surplus,
            has a wrong shape or type, or has NaN or infinite values; or the file was written with other options, words
            or lexicons.
    """
    source = str(weights) if isinstance(weights, File) else "weights"
    if isinstance(weights, Path) and not weights.is_file():
        raise WeightsError(f"{source}: no such weights file")
    lexicons = lexicons_json.checked(options, lexicons, source)
    with open_hdf5(weights, source) as file:
        n_words = len(vocabulary) if vocabulary else 0
        table = []
        for entry in entries(options, n_words, lexicons):
            with naming_damage(f"{source}: {entry.name}"):
                table.append((entry, find_dataset(file, (entry.name, *entry.others), entry.shape, source)))
        _refuse_surplus(file, {dataset.name for _, dataset in table}, source)
        if check_tie:
            _check_tie(file, _tie(options, vocabulary, lexicons), source)
        refuse_bomb(file, (dataset for _, dataset in table), source)
        return assemble(options, vocabulary, card, _read_arrays(table, source), lexicons)


def _read_arrays(table: Iterable[tuple[Entry, h5py.Dataset]], source: str) -> Iterator[tuple[Entry, Array]]:
    for entry, dataset in table:
        with naming_damage(f"{source}: {entry.name}"):
            array = read_array(dataset, source)
        yield entry, array


@torch.inference_mode(False)  # parameters made in inference mode cannot be trained, and changes to them go unseen
def assemble(
    options: BiLMOptions,
    vocabulary: list[str] | None,
    card: dict[str, Any] | None,
    arrays: Iterable[tuple[Entry, Array]],
    lexicons: Lexicons | None = None,
) -> BiLM:
    """Put the arrays of all `entries` of these options into a frozen biLM in evaluation mode.

    arrays: float32, in the layout of the file; taken one at a time.
    """
    bilm = BiLM(options, vocabulary, card, seed=None, lexicons=lexicons).requires_grad_(False)
    parameters = dict(bilm.named_parameters())
    for entry, array in arrays:
        parameter = parameters[entry.parameter]
        target = parameter if entry.direction is None else parameter[entry.direction]
        target.copy_(torch.from_numpy(entry.to_ours(array)))
    return bilm.eval()


def _check_tie(file: h5py.File, expected: str, source: str) -> None:
    with naming_damage(source):
        found = read_note(file, TIED_TO)
    if found is None:
        return
    if found != expected:
        raise WeightsError(
            f"{source}: written with other options than those next to it (or, for a biLM with word input, with another "
            "vocab.txt); restore the right file. If you changed the options on purpose, name them in Python: "
            "open_model(MODEL, options=FILE)"
        )


def _refuse_surplus(file: h5py.File, known: set[str], source: str) -> None:
    surplus = sorted(name for name in dataset_names(file, OWN_ROOTS, source) if f"/{name}" not in known)
    if surplus:
        raise WeightsError(f"{source}: the options have no place for {listed(surplus)}; do both belong together?")


def arrays(bilm: BiLM) -> Iterator[tuple[str, Array]]:
    """Yield the name and float32 array of everything in the file, in the file's layout, sorted by name."""
    parameters = dict(bilm.named_parameters())
    n_words = len(bilm.vocabulary) if bilm.vocabulary else 0
    for entry in sorted(entries(bilm.options, n_words, bilm.lexicons), key=lambda entry: entry.name):
        value = parameters[entry.parameter].detach()
        value = value if entry.direction is None else value[entry.direction]
        yield entry.name, entry.to_file(value.float().cpu().numpy())


def write_weights(bilm: BiLM, file: BinaryIO, dtype: StoredDtype = "float32") -> None:
    """Write the HDF5 weights file into an open binary file, one array at a time."""
    write_arrays(lambda: arrays(bilm), file, dtype, {TIED_TO: _tie(bilm.options, bilm.vocabulary, bilm.lexicons)})


def digest(bilm: BiLM, rounded: bool = False) -> str:
    """Return the SHA-256 of the architecture and the float32 arrays sorted by name. The file format does not change it.

    For a word-input biLM it includes the vocabulary, and for an ELMoForManyLangs model the lexicons.

    rounded: use the arrays in float16, which a reduced precision does not change.
    """
    sha = _architecture(bilm.options, bilm.vocabulary, bilm.lexicons)
    for name, array in arrays(bilm):
        sha.update(f"{name}{list(array.shape)}".encode())
        with np.errstate(over="ignore"):
            sha.update((array.astype(np.float16) if rounded else array).tobytes())
    return sha.hexdigest()


def _architecture(options: BiLMOptions, vocabulary: list[str] | None, lexicons: Lexicons | None) -> "hashlib._Hash":
    """SHA-256 of everything that determines the vectors, except the arrays."""
    sha = hashlib.sha256()
    architecture = {key: value for key, value in options.to_dict().items() if key not in options.training}
    sha.update(json.dumps(architecture, sort_keys=True).encode())
    if vocabulary:
        sha.update(json.dumps(vocabulary).encode())
    if lexicons:
        sha.update(json.dumps(lexicons_json.to_dict(lexicons), sort_keys=True).encode())
    return sha


def _tie(options: BiLMOptions, vocabulary: list[str] | None, lexicons: Lexicons | None) -> str:
    """Return the hash that the file records: of the options and words as they are read back."""
    options = BiLMOptions.from_dict(options.to_dict())
    words = [word.strip() for word in vocabulary] if vocabulary else None
    return _architecture(options, words, lexicons).hexdigest()


def to_bytes(bilm: BiLM) -> bytes:
    """Return the weights file as bytes, lossless."""
    file = io.BytesIO()
    write_weights(bilm, file, "lossless")
    return file.getvalue()
