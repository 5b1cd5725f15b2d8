"""options.json: what is read, what is written, and what is refused."""

import copy
import json

import pytest

from spacy_elmo import OptionsError
from spacy_elmo.bilm import BiLMOptions

GOOD = {
    "lstm": {
        "use_skip_connections": True,
        "projection_dim": 16,
        "cell_clip": 3,
        "proj_clip": 3,
        "dim": 32,
        "n_layers": 2,
    },
    "char_cnn": {
        "activation": "relu",
        "filters": [[1, 4], [2, 8], [3, 16]],
        "n_highway": 2,
        "embedding": {"dim": 16},
        "n_characters": 262,
        "max_characters_per_token": 50,
    },
}


def changed(path, value):
    """Return GOOD with the value at a dotted path set."""
    options = copy.deepcopy(GOOD)
    *sections, key = path.split(".")
    section = options
    for name in sections:
        section = section[name]
    section[key] = value
    return options


def without(path):
    options = copy.deepcopy(GOOD)
    *sections, key = path.split(".")
    section = options
    for name in sections:
        section = section[name]
    del section[key]
    return options


def test_good_options_are_read():
    options = BiLMOptions.from_dict(GOOD)
    assert (options.lstm.dim, options.lstm.projection_dim, options.lstm.n_layers) == (32, 16, 2)
    assert (options.lstm.cell_clip, options.lstm.proj_clip, options.lstm.use_skip_connections) == (3, 3, True)
    assert options.char_cnn.filters == ((1, 4), (2, 8), (3, 16))
    assert (options.char_cnn.n_filters, options.char_cnn.n_highway, options.char_cnn.embedding_dim) == (28, 2, 16)
    assert (options.char_cnn.activation, options.char_cnn.max_characters_per_token) == ("relu", 50)
    assert (options.width, options.n_outputs) == (32, 3)


def test_defaults_are_those_of_bilm_tf():
    options = BiLMOptions.from_dict(
        {
            "lstm": {"dim": 8, "projection_dim": 4},
            "char_cnn": {"filters": [[1, 4]], "embedding": {"dim": 4}, "activation": "tanh"},
        }
    )
    assert (options.lstm.n_layers, options.lstm.use_skip_connections) == (1, False)
    assert options.lstm.cell_clip is options.lstm.proj_clip is None
    assert (options.char_cnn.n_highway, options.char_cnn.max_characters_per_token) == (0, 50)


def test_what_is_given_in_is_not_changed():
    options = copy.deepcopy(GOOD)
    BiLMOptions.from_dict(options)
    assert options == GOOD


def test_written_options_are_read_as_the_same():
    options = BiLMOptions.from_dict(changed("dropout", 0.1))
    again = BiLMOptions.from_dict(json.loads(json.dumps(options.to_dict())))
    assert again == options
    assert again.training == {"dropout": 0.1}
    assert again.to_dict() == options.to_dict()


def test_options_of_training_are_written_for_inference():
    assert BiLMOptions.from_dict(changed("char_cnn.n_characters", 261)).to_dict()["char_cnn"]["n_characters"] == 262


@pytest.mark.parametrize("key", ["cell_clip", "proj_clip"])
@pytest.mark.parametrize("none", [0, 0.0, None])
def test_a_clip_of_zero_or_null_is_no_clip(key, none):
    assert getattr(BiLMOptions.from_dict(changed(f"lstm.{key}", none)).lstm, key) is None
    assert getattr(BiLMOptions.from_dict(without(f"lstm.{key}")).lstm, key) is None


def test_keys_of_training_are_kept():
    extra = {"dropout": 0.1, "n_train_tokens": 768648884, "unroll_steps": 20, "sample_softmax": True, "own": {"x": [1]}}
    assert BiLMOptions.from_dict(GOOD | extra).training == extra


@pytest.mark.parametrize("options", [without("char_cnn"), changed("char_cnn", None)], ids=["absent", "null"])
def test_without_char_cnn_the_model_reads_words(options):
    assert BiLMOptions.from_dict(options).char_cnn is None


