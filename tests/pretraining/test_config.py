import configparser
import dataclasses
import json
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_elmo.errors import ElmoError, PretrainingError
from spacy_elmo.pretraining.config import (
    Config,
    CorpusConfig,
    LoggingConfig,
    ModelConfig,
    OptimizerConfig,
    TrainingConfig,
    split_overrides,
)

numbers = st.floats(0, 1e6, allow_nan=False)
configs = st.builds(
    Config,
    st.builds(
        ModelConfig,
        dim=st.integers(9, 99),
        projection_dim=st.integers(1, 9),
        cell_clip=st.none() | st.floats(0.1, 9),
        use_skip_connections=st.booleans(),
        filters=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4).map(tuple),
        activation=st.sampled_from(["relu", "tanh"]),
    ),
    st.builds(CorpusConfig, vocabulary=st.none() | st.text(st.characters(codec="utf-8"), max_size=20)),
    st.builds(TrainingConfig, n_epochs=numbers, max_steps=st.none() | st.integers(1, 10**9), seed=st.integers(0, 99)),
    st.builds(OptimizerConfig, name=st.sampled_from(["adagrad", "adam", "adamw"]), learning_rate=numbers),
    st.builds(LoggingConfig, tensorboard=st.booleans(), evaluate_tokens=st.none() | st.integers(1, 999)),
)


@settings(max_examples=20)
@given(configs)
def test_config_survives_its_file(tmp_path_factory, config):
    path = tmp_path_factory.getbasetemp() / "round.cfg"
    path.write_text(config.text(), encoding="utf-8")
    assert Config.from_file(path) == config


def test_a_config_saved_by_an_editor_of_windows_is_read(tmp_path):
    config = Config.of_size("xs")
    (tmp_path / "a.cfg").write_bytes(config.text().replace("\n", "\r\n").encode("utf-8-sig"))
    assert Config.from_file(tmp_path / "a.cfg") == config


def as_json(config):
    return json.loads(json.dumps(dataclasses.asdict(config)))


@settings(max_examples=20)
@given(configs)
def test_configparser_reads_the_same_values(config):
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(config.text())
    assert {name: {key: json.loads(value) for key, value in parser[name].items()} for name in parser.sections()} == (
        as_json(config)
    )


@pytest.mark.parametrize("size", ["xs", "sm", "md", "original"])
def test_thinc_reads_the_same_values(size):
    thinc = pytest.importorskip("thinc.api")
    config = Config.of_size(size)
    assert dict(thinc.Config().from_str(config.text(), interpolate=False)) == as_json(config)


@pytest.mark.parametrize("path", ["a b/vocab.txt", "50%/v.txt", "x;y#z", 'say "so"', "東京", "C:\\texts\\v", "a = b"])
def test_thinc_and_configparser_read_paths_with_odd_characters(path):
    thinc = pytest.importorskip("thinc.api")
    text = Config(corpus=CorpusConfig(vocabulary=path)).text()
    parser = configparser.ConfigParser()
    parser.read_string(text.replace("%", "%%"))
    assert json.loads(parser["corpus"]["vocabulary"]) == path
    assert thinc.Config().from_str(text, interpolate=False)["corpus"]["vocabulary"] == path


def test_every_size_is_filled_in_and_sizes_grow():
    sizes = [Config.of_size(size) for size in ("xs", "sm", "md", "original")]
    dims = [(config.model.dim, config.model.projection_dim) for config in sizes]
    assert dims == sorted(dims)
    assert dims[1] == (1024, 128)
    assert dims[3] == (4096, 512)
    for config in sizes:
        parser = configparser.ConfigParser()
        parser.read_string(config.text())
        for section in dataclasses.fields(Config):
            assert set(parser[section.name]) == {one.name for one in dataclasses.fields(section.default_factory)}


def test_original_size_is_that_of_the_original():
    model = Config.of_size("original").model
    options = model.options()
    assert (options.char_cnn.n_filters, options.char_cnn.n_highway, options.lstm.n_layers) == (2048, 2, 2)
    assert (options.lstm.cell_clip, options.lstm.proj_clip, options.lstm.use_skip_connections) == (3, 3, True)


