"""The architecture of a biLM: reads and validates `options.json`.

The keys are those of bilm-tf (`bilm/model.py`, `bilm/training.py`) and AllenNLP (`modules/elmo.py`), or those of the
network configs of ELMoForManyLangs (`elmoformanylangs/configs/`), which have `encoder` instead of `lstm`.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from spacy_elmo.bilm.characters import N_CHARACTERS
from spacy_elmo.errors import OptionsError
from spacy_elmo.support import strict_json
from spacy_elmo.support.messages import listed, quoted, reason

Activation = Literal["relu", "tanh"]

# What bilm-tf's training stores in addition to the architecture. Other trainers add their own keys at this level.
TRAINING_NUMBERS = (
    "all_clip_norm_val",
    "batch_size",
    "dropout",
    "learning_rate",
    "n_epochs",
    "n_negative_samples_batch",
    "n_tokens_vocab",
    "n_train_tokens",
    "unroll_steps",
)
TRAINING_SWITCHES = ("sample_softmax", "share_embedding_softmax")
ARCHITECTURE_KEYS = ("bidirectional", "char_cnn", "lstm")
_MOST_BYTES = 2**22  # of the file
_MOST_KEYS = 1000
_MOST_SIZE = 2**24  # of a vector
_MOST_LAYERS = _MOST_FILTERS = 1000
_MOST_CHARACTERS = 2**40  # of a token; a large number takes no memory
_LEAST_CHARACTERS = 7  # of a token in ELMoForManyLangs: `<bos>` with its two borders


@dataclass(frozen=True)
class CharCNNOptions:
    """Character CNN: one `(width, number)` pair for each set of filters (Kim et al. 2016)."""

    filters: tuple[tuple[int, int], ...]
    embedding_dim: int = 16
    activation: Activation = "relu"
    n_highway: int = 0
    max_characters_per_token: int = 50

    @property
    def n_filters(self) -> int:
        """Width of the vector after the convolutions."""
        return sum(number for _, number in self.filters)


@dataclass(frozen=True)
class TokenEmbedderOptions:
    """Token embedder of ELMoForManyLangs: word vectors and a character CNN side by side, or only one of the two.

    word_dim: width of a word vector; 0 for none.
    char_cnn: over code points; None if no characters are read.
    max_characters: a longer token is cut so that it fits with its two borders, also before its word is looked up; None
        for no limit.
    """

    word_dim: int
    char_cnn: CharCNNOptions | None
    max_characters: int | None

    @property
    def n_features(self) -> int:
        """Width of the input of the projection."""
        return self.word_dim + (self.char_cnn.n_filters if self.char_cnn else 0)


@dataclass(frozen=True)
class LSTMOptions:
    """Stacked LSTM of one direction. Both directions have the same options. A clip of None means no clip.

    forget_bias: added to the bias of the forget gate: 1 in bilm-tf; 0 if the bias in the file includes it.
    always_projects: whether outputs are projected even if dim equals projection_dim.
    """

    dim: int
    projection_dim: int
    n_layers: int = 1
    cell_clip: float | None = None
    proj_clip: float | None = None
    use_skip_connections: bool = False
    forget_bias: float = 1.0
    always_projects: bool = False


@dataclass(frozen=True)
class BiLMOptions:
    """Architecture of a biLM. A model of ELMoForManyLangs has `token_embedder`. Other models that read characters have
    `char_cnn`. Without both, the biLM reads whole words.

    `training` has everything else at the top level of the file (batch size, dropout, ...). It does not change
    activations, and is kept as it is.
    """

    lstm: LSTMOptions
    char_cnn: CharCNNOptions | None
    training: Mapping[str, Any] = field(default_factory=dict, compare=False)
    token_embedder: TokenEmbedderOptions | None = None

    @property
    def width(self) -> int:
        """Width of one layer: forward and backward projection side by side."""
        return 2 * self.lstm.projection_dim

    @property
    def n_outputs(self) -> int:
        """Number of layers to return: the token embedding and every LSTM layer."""
        return self.lstm.n_layers + 1

    @classmethod
    def from_file(cls, path: str | Path) -> "BiLMOptions":
        """Read an options.json.

        Raises:
            OptionsError: the file is missing, is not JSON, lacks a key or has a wrong value.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                content = file.read(_MOST_BYTES + 1)
        except FileNotFoundError:
            raise OptionsError(f"{path}: no such options file (expected bilm-tf's options.json)") from None
        except OSError as error:
            raise OptionsError(f"{path}: cannot be read as an options file ({error})") from None
        return cls.from_json(content, source=str(path))

    @classmethod
    def from_json(cls, content: bytes, source: str) -> "BiLMOptions":
        """Read the content of an options.json. `source` names it in errors.

        Raises:
            OptionsError: it is not JSON, lacks a key or has a wrong value.
        """
        if len(content) > _MOST_BYTES:
            raise OptionsError(f"{source}: more than {_MOST_BYTES:,} bytes, too long for options")
        try:
            data = strict_json.parse(content)
        except ValueError as error:
            raise OptionsError(f"{source}: not valid JSON ({reason(error)}); expected bilm-tf's options.json") from None
        return cls.from_dict(data, source)

    @classmethod
    def from_dict(cls, data: Any, source: str = "options") -> "BiLMOptions":
        """Validate the content of an options.json, or of a network config of ELMoForManyLangs. `source` names it in
        errors.

        Raises:
            OptionsError: a key is missing or unknown, a value is wrong or could not be saved again, or the network is
                not a biLM.
        """
        top = _Section(data, source)
        if top.has("encoder") and not top.has("lstm"):
            return _parse_network(top)
        lstm = _parse_lstm(top.section("lstm"))
        char_cnn = _parse_char_cnn(top.section("char_cnn")) if top.has("char_cnn") else None
        if not top.boolean("bidirectional", True):
            raise OptionsError(f"{source}: bidirectional is false, but ELMo needs both directions of the biLM")
        return cls(lstm=lstm, char_cnn=char_cnn, training=_parse_training(top))

    def to_dict(self) -> dict[str, Any]:
        """Return the content of an options.json that bilm-tf and AllenNLP read for inference. For a model of
        ELMoForManyLangs, return the content of its network config."""
        if self.token_embedder is not None:
            return {**_network_config(self.lstm, self.token_embedder), **self.training}
        lstm = self.lstm
        data: dict[str, Any] = {
            "bidirectional": True,
            "lstm": {
                "cell_clip": lstm.cell_clip,
                "dim": lstm.dim,
                "n_layers": lstm.n_layers,
                "proj_clip": lstm.proj_clip,
                "projection_dim": lstm.projection_dim,
                "use_skip_connections": lstm.use_skip_connections,
            },
        }
        if self.char_cnn is not None:
            cnn = self.char_cnn
            data["char_cnn"] = {
                "activation": cnn.activation,
                "embedding": {"dim": cnn.embedding_dim},
                "filters": [list(pair) for pair in cnn.filters],
                "max_characters_per_token": cnn.max_characters_per_token,
                "n_characters": N_CHARACTERS,
                "n_highway": cnn.n_highway,
            }
        return {**data, **self.training}


