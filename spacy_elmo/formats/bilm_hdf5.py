"""The interchange format of bilm-tf and AllenNLP: `options.json` beside an HDF5 file of weights.

One table (`entries`) says where each array of the file lives in the biLM and how it is turned round; reading
and writing walk it in opposite directions. Values are never changed: the forget bias, which both originals
add when they load, stays out of the weights here as it does in the file.

Models of ELMoForManyLangs are kept in the same layout, which bilm-tf does not read: `options.json` is their network
config, `lexicons.json` is beside it, `char_embed` has a row for each character of the lexicon, `word_embed` one for
each word, `CNN_proj` and `W_P_0` are always there, and `B` holds the forget bias.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import h5py
import numpy as np
import numpy.typing as npt
import torch

from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.bilm.characters import N_CHARACTERS
from spacy_elmo.bilm.lexicons import Lexicons
from spacy_elmo.bilm.options import CharCNNOptions, TokenEmbedderOptions
from spacy_elmo.errors import ElmoError, WeightsError
from spacy_elmo.formats import lexicons_json
from spacy_elmo.formats.archive import File, opened
from spacy_elmo.formats.hdf5_file import new_hdf5

Array = npt.NDArray[Any]
StoredDtype = Literal["float32", "float16", "lossless"]

MOST_COMPRESSED = 1100  # deflate's best ratio: an array that takes less room in the file is not there

OWN_ROOTS = ("CNN", "RNN", "char_embed", "word_embed")  # datasets under other names are not ours to judge


@dataclass(frozen=True)
class Entry:
    """One array of the file.

    name: its path in the file; others: paths under which older files have it.
    parameter: our parameter; direction: which row of it, for the LSTMs.
    shape: in the file.
    to_ours, to_file: the change of layout, each the inverse of the other.
    """

    name: str
    parameter: str
    shape: tuple[int, ...]
    direction: int | None = None
    others: tuple[str, ...] = ()
    to_ours: Callable[[Array], Array] = np.asarray
    to_file: Callable[[Array], Array] = np.asarray


def entries(options: BiLMOptions, n_words: int = 0, lexicons: Lexicons | None = None) -> Iterator[Entry]:
    """Yield every array that a file with these options holds.

    n_words: in the vocabulary of a word-input biLM; lexicons: of a model of ELMoForManyLangs.
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
    """Convolutions and highways."""
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
    """Of ELMoForManyLangs: no row is added to its tables, and there is always a projection."""
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
    # bilm-tf dumps a one-layer model without MultiRNNCell, in a form that its own loader does not read
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
    """Gates i, j, f, o along the last axis (TensorFlow) to i, f, o, j (one sigmoid for the first three)."""
    i, j, f, o = np.split(array, 4, axis=-1)
    return np.concatenate([i, f, o, j], axis=-1)


def _gates_to_file(array: Array) -> Array:
    i, f, o, j = np.split(array, 4, axis=-1)
    return np.concatenate([i, j, f, o], axis=-1)


def _add_row(array: Array) -> Array:
    """Put a zero row in front, for id 0, "no token"."""
    return np.concatenate([np.zeros_like(array[:1]), array])


def _drop_row(array: Array) -> Array:
    return array[1:]


def _reshape(shape: tuple[int, ...]) -> Callable[[Array], Array]:
    return lambda array: array.reshape(shape)