def wrong_values():
    integers = ("lstm.dim", "lstm.projection_dim", "lstm.n_layers", "char_cnn.max_characters_per_token")
    integers += ("char_cnn.n_highway", "char_cnn.embedding.dim", "char_cnn.n_characters")
    for path in integers:
        for value in (-1, 1.5, "2", True, [2], {}, float("nan"), float("inf")):
            yield path, value
    for path in ("lstm.dim", "lstm.projection_dim", "lstm.n_layers", "char_cnn.embedding.dim", "char_cnn.n_characters"):
        yield path, 0
    for value in (1, 2):
        yield "char_cnn.max_characters_per_token", value
    for value in (260, 263):
        yield "char_cnn.n_characters", value
    for path in ("lstm.cell_clip", "lstm.proj_clip"):
        for value in (-1, -0.5, "3", True, [3], float("nan"), float("inf"), 10**400):
            yield path, value
    for path in ("lstm.use_skip_connections", "bidirectional"):
        for value in (0, 1, "true", [], "no"):
            yield path, value
    yield "bidirectional", False
    for value in ("gelu", "RELU", "", 1, [], {}, True):
        yield "char_cnn.activation", value
    filters = ([], {}, "1", 5, [1, 4], [[1]], [[1, 4, 2]], [[0, 4]], [[1, 0]], [[-1, 4]], [[1.0, 4]], [["1", 4]])
    for value in (*filters, [[1, 4], None], [[True, 4]]):
        yield "char_cnn.filters", value
    for path in ("lstm", "char_cnn", "char_cnn.embedding"):
        for value in ([], "x", 3, True):
            yield path, value
    for path in ("dropout", "batch_size", "n_epochs", "unroll_steps", "n_negative_samples_batch", "n_tokens_vocab"):
        for value in (-1, "64", True, [64], float("nan"), float("inf")):
            yield path, value
    yield "n_train_tokens", 10**400
    for path in ("sample_softmax", "share_embedding_softmax"):
        for value in (1, "yes"):
            yield path, value


@pytest.mark.parametrize(("path", "value"), [*wrong_values()], ids=lambda part: repr(part)[:30])
def test_a_wrong_value_is_an_error_that_names_the_key(path, value):
    with pytest.raises(OptionsError) as error:
        BiLMOptions.from_dict(changed(path, value), source="some/options.json")
    assert path.rpartition(".")[2] in str(error.value)
    assert "some/options.json" in str(error.value)


REQUIRED = ("lstm", "lstm.dim", "lstm.projection_dim", "char_cnn.filters", "char_cnn.embedding")
REQUIRED += ("char_cnn.embedding.dim", "char_cnn.activation")


@pytest.mark.parametrize("path", REQUIRED)
@pytest.mark.parametrize("how", ["absent", "null"])
def test_a_missing_key_is_an_error_that_names_it(path, how):
    options = without(path) if how == "absent" else changed(path, None)
    with pytest.raises(OptionsError, match=rf"{path.rpartition('.')[2]}.* missing"):
        BiLMOptions.from_dict(options)


@pytest.mark.parametrize("path", ["lstm.dims", "lstm.zoneout", "char_cnn.highway", "char_cnn.embedding.size"])
def test_an_unknown_key_in_the_architecture_is_an_error_that_names_it(path):
    with pytest.raises(OptionsError, match=path.rpartition(".")[2]):
        BiLMOptions.from_dict(changed(path, 1))


@pytest.mark.parametrize(
    ("typo", "meant"), [("lsmt", "lstm"), ("charcnn", "char_cnn"), ("bidirectionnal", "bidirectional")]
)
def test_a_mistyped_section_is_an_error_that_says_what_was_meant(typo, meant):
    with pytest.raises(OptionsError, match=f"{typo}.*{meant}"):
        BiLMOptions.from_dict(changed(typo, {}))


def test_a_filter_as_wide_as_a_word_is_taken_and_a_wider_one_is_not():
    assert BiLMOptions.from_dict(changed("char_cnn.filters", [[50, 4]])).char_cnn.filters == ((50, 4),)
    with pytest.raises(OptionsError, match="max_characters_per_token"):
        BiLMOptions.from_dict(changed("char_cnn.filters", [[51, 4]]))