def _parse_lstm(section: "_Section") -> LSTMOptions:
    options = LSTMOptions(
        dim=section.integer("dim"),
        projection_dim=section.integer("projection_dim"),
        n_layers=section.integer("n_layers", 1, most=_MOST_LAYERS),
        cell_clip=section.clip("cell_clip"),
        proj_clip=section.clip("proj_clip"),
        use_skip_connections=section.boolean("use_skip_connections", False),
    )
    section.finish()
    if options.projection_dim > options.dim:
        raise OptionsError(
            f"{section.source}: projection_dim {options.projection_dim} is larger than dim {options.dim}; "
            "expected a smaller one, or the same for no projection"
        )
    return options


def _parse_char_cnn(section: "_Section") -> CharCNNOptions:
    embedding = section.section("embedding")
    embedding_dim = embedding.integer("dim")
    embedding.finish()
    n_characters = section.integer("n_characters", N_CHARACTERS)
    if n_characters not in (N_CHARACTERS - 1, N_CHARACTERS):  # training writes 261, inference needs 262
        raise OptionsError(f"{section.source}: n_characters is {n_characters}, expected 262 (or 261 from training)")
    options = _char_cnn(section, embedding_dim, section.max_characters(50, least=3))
    section.finish()
    return options


def _char_cnn(section: "_Section", embedding_dim: int, max_characters: int) -> CharCNNOptions:
    """Read the keys that both families of options have."""
    options = CharCNNOptions(
        filters=section.filters("filters"),
        embedding_dim=embedding_dim,
        activation=section.choice("activation", ("relu", "tanh")),
        n_highway=section.integer("n_highway", 0, least=0, most=_MOST_LAYERS),
        max_characters_per_token=max_characters,
    )
    widest = max(width for width, _ in options.filters)
    if widest > max_characters:
        raise OptionsError(
            f"{section.source}: a filter of width {widest} does not fit into max_characters_per_token {max_characters}"
        )
    return options


