"""The commands that look into a model: substitutes, neighbours, visualize."""

import json

import pytest
import torch

from helpers.models import write_predictor
from spacy_elmo import formats
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.tools.embed import embed_file

LINES = ["the bank lent money", "a bank of the river", "he saw the bank"]


@pytest.fixture
def run(elmo):
    """Run a command that ends with this status."""

    def run(*arguments, status=0):
        done = elmo(*arguments)
        assert done.status == status, done
        return done

    return run


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(LINES) + "\n")
    return path


@pytest.fixture(scope="module")
def predictor(data, tmp_path_factory):
    """Write a model with a softmax."""
    bilm = formats.load(data / "tiny_2l_skip")
    words = ["<S>", "</S>", "<UNK>", "the", "bank", "a"]
    softmax = Softmax(len(words), bilm.options.lstm.projection_dim)
    with torch.no_grad():
        softmax.weight.mul_(20)
    return write_predictor(bilm, words, tmp_path_factory.mktemp("predictor"), softmax)


@pytest.fixture(scope="module")
def corpus(text, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus") / "corpus.hdf5"
    embed_file(text, out, model=str(data / "tiny_2l_skip"))
    return out


def test_substitutes_as_json_and_as_a_table(run, predictor, text):
    done = run("substitutes", text, "--model", predictor, "--top", 2, "--json")
    sentences = json.loads(done.stdout)["sentences"]
    assert [[one["word"] for one in words] for words in sentences] == [line.split() for line in LINES]
    money, bank = sentences[0][3], sentences[0][1]
    assert (money["known"], bank["known"]) == (False, True)
    for name in ("forward", "backward", "combined"):
        (first, p), (second, q) = bank[name]["words"]
        assert {first, second} < {"the", "bank", "a"}
        assert 1 >= p >= q > 0
    table = run("substitutes", text, "--model", predictor, "--top", 2).stdout.splitlines()
    assert [line for line in table if not line.startswith(" ")] == LINES
    assert "  money  (not in the vocabulary)" in table
    (first, p), (second, q) = sentences[0][0]["forward"]["words"]
    assert table[2] == f"    forward   {first} {p:.3f}  {second} {q:.3f}"


def test_models_that_cannot_predict_are_one_line_and_status_1(run, data, text):
    done = run("substitutes", text, "--model", data / "tiny_2l_clip", status=1)
    assert "softmax.hdf5: no such file" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_neighbours_as_json_and_as_a_table(run, corpus, data):
    asked = ("neighbours", "bank", corpus, "--in", "my bank lent money", "--model", data / "tiny_2l_skip", "--quiet")
    found = json.loads(run(*asked, "--json").stdout)
    assert found["query"] == {"word": "bank", "position": 1, "sentence": "my bank lent money"}
    assert sorted((use["line"], use["position"]) for use in found["neighbours"]) == [(0, 1), (1, 1), (2, 3)]
    table = run(*asked).stdout.splitlines()
    assert table[0].endswith("my [bank] lent money")
    nearest = found["neighbours"][0]
    assert table[1].split()[:2] == [f"{nearest['similarity']:.3f}", str(nearest["line"])]
    assert "[bank]" in table[1]
    others = run("neighbours", "bank", corpus, "--line", 2, "--any-word", "--top", 4, "--json", "--quiet")
    assert len(json.loads(others.stdout)["neighbours"]) == 4


def test_words_that_are_not_there_are_status_1(run, corpus):
    assert "not a word of" in run("neighbours", "shore", corpus, "--line", 0, "--quiet", status=1).stderr


def test_visualize_says_what_it_drew(run, text, data, tmp_path):
    out = tmp_path / "bank.png"
    asked = ("visualize", text, out, "--model", data / "tiny_2l_skip", "--words", "bank,the")
    assert run(*asked).stdout == f"✔ {out}: 6 points (bank 3, the 3)\n"
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "--force" in run(*asked, status=1).stderr
    assert run(*asked, "--force", "--quiet").stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("substitutes", "text.txt"),
        ("substitutes", "text.txt", "--model", "m", "--top", "0"),
        ("neighbours", "bank", "corpus.hdf5"),
        ("neighbours", "bank", "corpus.hdf5", "--line", "1", "--in", "a bank"),
        ("neighbours", "bank", "corpus.hdf5", "--line", "1", "--pipeline", "en"),
        ("visualize", "text.txt", "out.png", "--color", "red"),
        ("visualize", "text.txt", "out.png", "--method", "lda"),
        ("visualize", "text.txt", "out.png", "--words", ","),
    ],
)
def test_wrong_usage_is_status_2(run, arguments):
    run(*arguments, status=2)


@pytest.mark.parametrize("command", ["substitutes", "neighbours", "visualize"])
def test_help_has_an_example(run, command):
    assert f"python -m spacy elmo {command}" in run(command, "--help").stdout
