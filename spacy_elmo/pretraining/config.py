"""Read and check `pretrain.cfg`: flat sections of JSON values, which thinc's config and configparser can both read."""

import configparser
import dataclasses
import difflib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from spacy_elmo.bilm import BiLMOptions
from spacy_elmo.errors import OptionsError, PretrainingError
from spacy_elmo.support.messages import quoted, reason, shown
from spacy_elmo.support.paths import path_of

Size = Literal["xs", "sm", "md", "original"]
_MOST = 2**62  # limit of any number
_FILTERS = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))


def setting(default: Any, about: str) -> Any:
    """Declare a setting with its default and its comment in a written config."""
    return field(default=default, metadata={"about": about})


@dataclass(frozen=True)
class ModelConfig:
    """The architecture; names as in options.json, defaults of size sm."""

    dim: int = setting(1024, "cells of an LSTM")
    projection_dim: int = setting(128, "width of one direction; vectors are twice as wide")
    n_layers: int = setting(2, "LSTM layers")
    cell_clip: float | None = setting(3.0, "limit of the cells: +/- this; null: no limit")
    proj_clip: float | None = setting(3.0, "the same for projections")
    use_skip_connections: bool = setting(True, "add a layer's input to its output, from the second layer on")
    filters: tuple[tuple[int, int], ...] = setting(_FILTERS[:6], "character CNN: [width in bytes, number]")
    embedding_dim: int = setting(16, "width of a character's vector")
    activation: Literal["relu", "tanh"] = setting("relu", "after the convolutions")
    n_highway: int = setting(1, "highway layers")
    max_characters_per_token: int = setting(50, "bytes of a word, with its two borders; the rest is cut off")

    def options(self) -> BiLMOptions:
        """Return these settings as the options of a biLM.

        Raises:
            OptionsError: the values do not fit together.
        """
        values = dataclasses.asdict(self)
        cnn = {key: values.pop(key) for key in ("activation", "n_highway", "max_characters_per_token")}
        cnn["filters"] = [list(pair) for pair in values.pop("filters")]
        cnn["embedding"] = {"dim": values.pop("embedding_dim")}
        return BiLMOptions.from_dict({"lstm": values, "char_cnn": cnn}, "[model]")

    @classmethod
    def of(cls, options: BiLMOptions, source: str) -> "ModelConfig":
        """Return the architecture of a biLM; `source` names it in errors.

        Raises:
            PretrainingError: the biLM doesn't have bilm-tf's character CNN.
        """
        if options.char_cnn is None:
            what = "is a model of ELMoForManyLangs" if options.token_embedder else "reads whole words"
            raise PretrainingError(f"{source}: {what}; only biLMs with bilm-tf's character CNN can be pretrained")
        values = dataclasses.asdict(options.lstm) | dataclasses.asdict(options.char_cnn)
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})


@dataclass(frozen=True)
class CorpusConfig:
    """What to read in addition to the corpus, and how."""

    vocabulary: str | None = setting(None, "vocab.txt; null: the one next to the corpus, or else made from the corpus")
    min_count: int = setting(3, "if made from the corpus: lowest count of a word")
    max_size: int | None = setting(None, "if made from the corpus: largest number of words")
    heldout: str | None = setting(None, "text to evaluate on; null: heldout/ next to the corpus, if there is one")
    shuffle: bool = setting(True, "documents in a new order in each epoch")


@dataclass(frozen=True)
class TrainingConfig:
    """The objective and the length of the training; names as in bilm-tf's options."""

    n_epochs: float = setting(10.0, "passes over the corpus")
    max_steps: int | None = setting(None, "stop after this many steps, whatever n_epochs says")
    batch_size: int = setting(128, "rows per process")
    unroll_steps: int = setting(20, "words that a row reads per step")
    n_negative_samples_batch: int = setting(4096, "words drawn for the sampled softmax; 0: full softmax")
    dropout: float = setting(0.1, "on the inputs of each LSTM layer and on the last output")
    reset: Literal["batch", "sentence"] = setting("sentence", "where rows may return to zero state")
    reset_probability: float = setting(0.1, "how often they do; with 0, the model is worse from zero state")
    average_decay: float | None = setting(
        None, "evaluate and write the moving average of the weights with this decay, such as 0.999; null: the weights"
    )
    patience: int | None = setting(
        None, "end after this many evaluations without a better held-out perplexity; null: never"
    )
    seed: int = setting(0, "seed of everything random")
    device: str = setting("auto", '"cpu", "cuda", "cuda:1"')
    precision: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "float32", 'of matrix products in training; "auto": the fastest one on this hardware'
    )


