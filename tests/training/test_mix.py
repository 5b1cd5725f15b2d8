import random
import shutil
from itertools import pairwise

import pytest

from helpers.files import contents, names
from spacy_elmo.pretraining.text import read_sentences
from spacy_elmo.pretraining.vocabulary import Vocabulary

EVALUATED = "So the Gore-Bush debate didn't end when it was planned, he said."
KNOWN = Vocabulary(["<S>", "</S>", "<UNK>", "the", "never-seen"])


@pytest.fixture(scope="module")
def mix(import_training):
    return import_training("mix")


@pytest.fixture(scope="module")
def sources(import_training):
    make, as_it_is = import_training("sources").Source, import_training("clean").as_it_is
    return (make("a", "news", 2, as_it_is), make("b", "books", 0.5, as_it_is), make("c", "books", 1, as_it_is))


def paragraph(pick):
    return " ".join("".join(pick.choices("abcdefgh", k=3)) for _ in range(20)) + " ."


@pytest.fixture(scope="module")
def out(mix, sources, data, write, tmp_path_factory):
    """Mix three sources: `b` repeats text of `a`, and has evaluation text."""
    pick = random.Random(1)
    documents = {
        name: [f"{name} {number} here .\n" + paragraph(pick) for number in range(count)]
        for name, count in (("a", 250), ("b", 200), ("c", 10))
    }
    documents["b"][7] = documents["a"][7].split("\n")[1] + f"\n{EVALUATED}\nshort ."
    for name, texts in documents.items():
        write(data / "pretraining" / name / "text.txt.xz", "\n\n".join(texts))
    folder = tmp_path_factory.mktemp("out")
    make(mix, sources, data, folder)
    return folder


def make(mix, sources, data, out):
    mix.clean_all(sources, data, out / "clean", show_progress=False)
    mix.appear(out / "text", lambda part: mix.mix(sources, out / "clean", part))
    mix.appear(out / "corpus", lambda part: mix.make_corpus(out / "text", part, KNOWN, 100, show_progress=False))


def documents(path):
    return path.read_text().removesuffix("\n").split("\n\n")


def test_evaluation_text_and_copies_go_and_short_lines_stay(mix, sources, out):
    assert "short ." in documents(out / "clean" / "b.txt")
    row = mix.report(sources, out)[1]
    assert row["dropped"] == {"evaluation": 1, "copies": 1}
    assert row["cleaned"] == row["kept"] + row["evaluation"] + row["copies"]


def test_one_document_in_a_hundred_is_held_out_and_not_read(out):
    train = documents(out / "text" / "train" / "mix.txt")
    heldout = {name: documents(out / "text" / "heldout" / f"{name}.txt") for name in "abc"}
    assert {name: [text.split()[1] for text in texts] for name, texts in heldout.items()} == {
        "a": ["50", "150"],
        "b": ["50", "150"],
        "c": ["5"],
    }
    assert not {text for texts in heldout.values() for text in texts} & set(train)


def test_documents_are_read_as_often_as_their_weight_says_in_random_order(mix, sources, out):
    train = documents(out / "text" / "train" / "mix.txt")
    names = [text.split()[0] for text in train if text != "short ."]
    assert names.count("a") == 2 * 248
    assert 70 < names.count("b") < 130
    assert names.count("c") == 9
    assert len({text for text in train if text.startswith("a ")}) == 248
    assert sum(one != other for one, other in pairwise(names)) > 150, "sources in blocks"
    read = {row["source"]: row["read"] / row["kept"] for row in mix.report(sources, out)}
    assert read["a"] == pytest.approx(2, rel=0.02)


def test_the_corpus_is_what_prepare_makes_of_it(out):
    sentences = list(read_sentences([out / "corpus" / "train" / "mix.txt"]))
    assert sum(begins for _, begins in sentences) == len(documents(out / "text" / "train" / "mix.txt"))
    assert names(out / "corpus") == ["heldout", "train", "vocab.txt"]
    assert names(out / "corpus" / "heldout") == ["a.txt", "b.txt", "c.txt"]


def test_vocabulary_has_the_known_words_and_the_most_frequent_others(mix, out):
    words = Vocabulary.from_file(out / "corpus" / "vocab.txt").words
    assert len(words) == 100
    assert words[:4] == ["<S>", "</S>", "<UNK>", "."]
    assert words[-2:] == ["never-seen", "the"] or words[-2:] == ["the", "never-seen"]
    assert mix.extended(KNOWN, Vocabulary(["<S>", "</S>", "<UNK>", "a", "the", "b"]), 6).words == [
        "<S>", "</S>", "<UNK>", "a", "the", "never-seen",
    ]  # fmt: skip


def test_what_is_missing_is_made_again_with_the_same_bytes(mix, sources, data, out):
    before = contents(out)
    (out / "clean" / "b.json").unlink()
    (out / "clean" / "b.txt").write_text("half a li")
    for name in ("text", "corpus"):
        shutil.rmtree(out / name)
    make(mix, sources, data, out)
    assert contents(out) == before


def test_the_table_says_what_each_kind_is_of_the_mix(mix, sources, out):
    lines = mix.table(mix.report(sources, out)).splitlines()
    assert [line.split()[0] for line in lines] == ["source", "a", "b", "c", "all", "news", "books"]
    assert sum(float(line.split()[1].rstrip("%")) for line in lines[-2:]) == pytest.approx(100, abs=0.2)
