import pytest


def test_every_set_is_read_as_running_text(import_training, data):
    texts = [" ".join(text.split()) for text in import_training("evaluation_sets").texts(data)]
    assert texts == [
        "The Gore-Bush debate did n't end when it was planned , he said .",
        "= Title = A guest-starring one",
        "for 1,000 days .",
        "Where is it? It is here.",
        "Stabilized or not",
        "Ok",
        "From the AP.",
        "Where, then, is it?",
        "you & me",
        "We follow them [3].",
        "Go there",
        "Ann does smile.",
        "Ann do smile.",
    ]


def test_a_missing_set_is_an_error_that_names_it(import_training, tmp_path):
    with pytest.raises(FileNotFoundError, match="masc"):
        list(import_training("evaluation_sets").texts(tmp_path))


def test_all_evaluation_sets_at_hand_are_read(import_training, shared):
    data = shared / "data"
    read = {path for pattern in import_training("evaluation_sets").READERS for path in data.glob(pattern)}
    there = {path for folder in ("heldout", "ner", "pos", "textcat", "lm") for path in (data / folder).rglob("*.xz")}
    assert read == there