@pytest.fixture
def read(tmp_path):
    """Return a function that reads a config of this text, with overrides."""

    def from_text(text, *arguments):
        path = tmp_path / "pretrain.cfg"
        path.write_text(text, encoding="utf-8")
        return Config.from_file(path, split_overrides(arguments)[0])

    return from_text


def test_settings_not_named_have_their_defaults(read):
    assert read("") == Config()
    assert read("[training]\nbatch_size = 7\n") == Config(training=TrainingConfig(batch_size=7))


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16", "float16"])
def test_precision_is_one_that_is_named_or_chosen_by_the_hardware(read, precision):
    assert read(f'[training]\nprecision = "{precision}"\n').training.precision == precision
    assert read("", "--training.precision", precision).training.precision == precision


@pytest.mark.parametrize("size", ["xs", "sm", "md", "original"])
def test_written_config_leaves_the_precision_to_the_hardware_and_one_that_names_none_is_float32(read, size):
    assert read(Config.of_size(size).text()).training.precision == "auto"
    assert read("").training.precision == "float32"


def test_overrides_win_over_the_file(read):
    config = read(
        "[training]\nbatch_size = 7\nseed = 3\n",
        "--training.batch_size",
        "9",
        "--optimizer.learning_rate=1e-3",
        "--model.filters",
        "[[1, 2]]",
        "--training.reset",
        "sentence",
        "--corpus.vocabulary=a=b.txt",
        "--model.cell_clip",
        "null",
    )
    assert (config.training.batch_size, config.training.seed, config.training.reset) == (9, 3, "sentence")
    assert config.optimizer.learning_rate == 0.001
    assert config.model.filters == ((1, 2),)
    assert config.model.cell_clip is None
    assert config.corpus.vocabulary == "a=b.txt"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--training.seed"], "training.seed: the value is missing"),
        (["--training.batchsize", "3"], "did you mean 'batch_size'"),
        (["--trainin.seed", "3"], "did you mean 'training'"),
        (["--training.seed", "x"], "expected a whole number"),
    ],
)
def test_wrong_override_is_named(read, arguments, words):
    with pytest.raises(PretrainingError, match=words):
        read("", *arguments)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[trainning]\n", "pretrain.cfg.*'trainning'.*did you mean 'training'"),
        ("[training]\nbatchsize = 3\n", "'batchsize'.*did you mean 'batch_size'"),
        ("[training]\nqqqqqqqqq = 3\n", "'qqqqqqqqq'.*expected one of.*batch_size"),
        ("[training]\nbatch_size = 3.5\n", "batch_size is 3.5, expected a whole number"),
        ("[training]\nbatch_size = true\n", "batch_size is true, expected a whole number"),
        ('[training]\nbatch_size = "3"\n', 'batch_size is "3", expected a whole number'),
        ("[training]\nbatch_size = null\n", "batch_size is null, expected a whole number"),
        ("[training]\nbatch_size = 0\n", "batch_size is 0, expected at least 1"),
        ("[training]\nbatch_size =\n", "batch_size is , which is not JSON"),
        ("[training]\nreset = batch\n", 'reset is batch, which is not JSON .*"so"'),
        ('[training]\nreset = "never"\n', 'reset is "never", expected "batch" or "sentence"'),
        ('[training]\nprecision = "int8"\n', 'precision is "int8", expected "auto" or "float32" or "bfloat16" or'),
        ("[training]\nreset = [1]\n", "reset is .*expected"),
        ("[training]\nreset_probability = 1.5\n", "reset_probability is 1.5"),
        ("[training]\nreset_probability = -0.5\n", "reset_probability is -0.5"),
        ("[training]\ndropout = 1\n", "dropout is 1.0, expected less than 1"),
        ("[training]\nmax_steps = 0\n", "max_steps is 0"),
        ('[training]\nn_epochs = "1"\n', "n_epochs is .*expected a number"),
        ("[corpus]\nmax_size = 2\n", "max_size is 2"),
        ("[corpus]\nvocabulary = 3\n", "vocabulary is 3, expected text or null"),
        ("[model]\nfilters = [1, 2]\n", r"filters is .*\[width, number\]"),
        ("[model]\nfilters = []\n", "filters"),
        ("[model]\nfilters = [[1, 2.5]]\n", "filters"),
        ("[model]\nfilters = [[60, 2]]\n", "filter of width 60"),
        ("[model]\ndim = 8\nprojection_dim = 9\n", "projection_dim 9 is larger than dim 8"),
        ("[model]\ncell_clip = -1\n", "cell_clip"),
        ("[logging]\ntensorboard = 1\n", "tensorboard is 1, expected true or false"),
        ("[training]\nseed = 1\nseed = 2\n", "pretrain.cfg"),
        (f"[model]\nfilters = {'[' * 100_000}\n", r"filters is \[+…, which is not JSON"),
        (f"[model]\nfilters = {'[' * 900 + ']' * 900}\n", r"filters is \[+…"),
        (f"[training]\nseed = 1{'0' * 30}\n", "seed is 10+, expected a whole number"),
        (f"[training]\nn_epochs = 1{'0' * 400}\n", "n_epochs is 10+…, expected a number"),
        ("[optimizer]\nlearning_rate = 1e999\n", "learning_rate is 1e999, expected a number"),
        ('[corpus]\nheldout = "a\\u0000b"\n', "heldout is .*, expected text or null"),
        ('[corpus]\nheldout = "\\ud800"\n', "heldout is .*, expected text or null"),
        ("seed = 1\n", "pretrain.cfg"),
    ],
)
def test_wrong_config_is_an_error_that_says_what_to_write(read, text, words):
    with pytest.raises(PretrainingError, match=words):
        read(text)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize(
    "name",
    ["training.n_epochs", "optimizer.learning_rate", "training.reset_probability", "training.dropout"],
)
def test_values_that_are_no_finite_number_are_refused(read, name, value):
    section, key = name.split(".")
    with pytest.raises(ElmoError, match=key):
        read(f"[{section}]\n{key} = {value}\n")