@dataclass(frozen=True)
class OptimizerConfig:
    """Adagrad as in the original, or Adam and AdamW."""

    name: Literal["adagrad", "adam", "adamw"] = setting("adagrad", "")
    learning_rate: float = setting(0.2, "highest value")
    initial_accumulator: float = setting(1.0, "of Adagrad")
    beta1: float = setting(0.9, "of Adam")
    beta2: float = setting(0.999, "of Adam")
    weight_decay: float = setting(0.0, "of AdamW")
    clip_norm: float = setting(10.0, "limit of the global norm of the gradient (of unroll_steps times the loss)")
    warmup_steps: int = setting(0, "steps in which the learning rate rises to its highest value")
    decay: Literal["none", "linear", "cosine"] = setting("none", "how it then falls to zero at the last step")


@dataclass(frozen=True)
class LoggingConfig:
    """What to log, evaluate and save, and how often."""

    log_every: int = setting(50, "steps between lines of metrics.jsonl")
    checkpoint_minutes: float = setting(10.0, "time between checkpoints")
    evaluate_tokens: int | None = setting(50_000, "held-out words to evaluate on; null: all")
    evaluate_every: int | None = setting(None, "steps between evaluations; null: at the end of each epoch")
    tensorboard: bool = setting(False, "also write TensorBoard's files (needs the package tensorboard)")


@dataclass(frozen=True)
class Config:
    """All settings of a pretraining run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    def __post_init__(self) -> None:
        self.model.options()
        for section, key, least in _LEAST:
            if (value := getattr(getattr(self, section), key)) is not None and value < least:
                raise PretrainingError(f"[{section}] {key} is {value}, expected at least {least}")
        for section, key in _BELOW_ONE:
            if (value := getattr(getattr(self, section), key)) is not None and value >= 1:
                raise PretrainingError(f"[{section}] {key} is {value}, expected less than 1")
        if self.training.reset_probability > 1:
            raise PretrainingError(
                f"[training] reset_probability is {self.training.reset_probability}, expected 0 to 1"
            )

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], overrides: Mapping[str, str] | None = None) -> "Config":
        """Read a config file; settings that are not in it have their defaults.

        overrides: values as in the file, by `section.key`.

        Raises:
            PretrainingError: the file is missing or not a config, a section or key is unknown, or a value is wrong.
        """
        parser, path = configparser.ConfigParser(interpolation=None), path_of(path, "config", PretrainingError)
        try:
            parser.read_string(path.read_text(encoding="utf-8-sig"), str(path))
        except (OSError, UnicodeDecodeError, configparser.Error) as error:
            raise PretrainingError(f"{path}: cannot be read as a config ({reason(error)})") from None
        sections = {name: dict(parser[name]) for name in parser.sections()}
        return cls.from_strings(sections, overrides or {}, str(path))

    @classmethod
    def from_strings(
        cls, sections: Mapping[str, Mapping[str, str]], overrides: Mapping[str, str], source: str
    ) -> "Config":
        """Build a config from JSON values by section and key; see `from_file`."""
        merged = {name: dict(values) for name, values in sections.items()}
        for name, value in overrides.items():
            section, dot, key = name.partition(".")
            if not dot:
                raise PretrainingError(f"--{name}: expected --section.key, such as --training.batch_size")
            merged.setdefault(section, {})[key] = value
        hints = get_type_hints(cls)
        for name in merged:
            _known(name, hints, f"{source}: section")
        parsed = {name: _parse_section(hints[name], values, f"{source}: [{name}]") for name, values in merged.items()}
        try:
            return cls(**parsed)
        except OptionsError as error:
            raise PretrainingError(f"{source}: {error}") from None

    @classmethod
    def of_size(cls, size: Size) -> "Config":
        """Return the settings for a size of model, from xs (for experiments) to the original's."""
        models: dict[str, ModelConfig] = {
            "xs": ModelConfig(256, 32, filters=_FILTERS[:4]),
            "sm": ModelConfig(),
            "md": ModelConfig(2048, 256, filters=_FILTERS),
            "original": ModelConfig(4096, 512, filters=_FILTERS, n_highway=2),
        }
        samples = {"xs": 1024, "sm": 4096, "md": 8192, "original": 8192}
        return cls(models[size], training=TrainingConfig(n_negative_samples_batch=samples[size], precision="auto"))

    def text(self) -> str:
        """Return the content of a config file: every setting with a comment."""
        lines = ["# python -m spacy elmo pretrain CORPUS OUT --config THIS"]
        for section in dataclasses.fields(self):
            lines += ["", f"[{section.name}]"]
            values = getattr(self, section.name)
            for one in dataclasses.fields(values):
                about = one.metadata["about"]
                lines += [f"# {about}"] if about else []
                lines.append(f"{one.name} = {json.dumps(getattr(values, one.name))}")
        return "\n".join(lines) + "\n"