def _parse_network(top: "_Section") -> BiLMOptions:
    """Read a network config of ELMoForManyLangs."""
    encoder, embedder = top.section("encoder"), top.section("token_embedder")
    _check_rest(top)
    return BiLMOptions(_parse_encoder(encoder), None, top.data, _parse_token_embedder(embedder))


def _parse_encoder(section: "_Section") -> LSTMOptions:
    if section.name("name", ("elmo", "lstm")) == "lstm":
        raise OptionsError(
            f'{section.source}: name is "lstm", a network whose second layer reads both directions: it is not a biLM, '
            'and has no layers to mix; expected the encoder "elmo"'
        )
    options = LSTMOptions(
        dim=section.integer("dim"),
        projection_dim=section.integer("projection_dim"),
        n_layers=section.integer("n_layers", most=_MOST_LAYERS),
        cell_clip=section.clip("cell_clip"),
        proj_clip=section.clip("proj_clip"),
        use_skip_connections=True,
        forget_bias=0.0,
        always_projects=True,
    )
    section.finish("ELMoForManyLangs does not have")
    return options


def _parse_token_embedder(section: "_Section") -> TokenEmbedderOptions:
    kind = section.name("name", ("cnn", "lstm"))
    word_dim, char_dim = section.integer("word_dim", least=0), section.integer("char_dim", least=0)
    if not word_dim and not char_dim:
        raise OptionsError(f"{section.source}: word_dim and char_dim are both 0, so the model would read nothing")
    if kind == "lstm" and char_dim:
        raise OptionsError(
            f'{section.source}: name is "lstm" with char_dim {char_dim}, which ELMoForManyLangs itself cannot run; '
            'expected char_dim 0, or the name "cnn"'
        )
    most = section.max_characters(least=_LEAST_CHARACTERS) if kind == "cnn" else None
    char_cnn = _char_cnn(section, char_dim, most) if char_dim and most else None
    for unused in ("activation", "filters", "n_highway", "max_characters_per_token"):
        section.take(unused, None)
    section.finish("ELMoForManyLangs does not have")
    return TokenEmbedderOptions(word_dim, char_cnn, most)


def _network_config(lstm: LSTMOptions, embedder: TokenEmbedderOptions) -> dict[str, Any]:
    """Return the sections of a network config of ELMoForManyLangs, without what the network does not use."""
    encoder = {
        "cell_clip": lstm.cell_clip or 0,
        "dim": lstm.dim,
        "n_layers": lstm.n_layers,
        "name": "elmo",
        "proj_clip": lstm.proj_clip or 0,
        "projection_dim": lstm.projection_dim,
    }
    cnn = embedder.char_cnn
    section: dict[str, Any] = {
        "char_dim": cnn.embedding_dim if cnn else 0,
        "name": "lstm" if embedder.max_characters is None else "cnn",
        "word_dim": embedder.word_dim,
    }
    if cnn is not None:
        filters = [list(pair) for pair in cnn.filters]
        section |= {"activation": cnn.activation, "filters": filters, "n_highway": cnn.n_highway}
    if embedder.max_characters is not None:
        section["max_characters_per_token"] = embedder.max_characters
    return {"encoder": encoder, "token_embedder": section}


def _check_rest(top: "_Section") -> None:
    """Check that what is kept as it is can be saved again."""
    for key, value in top.data.items():
        try:
            strict_json.check({key: value})
        except ValueError as error:
            raise OptionsError(f"{top.source}: {quoted(key)}: {error}; remove it from the options") from None