@torch.inference_mode(False)  # parameters made in inference mode could never be trained, nor their changes seen
def read(
    weights: File | BinaryIO,
    options: BiLMOptions,
    vocabulary: list[str] | None = None,
    card: dict[str, Any] | None = None,
    lexicons: Lexicons | None = None,
) -> BiLM:
    """Read a weights file (float16, float32 or float64) into a frozen biLM in evaluation mode.

    Every array is checked against the options before memory is taken for the model.

    Raises:
        WeightsError: the file is missing, truncated, no HDF5, holds links to elsewhere, lacks an array, has
            one too many, one of another shape or type, or one with NaN or infinite values.
    """
    source = str(weights) if isinstance(weights, File) else "weights"
    if isinstance(weights, Path) and not weights.is_file():
        raise WeightsError(f"{source}: no such weights file")
    lexicons = lexicons_json.checked(options, lexicons, source)
    with opened(weights) as content, naming_damage(source), h5py.File(content, "r") as file:
        n_words = len(vocabulary) if vocabulary else 0
        table = []
        for entry in entries(options, n_words, lexicons):
            with naming_damage(f"{source}: {entry.name}"):
                table.append((entry, find(file, entry, source)))
        _refuse_surplus(file, {dataset.name for _, dataset in table}, source)
        bilm = BiLM(options, vocabulary, card, seed=None, lexicons=lexicons).requires_grad_(False)
        parameters = dict(bilm.named_parameters())
        for entry, dataset in table:
            parameter = parameters[entry.parameter]
            target = parameter if entry.direction is None else parameter[entry.direction]
            with naming_damage(f"{source}: {entry.name}"):
                target.copy_(torch.from_numpy(entry.to_ours(read_array(dataset, source))))
    return bilm.eval()


@contextmanager
def naming_damage(source: str) -> Iterator[None]:
    """What h5py raises on a damaged file is of many kinds; say which file it was."""
    try:
        yield
    except ElmoError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{source}: cannot be read as HDF5 weights; truncated, damaged or of another format ({error})"
        ) from None


def find(file: h5py.File, entry: Entry, source: str) -> h5py.Dataset:
    """The entry's dataset, checked; its values are not read yet."""
    for name in (entry.name, *entry.others):
        dataset = _walk(file, name, source)
        if dataset is not None:
            break
    else:
        raise WeightsError(f"{source}: no array {entry.name!r}, which the options ask for; do both belong together?")
    if dataset.shape != entry.shape:
        raise WeightsError(
            f"{source}: {name} has shape {list(dataset.shape or ())}, the options ask for {list(entry.shape)}; "
            "do both belong together?"
        )
    if dataset.dtype not in (np.float16, np.float32, np.float64):
        raise WeightsError(f"{source}: {name} holds {dataset.dtype}, expected float16, float32 or float64")
    if dataset.id.get_storage_size() * MOST_COMPRESSED < dataset.nbytes:
        raise WeightsError(f"{source}: {name} is declared but its values are not there; the file is damaged")
    return dataset


def _walk(file: h5py.File, name: str, source: str) -> h5py.Dataset | None:
    """Follow a path of hard links only, so that a file cannot make us read another one."""
    node: Any = file
    for part in name.split("/"):
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise WeightsError(f"{source}: {name} is a link to elsewhere; weights files hold their arrays themselves")
        node = node[part]
    if not isinstance(node, h5py.Dataset):
        return None
    if node.is_virtual or node.external:
        raise WeightsError(f"{source}: {name} is stored in another file; weights files hold their arrays themselves")
    return node


def _refuse_surplus(file: h5py.File, known: set[str], source: str) -> None:
    names: list[str] = []
    file.visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None)
    surplus = sorted(name for name in names if name.startswith(OWN_ROOTS) and f"/{name}" not in known)
    if surplus:
        raise WeightsError(f"{source}: the options leave no place for {', '.join(surplus)}; do both belong together?")


def read_array(dataset: h5py.Dataset, source: str) -> Array:
    """Its values as float32; NaN and infinite ones are an error."""
    with np.errstate(over="ignore"):  # a float64 too large becomes infinite, and is refused as such
        array: Array = dataset[...].astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise WeightsError(f"{source}: {dataset.name} holds NaN or infinite values; the model is of no use")
    return array


def arrays(bilm: BiLM) -> Iterator[tuple[str, Array]]:
    """Yield name and float32 array of everything the file holds, in its layout and in order of names."""
    parameters = dict(bilm.named_parameters())
    n_words = len(bilm.vocabulary) if bilm.vocabulary else 0
    for entry in sorted(entries(bilm.options, n_words, bilm.lexicons), key=lambda entry: entry.name):
        value = parameters[entry.parameter].detach()
        value = value if entry.direction is None else value[entry.direction]
        yield entry.name, entry.to_file(value.float().cpu().numpy())


