import io
import sys
from collections import Counter

import numpy as np
import pytest
import spacy
from spacy.vocab import Vocab

from spacy_elmo import formats
from spacy_elmo.errors import ElmoError
from spacy_elmo.tools import static as module
from spacy_elmo.tools.static import average_words

LINES = ["the bank of the river", "", "a bank", "the 東京 bank", "the end of a river"]


@pytest.fixture(scope="module")
def model(data):
    return str(data / "tiny_2l_skip")


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    return path


def direct(model, pick, lines=LINES):
    """Return the mean of each word's vectors, computed sentence by sentence."""
    sums, uses = {}, Counter()
    for line in filter(None, lines):
        words = line.split()
        for word, vector in zip(words, pick(formats.load(model).encode([words])[0]), strict=True):
            sums[word] = sums.get(word, 0) + vector.astype(np.float64)
            uses[word] += 1
    return {word: sums[word] / uses[word] for word in sums}, uses


@pytest.mark.parametrize(
    ("layers", "pick"), [("mean", lambda x: x.mean(0)), ("top", lambda x: x[-1]), ("0", lambda x: x[0])]
)
def test_vectors_are_means_over_uses(corpus, model, tmp_path, layers, pick):
    report = average_words(corpus, tmp_path / "out", model, layers=layers, min_count=1)
    expected, uses = direct(model, pick)
    assert (report.words, report.rarer, report.tokens, report.width) == (len(uses), 0, uses.total(), 32)
    nlp = spacy.load(tmp_path / "out")
    assert nlp.vocab.vectors.shape == (len(uses), 32)
    for word, vector in expected.items():
        np.testing.assert_allclose(nlp.vocab[word].vector, vector, atol=1e-5)


def test_both_forms_hold_the_frequent_words_by_falling_frequency(corpus, model, tmp_path):
    report = average_words(corpus, tmp_path / "out", model, min_count=2)
    assert (report.words, report.rarer) == (5, 2)
    lines = (tmp_path / "out" / "vectors.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "5 32"
    assert [line.split(" ")[0] for line in lines[1:]] == ["the", "bank", "a", "of", "river"]
    vocab = Vocab()
    vocab.vectors.from_disk(tmp_path / "out" / "vocab")
    for line in lines[1:]:
        word, *values = line.split(" ")
        np.testing.assert_allclose(vocab.vectors[vocab.strings.add(word)], np.array(values, float), rtol=1e-5)


def test_spacy_takes_both(corpus, model, tmp_path):
    from spacy.training.initialize import convert_vectors, load_vectors_into_model

    average_words(corpus, tmp_path / "out", model, min_count=1, lang="eng")
    one, other = spacy.blank("en"), spacy.blank("en")
    load_vectors_into_model(one, tmp_path / "out")
    convert_vectors(other, tmp_path / "out" / "vectors.txt", truncate=-1, prune=-1, mode="default")
    for word in ("bank", "東京"):
        assert one.vocab[word].has_vector
        np.testing.assert_allclose(one.vocab[word].vector, other.vocab[word].vector, rtol=1e-4)


def test_a_prepared_corpus_is_its_training_part(model, tmp_path):
    for part, lines in (("train/a", ["x y", "y"]), ("train/b", ["y"]), ("heldout/a", ["x z"])):
        path = tmp_path / "corpus" / f"{part}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines))
    (tmp_path / "corpus" / "vocab.txt").write_text("z\n" * 3)
    assert average_words(tmp_path / "corpus", tmp_path / "out", model, min_count=1).tokens == 4
    assert not spacy.load(tmp_path / "out").vocab["z"].has_vector


def test_a_pipeline_splits_raw_lines_and_gives_its_language(model, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"It rained.\nIt didn't.\n")))
    assert average_words("-", tmp_path / "out", model, pipeline="en", min_count=1).tokens == 7
    nlp = spacy.load(tmp_path / "out")
    assert nlp.lang == "en"
    assert nlp.vocab["n't"].has_vector


def test_raw_text_is_warned_of(model, tmp_path):
    (tmp_path / "raw.txt").write_text("It rained.\nIt didn't.\n")
    with pytest.warns(UserWarning, match="looks like raw text.*--pipeline"):
        average_words(tmp_path / "raw.txt", tmp_path / "out", model, min_count=1)