def _parse_training(top: "_Section") -> dict[str, Any]:
    _check_rest(top)
    for key, value in top.data.items():
        if key in TRAINING_NUMBERS and not _is_number(value):
            raise OptionsError(f"{top.source}: {key} is {quoted(value)}, expected a number of at least 0")
        if key in TRAINING_SWITCHES and not isinstance(value, bool):
            raise OptionsError(f"{top.source}: {key} is {quoted(value)}, expected true or false")
        if meant := difflib.get_close_matches(key, ARCHITECTURE_KEYS, n=1, cutoff=0.75):
            raise OptionsError(f"{top.source}: unknown key {quoted(key)}; did you mean {meant[0]!r}?")
    return top.data


_MISSING = object()


class _Section:
    """One JSON object. Each key that is read is removed, so that the rest is unknown. null means absent."""

    def __init__(self, data: Any, source: str) -> None:
        if not isinstance(data, dict):
            raise OptionsError(f"{source}: expected a JSON object, got {type(data).__name__}")
        if len(data) > _MOST_KEYS:
            raise OptionsError(f"{source}: {len(data):,} keys, expected at most {_MOST_KEYS:,}")
        self.data = {key: value for key, value in data.items() if value is not None}
        self.source = source

    def has(self, key: str) -> bool:
        return key in self.data

    def take(self, key: str, default: Any = _MISSING) -> Any:
        value = self.data.pop(key, default)
        if value is _MISSING:
            raise OptionsError(f"{self.source}: the key {key!r} is missing")
        return value

    def section(self, key: str) -> "_Section":
        return _Section(self.take(key), f"{self.source}: {key}")

    def integer(self, key: str, default: Any = _MISSING, least: int = 1, most: int = _MOST_SIZE) -> int:
        value = self.take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise OptionsError(f"{self.source}: {key} is {quoted(value)}, expected a whole number of at least {least}")
        if value > most:
            raise OptionsError(f"{self.source}: {key} is {quoted(value)}, expected at most {most:,}")
        return value

    def max_characters(self, default: Any = _MISSING, *, least: int) -> int:
        return self.integer("max_characters_per_token", default, least, _MOST_CHARACTERS)

    def clip(self, key: str) -> float | None:
        value = self.take(key, 0)
        if not _is_number(value):
            raise OptionsError(
                f"{self.source}: {key} is {quoted(value)}, expected a positive number, or 0 or null for none"
            )
        return float(value) or None

    def boolean(self, key: str, default: bool) -> bool:
        value = self.take(key, default)
        if not isinstance(value, bool):
            raise OptionsError(f"{self.source}: {key} is {quoted(value)}, expected true or false")
        return value

    def choice(self, key: str, choices: tuple[Any, ...]) -> Any:
        value = self.take(key)
        if value not in choices:
            raise OptionsError(f"{self.source}: {key} is {quoted(value)}, expected one of {', '.join(choices)}")
        return value

    def name(self, key: str, choices: tuple[str, ...]) -> str:
        """Return one of the choices, in upper or lower case."""
        value = self.take(key)
        self.data[key] = value.lower() if isinstance(value, str) else value
        return str(self.choice(key, choices))

    def filters(self, key: str) -> tuple[tuple[int, int], ...]:
        value = self.take(key)
        if not isinstance(value, list) or not value or not all(_is_filter(pair) for pair in value):
            raise OptionsError(f"{self.source}: {key} is {quoted(value)}, expected a list of [width, number] pairs")
        if len(value) > _MOST_FILTERS:
            raise OptionsError(f"{self.source}: {key} has {len(value):,} pairs, expected at most {_MOST_FILTERS:,}")
        return tuple((pair[0], pair[1]) for pair in value)

    def finish(self, who: str = "neither bilm-tf nor AllenNLP has") -> None:
        if self.data:
            unknown = listed(sorted(map(quoted, self.data)))
            raise OptionsError(f"{self.source}: unknown key {unknown}, which {who} here")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e30


def _is_filter(pair: Any) -> bool:
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(n, int) and not isinstance(n, bool) and 0 < n <= _MOST_SIZE for n in pair)
    )