def write(bilm: BiLM, directory: str | Path, dtype: StoredDtype = "float32") -> None:
    """Write `options.json`, `weights.hdf5` and, where the biLM has them, `model_card.json`, `vocab.txt` and
    `lexicons.json`.

    dtype: "float32" is what bilm-tf and AllenNLP read; "float16" halves the file; "lossless" takes float16
        where that keeps every value, else float32.

    Each file appears whole or not at all.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / "weights.hdf5", lambda file: write_weights(bilm, file, dtype))
    write_texts(bilm, directory)


def write_texts(bilm: BiLM, directory: Path) -> None:
    """Write what `write` writes beside the weights."""
    write_text(directory / "options.json", json.dumps(bilm.options.to_dict(), indent=1) + "\n")
    card = json.dumps(bilm.card, indent=1, ensure_ascii=False) + "\n" if bilm.card else None
    words = "".join(word + "\n" for word in bilm.vocabulary) if bilm.vocabulary else None
    lexicons = json.dumps(lexicons_json.to_dict(bilm.lexicons), ensure_ascii=False) + "\n" if bilm.lexicons else None
    for name, text in (("model_card.json", card), ("vocab.txt", words), (lexicons_json.NAME, lexicons)):
        if text is None:
            (directory / name).unlink(missing_ok=True)  # another model's
        else:
            write_text(directory / name, text)


def write_weights(bilm: BiLM, file: BinaryIO, dtype: StoredDtype = "float32") -> None:
    """Write the HDF5 file of weights into an open binary file, array by array."""
    write_arrays(lambda: arrays(bilm), file, dtype)


def write_arrays(
    named: Callable[[], Iterable[tuple[str, Array]]], file: BinaryIO, dtype: StoredDtype = "float32"
) -> None:
    """Write float32 arrays by their names into an open file; `named` yields them, anew each time it is called.

    Raises:
        WeightsError: a value is too large for float16.
    """
    if dtype == "lossless":
        dtype = "float16" if all(_fits_float16(array) for _, array in named()) else "float32"
    with new_hdf5(file) as stored:
        for name, array in named():
            if dtype == "float16" and np.abs(array).max(initial=0) > np.finfo(np.float16).max:
                raise WeightsError(f"{name} has values too large for float16; write it as float32 or lossless")
            stored.add(name, array.astype(dtype, copy=False))


def _fits_float16(array: Array) -> bool:
    with np.errstate(over="ignore"):
        return bool((array.astype(np.float16) == array).all())


def write_whole(path: Path, write_to: Callable[[BinaryIO], object]) -> None:
    """Let `write_to` fill a file that appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("w+b") as file:
            write_to(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text; the file appears whole or not at all."""
    write_whole(path, lambda file: file.write(text.encode()))


def digest(bilm: BiLM, rounded: bool = False) -> str:
    """SHA-256 over the architecture and the float32 arrays in order of names, whatever the file they came from; of a
    word-input biLM, over its vocabulary too, and of a model of ELMoForManyLangs, over its lexicons.

    rounded: over the arrays in float16, which a reduced precision does not change.
    """
    sha = hashlib.sha256()
    architecture = {key: value for key, value in bilm.options.to_dict().items() if key not in bilm.options.training}
    sha.update(json.dumps(architecture, sort_keys=True).encode())
    if bilm.vocabulary:
        sha.update(json.dumps(bilm.vocabulary).encode())
    if bilm.lexicons:
        sha.update(json.dumps(lexicons_json.to_dict(bilm.lexicons), sort_keys=True).encode())
    for name, array in arrays(bilm):
        sha.update(f"{name}{list(array.shape)}".encode())
        with np.errstate(over="ignore"):
            sha.update((array.astype(np.float16) if rounded else array).tobytes())
    return sha.hexdigest()


def to_bytes(bilm: BiLM) -> bytes:
    """The weights file as bytes, lossless."""
    file = io.BytesIO()
    write_weights(bilm, file, "lossless")
    return file.getvalue()