@pytest.fixture
def stopped(corpus, model, tmp_path, monkeypatch):
    """Stop a run at its third window of one line. `resume=True` continues it."""
    monkeypatch.setattr(module, "_WINDOW", (1, 100))
    with monkeypatch.context() as patch:
        patch.setattr(module, "_SAVE_EVERY", 0.0)
        add = module._Sums._add_window
        calls = []

        def stop(self, *arguments):
            calls.append(arguments)
            if len(calls) == 3:
                raise KeyboardInterrupt
            add(self, *arguments)

        patch.setattr(module._Sums, "_add_window", stop)
        with pytest.raises(KeyboardInterrupt):
            average_words(corpus, tmp_path / "out", model, min_count=1)
    return tmp_path / "out"


def test_a_stopped_run_goes_on_where_it_was(stopped, corpus, model, tmp_path, monkeypatch):
    assert "continue with --resume" in module.interrupted(stopped)
    seen = []
    add = module._Sums._add_window
    monkeypatch.setattr(module._Sums, "_add_window", lambda self, *rest: (seen.append(rest[0]), add(self, *rest)))
    average_words(corpus, stopped, model, min_count=1, resume=True)
    assert seen == [[line.split()] if line else [] for line in LINES[2:]]
    average_words(corpus, tmp_path / "whole", model, min_count=1)
    texts = [(path / "vectors.txt").read_text(encoding="utf-8") for path in (stopped, tmp_path / "whole")]
    assert texts[0] == texts[1]
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []
    assert module.interrupted(stopped) == f"{stopped}: stopped"


@pytest.mark.skipif(sys.platform == "win32", reason="links need a permission")
def test_what_a_stopped_run_leaves_is_next_to_the_folder_that_a_link_names(stopped, corpus, model, tmp_path):
    (tmp_path / "link").symlink_to(stopped)
    assert "out.part: continue with --resume" in module.interrupted(tmp_path / "link")
    average_words(corpus, tmp_path / "link", model, min_count=1, resume=True)
    assert (stopped / "vectors.txt").exists()
    assert not stopped.with_name("out.part").exists()


def test_a_name_that_is_too_long_with_its_ending_is_an_error(corpus, model, tmp_path):
    with pytest.raises(ElmoError, match=r"^out: .* is too long for a path$"):
        average_words(corpus, tmp_path / ("x" * 253), model, min_count=1)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_what_is_there_is_neither_replaced_nor_mixed(stopped, corpus, model):
    with pytest.raises(ElmoError, match=r"out\.part: left by an interrupted run"):
        average_words(corpus, stopped, model, min_count=1)
    with pytest.raises(ElmoError, match=r"had another corpus, model, --layers or --min-count"):
        average_words(corpus, stopped, model, min_count=1, layers="top", resume=True)
    part = stopped.with_name("out.part")
    part.write_bytes(part.read_bytes()[:-40])
    with pytest.raises(ElmoError, match=r"out\.part: damaged"):
        average_words(corpus, stopped, model, min_count=1, resume=True)
    average_words(corpus, stopped, model, min_count=1, force=True)
    with pytest.raises(ElmoError, match=r"out: already exists.*--force"):
        average_words(corpus, stopped, model, min_count=1)
    (stopped / "mine.txt").touch()
    average_words(corpus, stopped, model, min_count=2, force=True)
    assert len(spacy.load(stopped).vocab.vectors) == 5
    assert (stopped / "mine.txt").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_count": 0}, "min_count is 0"),
        ({"min_count": 9}, "no word occurs 9 times or more"),
        ({"layers": "concat"}, "layers is 'concat'"),
        ({"pipeline": "no_such"}, "no_such: not an installed pipeline"),
        ({"lang": "zz"}, "lang: spaCy cannot make a tokenizer for 'zz'"),
    ],
)
def test_what_cannot_be_is_an_error_and_leaves_nothing(corpus, model, tmp_path, settings, message):
    with pytest.raises(ElmoError, match=message):
        average_words(corpus, tmp_path / "out", model, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]
