"""Names and paths of models, and which modules loading one imports."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spacy_elmo import ElmoError, OptionsError, WeightsError
from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.formats import BUNDLED, digest, load, write


def test_a_directory_is_loaded(model_dir, data):
    assert digest(load(model_dir)) == digest(load(str(model_dir))) == digest(load(data / "tiny_2l_skip"))


def test_a_weights_file_is_loaded_with_the_options_beside_it(model_dir):
    assert digest(load(model_dir / "weights.hdf5")) == digest(load(model_dir))


def test_options_may_lie_elsewhere(model_dir, tmp_path):
    expected = digest(load(model_dir))
    options = (model_dir / "options.json").rename(tmp_path / "architecture.json")
    assert digest(load(model_dir, options=options)) == expected
    assert digest(load(model_dir / "weights.hdf5", options=str(options))) == expected


def test_options_named_by_the_caller_win_over_those_beside_the_weights(model_dir, tmp_path):
    options = tmp_path / "other.json"
    options.write_text((model_dir / "options.json").read_text().replace('"relu"', '"tanh"'))
    assert load(model_dir, options=options).options.char_cnn.activation == "tanh"


PREFIX = "elmo_2x1024_128_2048cnn_1xhighway_"


def test_the_names_of_allennlp_are_found(model_dir):
    expected = digest(load(model_dir))
    for name in ("weights.hdf5", "options.json"):
        (model_dir / name).rename(model_dir / (PREFIX + name))
    assert digest(load(model_dir)) == expected
    assert digest(load(model_dir / f"{PREFIX}weights.hdf5")) == expected


def test_each_of_two_models_of_allennlp_in_one_directory_has_its_own_options(model_dir):
    weights, options = ((model_dir / name).read_bytes() for name in ("weights.hdf5", "options.json"))
    for name in ("weights.hdf5", "options.json"):
        (model_dir / name).unlink()
    for prefix, activation in (("a_", b'"relu"'), ("b_", b'"tanh"')):
        (model_dir / f"{prefix}weights.hdf5").write_bytes(weights)
        (model_dir / f"{prefix}options.json").write_bytes(options.replace(b'"relu"', activation))
    assert load(model_dir / "a_weights.hdf5").options.char_cnn.activation == "relu"
    assert load(model_dir / "b_weights.hdf5").options.char_cnn.activation == "tanh"


def test_the_names_of_nlpl_are_found(model_dir):
    expected = digest(load(model_dir))
    (model_dir / "weights.hdf5").rename(model_dir / "model.hdf5")
    (model_dir / "vocab.txt").write_text("<S>\n</S>\n<UNK>\n")
    (model_dir / "meta.json").write_text("{}")
    assert digest(load(model_dir)) == expected
    assert digest(load(model_dir / "model.hdf5")) == expected


def test_the_only_options_beside_the_weights_are_theirs(model_dir):
    expected = digest(load(model_dir))
    (model_dir / "weights.hdf5").rename(model_dir / "fr_weights.hdf5")
    (model_dir / "options.json").rename(model_dir / "options262.json")
    assert digest(load(model_dir / "fr_weights.hdf5")) == expected
    (model_dir / "other_options.json").write_bytes((model_dir / "options262.json").read_bytes())
    with pytest.raises(OptionsError, match=r"fr_weights\.hdf5: no options\.json next to it"):
        load(model_dir / "fr_weights.hdf5")


@pytest.mark.parametrize("name", ["vocab.txt", "vocab-train.txt"])
def test_a_vocabulary_is_known_by_each_of_its_names(word_model, name):
    (word_model / "vocab.txt").rename(word_model / name)
    assert load(word_model).vocabulary == ["<S>", "</S>", "<UNK>", "last"]


def test_a_softmax_beside_the_weights_is_not_taken_for_them(model_dir):
    expected = digest(load(model_dir))
    (model_dir / "weights.hdf5").rename(model_dir / "x_weights.hdf5")
    (model_dir / "softmax.hdf5").write_bytes(b"the head")
    assert digest(load(model_dir)) == expected


def test_two_weights_files_are_an_error_that_names_them(model_dir):
    content = (model_dir / "weights.hdf5").read_bytes()
    (model_dir / "weights.hdf5").unlink()
    for name in ("one.hdf5", "two.hdf5"):
        (model_dir / name).write_bytes(content)
    with pytest.raises(WeightsError, match=r"one\.hdf5, two\.hdf5"):
        load(model_dir)
    assert digest(load(model_dir / "one.hdf5")) == digest(load(model_dir / "two.hdf5"))


def test_weights_hdf5_is_taken_where_there_are_others(model_dir):
    expected = digest(load(model_dir))
    (model_dir / "other.hdf5").write_bytes(b"another")
    assert digest(load(model_dir)) == expected


def test_a_directory_without_weights_is_an_error_that_names_it(tmp_path):
    with pytest.raises(WeightsError, match=f"{tmp_path.name}.*none"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "nowhere/weights.hdf5", "en_elmo_xl"])
def test_what_is_not_there_is_an_error_that_names_it_and_what_is(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for path in (name, Path(name)):
        with pytest.raises(WeightsError, match=f"(?s){name}.*{BUNDLED}"):
            load(path)


@pytest.mark.parametrize("address", ["https://example.org/elmo_weights.hdf5", Path("s3://bucket/elmo.hdf5")])
def test_an_address_is_refused_as_one(address):
    with pytest.raises(WeightsError, match="weights are read only from files; download it"):
        load(address)


def test_an_empty_name_is_not_the_current_directory(model_dir, monkeypatch):
    monkeypatch.chdir(model_dir)
    load(".")
    with pytest.raises(WeightsError, match="is empty; expected a bundled name"):
        load("")


def test_a_name_too_long_for_a_file_is_told_so():
    with pytest.raises(WeightsError, match="too long for a path"):
        load("x" * 5000)


def test_a_directory_with_the_name_of_a_weights_file_is_an_error_that_names_it(model_dir):
    (model_dir / "weights.hdf5").unlink()
    (model_dir / "weights.hdf5").mkdir()
    for path in (model_dir, model_dir / "weights.hdf5"):
        with pytest.raises(WeightsError, match=r"weights\.hdf5"):
            load(path)


def test_missing_options_are_an_error_that_names_the_weights(model_dir):
    (model_dir / "options.json").unlink()
    for path in (model_dir, model_dir / "weights.hdf5"):
        with pytest.raises(OptionsError, match=r"weights\.hdf5: no options\.json"):
            load(path)
    with pytest.raises(OptionsError, match=r"nowhere\.json"):
        load(model_dir, options=model_dir / "nowhere.json")


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe"])
def test_a_bad_model_card_is_an_error_that_names_it(model_dir, content):
    (model_dir / "model_card.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"model_card\.json"):
        load(model_dir)


def test_a_model_card_is_kept_with_the_model(model_dir):
    (model_dir / "model_card.json").write_text('{"license": "CC BY-SA 3.0"}')
    assert load(model_dir).card == {"license": "CC BY-SA 3.0"}


@pytest.fixture
def word_model(write_word_model):
    """Write a biLM that reads words."""
    return write_word_model("last")


@pytest.fixture
def write_word_model(data, tmp_path):
    """Return a function that writes a biLM that knows one word."""

    def write_it(word):
        lstm = BiLMOptions.from_file(data / "tiny_2l_skip" / "options.json").lstm
        write(BiLM(BiLMOptions(lstm=lstm, char_cnn=None), ["<S>", "</S>", "<UNK>", word]), tmp_path / "words")
        return tmp_path / "words"

    return write_it


@pytest.mark.parametrize(
    "content",
    ["<S>\n</S>\n<UNK>\nlast", "<S>\r\n</S>\r\n<UNK>\r\nlast\r\n", "\ufeff<S>\n</S>\n<UNK>\nlast\n"],
    ids=["no newline at the end", "newlines of Windows", "byte order mark"],
)
def test_a_vocabulary_is_read_as_bilm_tf_reads_it(word_model, content):
    (word_model / "vocab.txt").write_bytes(content.encode())
    assert load(word_model).vocabulary == ["<S>", "</S>", "<UNK>", "last"]


def test_words_with_unusual_line_separators_stay_whole(write_word_model):
    assert load(write_word_model("a\u2028b")).vocabulary == ["<S>", "</S>", "<UNK>", "a\u2028b"]


def test_a_word_model_without_vocabulary_is_an_error_that_names_it(word_model):
    (word_model / "vocab.txt").unlink()
    with pytest.raises(WeightsError, match=r"weights\.hdf5.*vocab\.txt"):
        load(word_model)


@pytest.mark.parametrize("name", ["vocab.txt", "vocab-train.txt"])
def test_a_vocabulary_without_what_a_word_model_needs_is_an_error_that_names_the_file(word_model, name):
    (word_model / "vocab.txt").unlink()
    (word_model / name).write_text("the\n</S>\nof\nlast\n")
    with pytest.raises(WeightsError, match=rf"{re.escape(str(word_model / name))}: <S>, <UNK> missing; .*vocab\.txt"):
        load(word_model)


def test_a_vocabulary_of_another_length_is_an_error(word_model):
    (word_model / "vocab.txt").write_text("<S>\n</S>\n<UNK>\n")
    with pytest.raises(WeightsError, match=r"embedding has shape \[4, 16\].*\[3, 16\]"):
        load(word_model)


@pytest.mark.parametrize("content", [b"", b"<S>\n</S>\nx\nlast\n", b"<S>\n</S>\n<UNK>\n\xff\xfe\n"])
def test_a_bad_vocabulary_is_an_error_of_ours(word_model, content):
    (word_model / "vocab.txt").write_bytes(content)
    with pytest.raises(ElmoError):
        load(word_model)


def test_the_bundled_model_is_loaded_by_its_name():
    bilm = load("en_elmo_sm")
    assert BUNDLED == "en_elmo_sm"
    assert bilm.options.n_outputs == 3
    assert bilm.card["license"]
    layers = bilm.encode([["A", "sentence", "."]])[0]
    assert layers.shape == (3, 3, bilm.options.width)
    assert np.isfinite(layers).all()


def test_the_bundled_model_is_loaded_from_any_directory(tmp_path, monkeypatch):
    expected = digest(load(BUNDLED))
    monkeypatch.chdir(tmp_path)
    assert digest(load(BUNDLED)) == expected


@pytest.mark.parametrize("name", ["en_elmo_sm/", "../models/en_elmo_sm", "en_elmo_sm/weights.hdf5"])
def test_a_bundled_name_is_a_name_and_not_a_path(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="no such weights"):
        load(name)


def run_python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=120
    )


def test_the_model_runs_where_spacy_cannot_be_imported(data):
    code = """
import sys
for name in ("spacy", "thinc", "srsly", "catalogue", "confection"):
    sys.modules[name] = None
import spacy_elmo.bilm, spacy_elmo.formats
bilm = spacy_elmo.formats.load(sys.argv[1])
print(bilm.encode([["no", "spacy", "here"]])[0].shape)
"""
    done = run_python(code, str(data / "tiny_2l_skip"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(3, 3, 32)"


def test_importing_the_package_imports_neither_spacy_nor_torch():
    code = """
import sys
import spacy_elmo
heavy = {"spacy", "thinc", "torch", "h5py", "numpy"}
print(sorted(heavy & set(sys.modules)), spacy_elmo.__version__, spacy_elmo.ElmoError.__name__)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "[]"