def test_a_projection_wider_than_its_lstm_is_refused():
    assert BiLMOptions.from_dict(changed("lstm.projection_dim", 32)).lstm.projection_dim == 32
    with pytest.raises(OptionsError, match="projection_dim 33"):
        BiLMOptions.from_dict(changed("lstm.projection_dim", 33))


@pytest.mark.parametrize("data", [None, [], "x", 3])
def test_options_that_are_no_object_are_refused(data):
    with pytest.raises(OptionsError, match="JSON object"):
        BiLMOptions.from_dict(data)


CONTENTS = {
    "empty": b"",
    "half": json.dumps(GOOD).encode()[:100],
    "not utf-8": b'{"lstm": "\xff\xfe"}',
    "binary": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "deeply nested": b"[" * 100_000,
    "array": b"[]",
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_file_that_holds_no_options_is_an_error_that_names_it(tmp_path, content):
    path = tmp_path / "some_options.json"
    path.write_bytes(content)
    with pytest.raises(OptionsError, match="some_options"):
        BiLMOptions.from_file(path)


def test_a_missing_file_and_a_directory_are_errors_that_name_them(tmp_path):
    for path in (tmp_path / "nowhere.json", tmp_path):
        with pytest.raises(OptionsError, match=path.name):
            BiLMOptions.from_file(path)


# --- what could not be saved again, or would be too large ---


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


UNSAVABLE = {
    "nested": nested(700),
    "4,000 digits": 10**4000,
    "65 bits": 2**64,
    "surrogate": "\ud800",
    "surrogate in a key": {"\udfff": 1},
    "no JSON": b"x",
    "key that is no text": {3: 1},
}


@pytest.mark.parametrize("family", ["bilm-tf", "ELMoForManyLangs"])
@pytest.mark.parametrize("value", UNSAVABLE.values(), ids=UNSAVABLE)
def test_what_could_not_be_saved_again_is_refused(value, family):
    with pytest.raises(OptionsError, match=r"mine: 'own': .*remove it") as error:
        BiLMOptions.from_dict({**(GOOD if family == "bilm-tf" else NETWORK), "own": value}, "mine")
    assert len(str(error.value)) < 200


def test_a_key_that_is_no_text_is_refused():
    with pytest.raises(OptionsError, match="a key is not text"):
        BiLMOptions.from_dict({**GOOD, 3: 1})
    with pytest.raises(OptionsError, match="unknown key '12', 12"):
        BiLMOptions.from_dict(changed("lstm", {**GOOD["lstm"], 12: 1, "12": 1}))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("lstm.dim", 2**24 + 1),
        ("lstm.n_layers", 1001),
        ("lstm.n_layers", 10**400),
        ("char_cnn.n_highway", 1001),
        ("char_cnn.max_characters_per_token", 2**40 + 1),
        ("char_cnn.filters", [[1, 2]] * 1001),
        ("char_cnn.filters", [[1, 2**24 + 1]]),
        ("char_cnn.filters", nested(700)),
        ("lstm.dim", 10**5000),
    ],
    ids=lambda part: part if isinstance(part, str) else "large",
)
def test_a_number_that_no_model_has_is_refused_in_a_short_line(path, value):
    with pytest.raises(OptionsError, match=path.rpartition(".")[2]) as error:
        BiLMOptions.from_dict(changed(path, value))
    assert len(str(error.value)) < 300


def test_a_thousand_keys_are_refused():
    with pytest.raises(OptionsError, match="1,002 keys"):
        BiLMOptions.from_dict(GOOD | {f"key{number}": 1 for number in range(1000)})


@pytest.mark.parametrize("content", [b" " * 5_000_000, b"[" * 3_000_000], ids=["long", "deep"])
def test_a_file_longer_or_deeper_than_any_is_refused(tmp_path, content):
    (tmp_path / "options.json").write_bytes(content)
    with pytest.raises(OptionsError, match=r"too long for options|nested too deeply"):
        BiLMOptions.from_file(tmp_path / "options.json")


# --- network configs of ELMoForManyLangs ---

