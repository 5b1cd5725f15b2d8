"""A model as ELMoForManyLangs stores it.

Its files are `config.json`, the network config that it names, `char.dic`, `word.dic`, `token_embedder.pkl` and
`encoder.pkl`. `classifier.pkl` is not read; no public model has one.

One table (`stored`) says where each tensor of the two pickles goes in the biLM. The LSTM gates i, f, g, o of the file
are i, f, o, g here. The forget bias stays in the bias. A highway carries its input by `1 - sigmoid(z)` there and by
`sigmoid(z)` here, so `z` changes its sign.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.bilm.lexicons import Lexicons
from spacy_elmo.bilm.options import CharCNNOptions, LSTMOptions, TokenEmbedderOptions
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.errors import OptionsError, WeightsError
from spacy_elmo.formats import beside, lexicons_json, state_dict
from spacy_elmo.formats.archive import File, Folder, read_options_of, read_whole, size_of
from spacy_elmo.formats.reader import Parts, Place
from spacy_elmo.support import strict_json
from spacy_elmo.support.messages import listed, quoted, reason

FORMAT = "ELMoForManyLangs"
EMBEDDER, ENCODER = "token_embedder.pkl", "encoder.pkl"
CONFIG, WORDS, CHARACTERS = "config.json", "word.dic", "char.dic"

# The network config of all public models, which their archives lack, and the two names that the package has for it.
PUBLIC_CONFIGS = ("cnn_50_100_512_4096_sample.json", "cnn_0_100_512_4096_sample.json")
PUBLIC_CONFIG: dict[str, Any] = {
    "encoder": {"name": "elmo", "projection_dim": 512, "cell_clip": 3, "proj_clip": 3, "dim": 4096, "n_layers": 2},
    "token_embedder": {
        "name": "cnn",
        "activation": "relu",
        "filters": [[1, 32], [2, 32], [3, 64], [4, 128], [5, 256], [6, 512], [7, 1024]],
        "n_highway": 2,
        "word_dim": 100,
        "char_dim": 50,
        "max_characters_per_token": 50,
    },
    "classifier": {"name": "sampled_softmax", "n_samples": 8192},
    "dropout": 0.1,
}

_FRAME = 2**20  # most bytes of a pickle without its numbers

Part = tuple[Tensor, float]  # part of a parameter, in the layout of the file, and its sign there


def find(place: Place) -> "ManyLangsFiles | None":
    """See `reader.Find`. Naming one of the two pickles means the folder that contains it."""
    if place.file is None:
        is_here = EMBEDDER in place.names or ENCODER in place.names
    else:
        is_here = place.file.name in (EMBEDDER, ENCODER) and place.file.is_file()
    return ManyLangsFiles(place.folder, place.options, FORMAT + place.container) if is_here else None


@dataclass(frozen=True)
class ManyLangsFiles:
    """Reads such a model; see `reader.Reader`."""

    folder: Folder
    named_options: Path | None
    format: str

    @property
    def weights_bytes(self) -> int:
        """Size of the two pickles."""
        return sum(size_of(file) for name in (EMBEDDER, ENCODER) if (file := self.folder / name).is_file())

    def options(self) -> BiLMOptions:
        """Read the network config, see `read_options`."""
        return read_options(self.folder) if self.named_options is None else BiLMOptions.from_file(self.named_options)

    def card(self) -> dict[str, Any]:
        """Read `model_card.json`."""
        return beside.read_card(self.folder)

    def vocabulary(self) -> None:
        """Return None: there is no softmax, so its words are unknown."""
        return

    def bilm(self, parts: Parts) -> BiLM:
        """Read dictionaries and pickles, see `read`."""
        return read(self.folder, parts.options, parts.card)

    def why_no_softmax(self) -> str:
        """Say that there never is a softmax."""
        return (
            f"{self.folder}: an ELMoForManyLangs model can embed words, but not predict them: its softmax "
            "(classifier.pkl) is not read, and no public model has one"
        )

    def softmax(self, n_words: int, projection_dim: int) -> Softmax:
        """Raise an error: there is no softmax."""
        raise WeightsError(self.why_no_softmax())


def read_options(folder: Folder) -> BiLMOptions:
    """Read the network config that `config.json` names.

    It is looked for at that path in the folder, then in the folder itself, then among the two built-in names.

    Raises:
        OptionsError: one of the two files is missing or wrong, or the network is not a biLM.
    """
    config = _read_json(folder / CONFIG, "the arguments of a training, which name the network config")
    named = config.get("config_path")
    if not isinstance(named, str) or not named:
        raise OptionsError(
            f"{folder / CONFIG}: config_path is {quoted(named)}, expected the name of the network config"
        )
    path = PurePosixPath(named.replace("\\", "/"))
    leads_out = path.is_absolute() or ".." in path.parts or ":" in named
    for file in (folder / path.name,) if leads_out else (folder / str(path), folder / path.name):
        if _is_file(file):
            return BiLMOptions.from_dict(_read_json(file, "the network config"), str(file))
    if path.name in PUBLIC_CONFIGS:
        return BiLMOptions.from_dict(PUBLIC_CONFIG, path.name)
    raise OptionsError(
        f"{folder / CONFIG}: config_path is {quoted(named)}, and {quoted(path.name)} is not there; copy the "
        "network config of this name, with which the model was trained, into this folder"
    )


def read_lexicons(folder: Folder, options: TokenEmbedderOptions) -> Lexicons:
    """Read the dictionaries that a model with these options needs, and check every entry.

    Raises:
        WeightsError: one is missing, not UTF-8, or not a dictionary.
    """
    return Lexicons(
        read_dictionary(folder / WORDS) if options.word_dim else None,
        read_dictionary(folder / CHARACTERS) if options.char_cnn else None,
    )


def read_dictionary(file: File) -> list[str]:
    """Return the entries in the order of their ids. Each line of the file has an entry, a tab and its id, in any order.

    A line with only an id is the entry U+3000, as in the original, which stripped the whitespace.

    Raises:
        WeightsError: the file is missing or not UTF-8, a line has another form, an entry or id occurs twice, or the ids
            do not run from 0 to the number of entries minus one.
    """
    try:
        lines = read_whole(file, lexicons_json.MOST_BYTES).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise WeightsError(f"{file}: the dictionary is not UTF-8 ({error})") from None
    seen: set[str] = set()
    entries: list[str | None] = [None] * len(lines)
    for number, line in enumerate(lines, start=1):
        parts = line.strip().split("\t")
        entry, text = parts if len(parts) == 2 else ("\u3000", parts[0])
        if len(parts) > 2 or not text.isascii() or not text.isdigit() or len(text) > 9:
            raise WeightsError(f"{file}: line {number} is {quoted(line)}, expected an entry, a tab and its id")
        row = int(text)
        if row >= len(lines):
            raise WeightsError(
                f"{file}: line {number} has the id {row}, but with {len(lines):,} lines ids end at {len(lines) - 1}"
            )
        if entries[row] is not None or entry in seen:
            twice = f"the id {row}" if entries[row] is not None else f"the entry {quoted(entry)}"
            raise WeightsError(f"{file}: line {number} has {twice}, which an earlier line also has")
        seen.add(entry)
        entries[row] = entry
    return [entry for entry in entries if entry is not None]


@dataclass(frozen=True)
class Stored:
    """A tensor of a pickle.

    file, key: where it is; shape: in the file.
    parts: the parts of a biLM's parameters that it fills, one after the other along its first axis.
    """

    file: str
    key: str
    shape: tuple[int, ...]
    parts: Callable[[Any], Sequence[Part]]


def stored(options: BiLMOptions, lexicons: Lexicons) -> Iterator[Stored]:
    """Yield every tensor of the two pickles. options: of an ELMoForManyLangs model."""
    embedder, lstm = options.token_embedder, options.lstm
    assert embedder is not None
    if lexicons.words is not None:
        shape = len(lexicons.words), embedder.word_dim
        yield Stored(EMBEDDER, "word_emb_layer.embedding.weight", shape, _whole(lambda b: b.embedder.words.weight))
    if embedder.char_cnn is not None and lexicons.characters is not None:
        yield from _stored_cnn(embedder.char_cnn, len(lexicons.characters))
    shape = lstm.projection_dim, embedder.n_features
    yield Stored(EMBEDDER, "projection.weight", shape, _whole(lambda b: b.embedder.projection.weight.t()))
    yield Stored(EMBEDDER, "projection.bias", shape[:1], _whole(lambda b: b.embedder.projection.bias))
    for direction in (0, 1):
        for layer in range(lstm.n_layers):
            yield from _stored_lstm(lstm, direction, layer)


def _stored_cnn(cnn: CharCNNOptions, n_characters: int) -> Iterator[Stored]:
    shape = n_characters, cnn.embedding_dim
    yield Stored(EMBEDDER, "char_emb_layer.embedding.weight", shape, _whole(lambda b: b.embedder.char_cnn.embedding))
    for i, (size, number) in enumerate(cnn.filters):
        yield Stored(
            EMBEDDER,
            f"convolutions.{i}.weight",
            (number, cnn.embedding_dim, size),
            _whole(_filter_of(i, size)),
        )
        yield Stored(EMBEDDER, f"convolutions.{i}.bias", (number,), _whole(_bias_of(i)))
    n = cnn.n_filters
    for i in range(cnn.n_highway):
        yield Stored(EMBEDDER, f"highways._layers.{i}.weight", (2 * n, n), _highway_of(i, "weight"))
        yield Stored(EMBEDDER, f"highways._layers.{i}.bias", (2 * n,), _highway_of(i, "bias"))


def _filter_of(number: int, size: int) -> Callable[[Any], Tensor]:
    return lambda bilm: bilm.embedder.char_cnn.filters[number].unflatten(0, (size, -1)).permute(2, 1, 0)


def _bias_of(number: int) -> Callable[[Any], Tensor]:
    return lambda bilm: bilm.embedder.char_cnn.biases[number]


def _highway_of(number: int, kind: str) -> Callable[[Any], list[Part]]:
    def parts(bilm: Any) -> list[Part]:
        highway = bilm.embedder.char_cnn.highways[number]
        transform, carry = getattr(highway, f"transform_{kind}"), getattr(highway, f"carry_{kind}")
        return [(transform.t(), 1), (carry.t(), -1)]

    return parts


def _stored_lstm(lstm: LSTMOptions, direction: int, number: int) -> Iterator[Stored]:
    name = f"{('forward', 'backward')[direction]}_layer_{number}"
    width, dim = lstm.projection_dim, lstm.dim

    def gates(find: Callable[[Any], Tensor]) -> Callable[[Any], list[Part]]:
        def parts(bilm: Any) -> list[Part]:
            i, f, o, g = find(bilm.layers[number]).chunk(4)
            return [(i, 1), (f, 1), (g, 1), (o, 1)]

        return parts

    inputs = gates(lambda layer: layer.weight[direction, :width].t())
    hidden = gates(lambda layer: layer.weight[direction, width:].t())
    bias = gates(lambda layer: layer.bias[direction])
    projection = _whole(lambda bilm: bilm.layers[number].projection[direction].t())
    yield Stored(ENCODER, f"{name}.input_linearity.weight", (4 * dim, width), inputs)
    yield Stored(ENCODER, f"{name}.state_linearity.weight", (4 * dim, width), hidden)
    yield Stored(ENCODER, f"{name}.state_linearity.bias", (4 * dim,), bias)
    yield Stored(ENCODER, f"{name}.state_projection.weight", (width, dim), projection)


def _whole(find: Callable[[Any], Tensor]) -> Callable[[Any], list[Part]]:
    return lambda bilm: [(find(bilm), 1)]


@torch.inference_mode(False)  # parameters made in inference mode cannot be trained, and changes to them go unseen
@torch.no_grad()
def read(folder: Folder, options: BiLMOptions, card: dict[str, Any] | None = None) -> BiLM:
    """Read the dictionaries and both pickles into a frozen biLM in evaluation mode.

    Every tensor is checked against the options and dictionaries before memory is allocated for the model.

    Raises:
        WeightsError: a file is missing, damaged or hostile, or does not fit the others.
    """
    if options.token_embedder is None:
        raise OptionsError(f"{folder}: an ELMoForManyLangs model, but the options belong to another kind of model")
    lexicons = lexicons_json.checked(options, read_lexicons(folder, options.token_embedder), str(folder))
    assert lexicons is not None
    wanted = list(stored(options, lexicons))
    states = {}
    for name in (EMBEDDER, ENCODER):
        own = [tensor for tensor in wanted if tensor.file == name]
        _check_size(folder / name, own)
        states[name] = state_dict.read(folder / name)
        _check_tensors(states[name], own, folder / name)
    bilm = BiLM(options, None, card, seed=None, lexicons=lexicons).requires_grad_(False)
    for tensor in wanted:  # free each tensor once it is copied, to avoid holding the model twice
        _fill(tensor.parts(bilm), states[tensor.file].pop(tensor.key), f"{folder / tensor.file}: {tensor.key}")
    return bilm.eval()


def _check_size(file: File, tensors: Sequence[Stored]) -> None:
    """Refuse a file before it is read if its size is far from what the options and dictionaries require."""
    if not file.is_file():
        raise WeightsError(f"{file}: no such file; an ELMoForManyLangs model has {EMBEDDER} and {ENCODER}")
    found, expected = size_of(file), sum(4 * math.prod(tensor.shape) for tensor in tensors)
    if expected > 2 * found + _FRAME or found > 2 * expected + _FRAME:
        raise WeightsError(
            f"{file}: {found:,} bytes, but the network config and the dictionaries expect {expected:,}; do they belong "
            "together?"
        )


def _check_tensors(state: Mapping[str, Tensor], tensors: Sequence[Stored], file: File) -> None:
    for tensor in tensors:
        found = state.get(tensor.key)
        if found is None:
            raise WeightsError(f"{file}: no tensor {tensor.key!r}, which the network config expects")
        if tuple(found.shape) != tensor.shape or found.dtype != torch.float32:
            kind = str(found.dtype).removeprefix("torch.")
            raise WeightsError(
                f"{file}: {tensor.key} is {kind} {list(found.shape)}, but the network config and the dictionaries "
                f"expect float32 {list(tensor.shape)}; do they belong together?"
            )
    if surplus := sorted(set(state) - {tensor.key for tensor in tensors}):
        raise WeightsError(f"{file}: the network config has no place for {listed(surplus)}")


def _fill(parts: Sequence[Part], tensor: Tensor, source: str) -> None:
    if not torch.isfinite(tensor).all():
        raise WeightsError(f"{source} contains NaN or infinite values, so the model is unusable")
    for (part, sign), values in zip(parts, tensor.split([len(part) for part, _ in parts]), strict=True):
        part.copy_(values).mul_(sign)


def _is_file(file: File) -> bool:
    try:
        return file.is_file()
    except (OSError, ValueError):  # not a valid file name
        return False


def _read_json(file: File, what: str) -> dict[str, Any]:
    try:
        content = strict_json.parse(read_options_of(file))
    except ValueError as error:
        if isinstance(error, OptionsError):
            raise
        raise OptionsError(f"{file}: cannot be read as JSON ({reason(error)}); expected {what}") from None
    if not isinstance(content, dict):
        raise OptionsError(f"{file}: expected a JSON object with {what}")
    return content