@pytest.mark.parametrize(
    "text",
    [
        f"[model]\ndim = {'x' * 5000}",
        "[model]\ndim = 1\n  n_layers = 2",
        "[model]\ndim = \0",
        f"[{'x' * 5000}]",
        f"[model]\n{'x' * 5000} = 1",
        "x" * 5000,
    ],
    ids=["long", "two lines", "odd character", "section", "key", "no setting"],
)
def test_what_is_wrong_is_shown_on_one_short_line(read, text):
    with pytest.raises(PretrainingError) as caught:
        read(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(("name", "value"), [("beta1", 1.0), ("beta2", 1.5), ("beta1", -0.1), ("learning_rate", -1.0)])
def test_values_no_optimizer_takes_are_refused(read, name, value):
    with pytest.raises(ElmoError, match=name):
        read(f'[optimizer]\nname = "adam"\n{name} = {value}\n')


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"[training\n"])
def test_file_that_is_no_config_is_an_error_naming_it(tmp_path, content):
    path = tmp_path / "pretrain.cfg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PretrainingError, match=r"pretrain\.cfg: cannot be read"):
        Config.from_file(path)


def test_importing_and_making_a_model_changes_nothing_of_the_process():
    program = """
import random, signal, sys
import numpy, torch
def state():
    return (torch.get_num_threads(), torch.get_num_interop_threads(), torch.get_default_dtype(),
            torch.get_rng_state().tolist(), repr(numpy.random.get_state()), random.getstate(),
            torch.is_grad_enabled(), torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32,
            torch.are_deterministic_algorithms_enabled(), repr(numpy.geterr()),
            [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)])
torch.set_num_threads(2)
before = state()
import spacy_elmo.pretraining.run, spacy_elmo.pretraining.blimp
from spacy_elmo.bilm import BiLM
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.pretraining.config import Config
BiLM(Config.of_size("xs").model.options())
Softmax(10, 4)
sys.exit(state() != before)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_order_of_sections_and_keys_does_not_matter(read):
    lines = Config.of_size("md").text().split("\n\n")
    parts = [
        part.split("\n")[0:1] + random.Random(0).sample(part.split("\n")[1:], len(part.split("\n")) - 1)
        for part in lines[1:]
    ]
    shuffled = "\n\n".join("\n".join(part) for part in reversed(parts))
    assert read(shuffled) == Config.of_size("md")