NETWORK = {
    "encoder": {"name": "elmo", "projection_dim": 16, "cell_clip": 3, "proj_clip": 3, "dim": 32, "n_layers": 2},
    "token_embedder": {
        "name": "cnn",
        "activation": "relu",
        "filters": [[1, 4], [2, 8], [3, 16]],
        "n_highway": 2,
        "word_dim": 10,
        "char_dim": 5,
        "max_characters_per_token": 50,
    },
    "classifier": {"name": "softmax"},
    "dropout": 0.1,
}


def network(**sections):
    """Return NETWORK with some keys of its sections set."""
    options = copy.deepcopy(NETWORK)
    for section, values in sections.items():
        options[section] |= values
    return options


def test_a_network_config_is_read():
    options = BiLMOptions.from_dict(NETWORK)
    lstm, embedder = options.lstm, options.token_embedder
    assert (lstm.dim, lstm.projection_dim, lstm.n_layers, lstm.cell_clip, lstm.proj_clip) == (32, 16, 2, 3, 3)
    assert (lstm.use_skip_connections, lstm.forget_bias, lstm.always_projects) == (True, 0, True)
    assert (embedder.word_dim, embedder.max_characters, embedder.n_features) == (10, 50, 38)
    assert embedder.char_cnn.embedding_dim == 5
    assert options.char_cnn is None
    assert options.training == {"classifier": {"name": "softmax"}, "dropout": 0.1}


@pytest.mark.parametrize(
    "options",
    [
        NETWORK,
        network(encoder={"cell_clip": 0, "proj_clip": None}),
        network(token_embedder={"word_dim": 0}),
        network(token_embedder={"char_dim": 0}),
        network(token_embedder={"char_dim": 0, "name": "LSTM"}),
        network(encoder={"name": "ELMo", "projection_dim": 64}),
    ],
)
def test_a_written_network_config_is_read_as_the_same(options):
    read = BiLMOptions.from_dict(options)
    again = BiLMOptions.from_dict(json.loads(json.dumps(read.to_dict())))
    assert again == read
    assert again.training == read.training
    assert again.to_dict() == read.to_dict()


def test_a_network_without_characters_has_no_need_of_their_settings():
    section = {"name": "lstm", "word_dim": 3, "char_dim": 0}
    embedder = BiLMOptions.from_dict({**NETWORK, "token_embedder": section}).token_embedder
    assert (embedder.char_cnn, embedder.max_characters) == (None, None)


def test_the_options_of_bilm_tf_may_have_a_key_encoder_of_their_own():
    assert BiLMOptions.from_dict({**GOOD, "encoder": "x"}).token_embedder is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (network(encoder={"name": "lstm"}), r'encoder: name is "lstm".*not a biLM'),
        (network(encoder={"name": "gru"}), "name is 'gru', expected one of elmo, lstm"),
        (network(encoder={"name": 3}), "name is 3, expected one of elmo, lstm"),
        (network(encoder={"dim": 0}), "dim is 0"),
        (network(encoder={"cell_clip": -1}), "cell_clip is -1"),
        (network(encoder={"cell_clp": 3}), "unknown key 'cell_clp', which ELMoForManyLangs does not have"),
        (network(token_embedder={"name": "bert"}), "name is 'bert', expected one of cnn, lstm"),
        (network(token_embedder={"name": "lstm"}), r'name is "lstm" with char_dim 5, which .* itself cannot run'),
        (network(token_embedder={"word_dim": 0, "char_dim": 0}), "word_dim and char_dim are both 0"),
        (network(token_embedder={"word_dim": -1}), "word_dim is -1"),
        (network(token_embedder={"max_characters_per_token": 6}), "max_characters_per_token is 6, .* at least 7"),
        (network(token_embedder={"filters": [[51, 2]]}), "a filter of width 51 does not fit"),
        (network(token_embedder={"activation": "gelu"}), "activation is 'gelu'"),
        (network(token_embedder={"charcnn": 1}), "unknown key 'charcnn'"),
        ({"encoder": NETWORK["encoder"]}, "the key 'token_embedder' is missing"),
    ],
)
def test_a_network_config_that_is_unfit_is_an_error_that_says_why(options, message):
    with pytest.raises(OptionsError, match=message):
        BiLMOptions.from_dict(options, "net.json")
