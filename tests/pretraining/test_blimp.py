import json
import lzma

import pytest
import torch

from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.errors import CorpusError
from spacy_elmo.pretraining import blimp
from spacy_elmo.pretraining.blimp import Accuracy, Pair, read_pairs, score, words_and_marks
from spacy_elmo.pretraining.evaluation import Evaluator
from spacy_elmo.pretraining.vocabulary import Vocabulary


def line(good="He runs.", bad="He run.", phenomenon="agreement"):
    return json.dumps(
        {"sentence_good": good, "sentence_bad": bad, "linguistics_term": phenomenon, "field": "syntax", "UID": "x"}
    )


PAIR = Pair("agreement", "He runs.", "He run.")


def test_pairs_are_read_from_plain_and_packed_files_and_folders(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "a.jsonl").write_text(line() + "\n" + line(phenomenon="binding") + "\n\n")
    (tmp_path / "data" / "b.jsonl.xz").write_bytes(lzma.compress((line("ä", "ö") + "\n").encode()))
    (tmp_path / "README.md").write_text("not a pair")
    pairs = read_pairs(tmp_path)
    assert sorted(pairs, key=str) == sorted(
        [PAIR, Pair("binding", "He runs.", "He run."), Pair("agreement", "ä", "ö")], key=str
    )


@pytest.mark.parametrize(
    "wrong",
    ["{", "[1]", "3", "null", '"text"', '{"sentence_good": "a", "sentence_bad": "b"}', " "],
)
def test_line_that_is_no_pair_is_an_error_naming_the_file(tmp_path, wrong):
    (tmp_path / "pairs.jsonl").write_text(line() + "\n" + wrong + "\n")
    with pytest.raises(CorpusError, match=r"pairs\.jsonl.*not a minimal pair"):
        read_pairs(tmp_path)


@pytest.mark.parametrize("name", [".", "missing", "file.jsonl"])
def test_place_without_pairs_is_an_error_naming_it(tmp_path, name):
    if name == "file.jsonl":
        (tmp_path / name).write_text("")
    with pytest.raises(CorpusError, match=r"no \.jsonl file"):
        read_pairs(tmp_path / name)


def test_files_without_a_pair_are_an_error(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("\n")
    with pytest.raises(CorpusError):
        read_pairs(tmp_path)


class Table:
    """An evaluator whose losses of a sentence come from a table."""

    def __init__(self, losses):
        self.losses, self.calls = losses, 0

    def zero_state_losses(self, sentences):
        self.calls += 1
        return torch.tensor([self.losses[" ".join(sentence)] for sentence in sentences], dtype=torch.float64)


PAIRS = [Pair("x", "g1", "b1"), Pair("y", "g2", "b2"), Pair("x", "g3", "b3"), Pair("x", "g4", "b4")]
LOSSES = {
    "g1": (1, 1), "b1": (2, 2),  # both right
    "g2": (1, 9), "b2": (2, 3),  # forward right, sum wrong
    "g3": (5, 1), "b3": (4, 9),  # backward right, sum right
    "g4": (3, 3), "b4": (3, 3),  # a tie is not right
}  # fmt: skip


@pytest.mark.parametrize("at_once", [1, 3, 1000])
def test_accuracies_count_pairs_whose_good_sentence_is_likelier(monkeypatch, at_once):
    monkeypatch.setattr(blimp, "_PAIRS_AT_ONCE", at_once)
    result = score(Table(LOSSES), PAIRS, tokenize=str.split)
    assert result.overall == Accuracy(2 / 4, 2 / 4, 2 / 4)
    assert result.by_phenomenon == {"x": Accuracy(1 / 3, 2 / 3, 2 / 3), "y": Accuracy(1.0, 0.0, 0.0)}
    assert result.to_dict() == {
        "forward": 0.5,
        "backward": 0.5,
        "sum": 0.5,
        "by_phenomenon": {
            "x": {"forward": 1 / 3, "backward": 2 / 3, "sum": 2 / 3},
            "y": {"forward": 1.0, "backward": 0.0, "sum": 0.0},
        },
    }


def test_model_that_knows_a_word_prefers_its_sentence(make_model):
    lm = make_model(vocabulary_size=5).float()
    softmax = Softmax(5, 6)
    with torch.no_grad():
        softmax.weight.zero_()
        softmax.bias[3] = 9.0
    evaluator = Evaluator(lm.bilm, softmax, Vocabulary(["<S>", "</S>", "<UNK>", "runs", "run"]))
    assert score(evaluator, [PAIR]).overall == Accuracy(1.0, 1.0, 1.0)
    assert score(evaluator, [Pair("x", PAIR.bad, PAIR.good)]).overall == Accuracy(0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Who hasn't Al's cat seen?", "Who has n't Al 's cat seen ?"),
        ("They can't, won't go.", "They ca n't , wo n't go ."),
        ("A well-known U2 song; yes!", "A well-known U2 song ; yes !"),
        ("I've said he'll", "I 've said he 'll"),
        ("", ""),
    ],
)
def test_words_and_marks_are_those_of_english_treebanks(text, words):
    assert words_and_marks(text) == words.split()
