"""The commands on a model of ELMoForManyLangs."""

import json

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from spacy_elmo import ElmoError
from spacy_elmo.bilm import Elmo
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.cli import elmo_cli
from spacy_elmo.errors import PretrainingError
from spacy_elmo.formats import load, open_model
from spacy_elmo.formats.bilm_hdf5 import TIED_TO
from spacy_elmo.pretraining.config import ModelConfig
from spacy_elmo.pretraining.language_model import LanguageModel

LINES = ["the quick brown fox", "the lazy dog", "jumps over the dog"]

pytestmark = pytest.mark.filterwarnings("ignore:.* are unknown to the model")


@pytest.fixture
def model(data):
    return data / "elmoformanylangs" / "words_chars"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf8")
    return path


def run(*arguments, status=0):
    done = CliRunner().invoke(elmo_cli, list(map(str, arguments)))
    assert done.exit_code == status, done.output
    return done


def test_info_names_format_and_lexicons(model):
    facts = json.loads(run("info", model, "--json").stdout)
    assert facts["format"] == "ELMoForManyLangs"
    assert (facts["layers"], facts["width"], facts["n_characters"], facts["vocabulary"]) == (2, 32, 106, 83)
    assert facts["digest"] == open_model(model).digest
    assert "of 106 characters (code points)" in run("info", model).stdout
    run("info", model, "--machine")


def test_info_hints_at_text_that_would_be_unknown(model, tmp_path):
    """The lexicon is for simplified Chinese, without full-width forms."""
    run("convert", model, tmp_path / "own")
    lexicons = json.loads((tmp_path / "own" / "lexicons.json").read_text())
    lexicons["characters"] = [
        chr(0x4E00 + number) if len(entry) == 1 else entry for number, entry in enumerate(lexicons["characters"])
    ]
    (tmp_path / "own" / "lexicons.json").write_text(json.dumps(lexicons))
    with h5py.File(tmp_path / "own" / "weights.hdf5", "a") as file:
        del file.attrs[TIED_TO]  # else it is refused with other lexicons
    assert "hint              it does not know full-width forms" in run("info", tmp_path / "own").stdout
    (hint,) = json.loads(run("info", tmp_path / "own", "--json").stdout)["hints"]
    assert "half-width letters" in hint


def test_pretraining_does_not_begin_with_it(model):
    with pytest.raises(PretrainingError, match="is a model of ELMoForManyLangs"):
        ModelConfig.of(open_model(model).options, str(model))
    with pytest.raises(PretrainingError, match="this one is a model of ELMoForManyLangs"):
        LanguageModel(load(model), Softmax(5, 16))


def test_convert_writes_our_own_form_and_says_so(model, tmp_path):
    done = run("convert", model, tmp_path / "own")
    assert "only spacy-elmo reads this form" in done.stdout
    assert sorted(file.name for file in (tmp_path / "own").iterdir()) == [
        "lexicons.json",
        "options.json",
        "weights.hdf5",
    ]
    own = json.loads(run("info", tmp_path / "own", "--json").stdout)
    assert own["digest"] == open_model(model).digest
    np.testing.assert_array_equal(load(tmp_path / "own").encode([["dog"]])[0], load(model).encode([["dog"]])[0])


def test_convert_leaves_nothing_of_a_model_that_was_there(model, data, tmp_path):
    run("convert", model, tmp_path / "out")
    run("convert", data / "tiny_2l_skip", tmp_path / "out", "--force")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["options.json", "weights.hdf5"]
    assert open_model(tmp_path / "out").digest == open_model(data / "tiny_2l_skip").digest


def test_embedded_text_has_its_layers(model, text, tmp_path):
    run("embed", text, tmp_path / "out.hdf5", "--model", model, "--quiet")
    with h5py.File(tmp_path / "out.hdf5") as file:
        for number, line in enumerate(LINES):
            np.testing.assert_allclose(file[str(number)], load(model).encode([line.split()])[0], rtol=0, atol=1e-5)
    found = run("neighbours", "dog", tmp_path / "out.hdf5", "--in", "the dog", "--model", model, "--json", "--quiet")
    assert len(json.loads(found.stdout)["neighbours"]) == 2


def test_its_words_are_drawn(model, text, tmp_path):
    pytest.importorskip("matplotlib"), pytest.importorskip("sklearn")
    run("visualize", text, tmp_path / "out.png", "--model", model, "--words", "dog,the")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("command", [("evaluate", "MODEL", "TEXT"), ("substitutes", "TEXT", "--model", "MODEL")])
def test_what_needs_a_softmax_says_in_one_line_that_there_is_none(model, text, command):
    arguments = [{"MODEL": model, "TEXT": text}.get(argument, argument) for argument in command]
    done = run(*arguments, status=1)
    assert "can embed words, but not predict them: its softmax (classifier.pkl) is not read" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_module_for_character_ids_refuses_it_in_one_line(model):
    with pytest.raises(ElmoError, match=r"has its own character ids, not the ids that batch_to_ids makes") as caught:
        Elmo(None, model, 1)
    assert "\n" not in str(caught.value)