_LEAST = (
    ("corpus", "min_count", 1),
    ("corpus", "max_size", 4),
    ("training", "n_epochs", 0),
    ("training", "max_steps", 1),
    ("training", "batch_size", 1),
    ("training", "unroll_steps", 1),
    ("training", "n_negative_samples_batch", 0),
    ("training", "dropout", 0),
    ("training", "reset_probability", 0),
    ("training", "average_decay", 0),
    ("training", "patience", 1),
    ("training", "seed", 0),
    ("optimizer", "learning_rate", 0),
    ("optimizer", "initial_accumulator", 0),
    ("optimizer", "beta1", 0),
    ("optimizer", "beta2", 0),
    ("optimizer", "clip_norm", 0),
    ("optimizer", "weight_decay", 0),
    ("optimizer", "warmup_steps", 0),
    ("logging", "log_every", 1),
    ("logging", "checkpoint_minutes", 0),
    ("logging", "evaluate_tokens", 1),
    ("logging", "evaluate_every", 1),
)

_BELOW_ONE = (("training", "dropout"), ("training", "average_decay"), ("optimizer", "beta1"), ("optimizer", "beta2"))

Section = TypeVar("Section")


def _parse_section(section: type[Section], values: Mapping[str, str], source: str) -> Section:
    hints = get_type_hints(section)
    parsed = {}
    for key, text in values.items():
        _known(key, hints, source)
        try:
            value = json.loads(text, parse_constant=_no_number)
        except (ValueError, RecursionError):
            raise PretrainingError(f'{source} {key} is {shown(text)}, which is not JSON (write text "so")') from None
        parsed[key] = _convert(value, hints[key], f"{source} {key}", text)
    return section(**parsed)


def _no_number(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are Python's additions to JSON


def _known(name: str, names: Mapping[str, Any], source: str) -> None:
    if name not in names:
        meant = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {meant[0]!r}?" if meant else f"expected one of {', '.join(names)}"
        raise PretrainingError(f"{source}: unknown {quoted(name)}; {hint}")


def _convert(value: Any, hint: Any, source: str, text: str) -> Any:
    """Check a JSON value, written as `text`, against a type of the dataclasses above, and return it."""
    choices = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for kind in choices:
        if get_origin(kind) is Literal and value in get_args(kind) and isinstance(value, str):
            return value
        if get_origin(kind) is tuple and _is_filters(value):
            return tuple((width, number) for width, number in value)
        if kind is float and type(value) in (int, float) and abs(value) < _MOST:
            return float(value)
        if kind is int and type(value) is int and abs(value) < _MOST:
            return value
        if kind is str and isinstance(value, str) and _is_writable(value):
            return value
        if kind in (bool, type(None)) and type(value) is kind:
            return value
    raise PretrainingError(f"{source} is {shown(text)}, expected {_describe(choices)}")


def _is_writable(text: str) -> bool:
    """Return whether this can be a file name and a line of a config."""
    return "\0" not in text and text == text.encode("utf-8", "ignore").decode()


def _is_filters(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value)


def _describe(choices: tuple[Any, ...]) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    words = []
    for kind in choices:
        if get_origin(kind) is Literal:
            words += [json.dumps(value) for value in get_args(kind)]
        else:
            words.append(names.get(kind, "a list of [width, number] pairs"))
    return " or ".join(words)


def split_overrides(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Split `--section.key value` and `--section.key=value` from the other command line arguments.

    Returns the settings and the other arguments. A value that is not JSON is text.

    Raises:
        PretrainingError: a setting has no value.
    """
    overrides: dict[str, str] = {}
    others: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.partition("=")
        if not name.startswith("--") or "." not in name:
            others.append(argument)
            continue
        if not equals:
            if not rest:
                raise PretrainingError(f"{name}: the value is missing")
            value = rest.pop(0)
        overrides[name.removeprefix("--")] = value if _is_json(value) else json.dumps(value)
    return overrides, others


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
