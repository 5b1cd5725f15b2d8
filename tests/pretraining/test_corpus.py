import shutil
from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_elmo.bilm.characters import PADDING, token_ids
from spacy_elmo.errors import CorpusError, ElmoError
from spacy_elmo.pretraining import corpus as module
from spacy_elmo.pretraining.corpus import encode
from spacy_elmo.pretraining.vocabulary import Vocabulary

VOCABULARY = Vocabulary(["<S>", "</S>", "<UNK>", "a", "b", "c", "naïve"])

word = st.sampled_from(["a", "b", "c", "naïve", "rare", "東京", "a" * 40, "<UNK>"])
documents = st.lists(st.lists(st.lists(word, min_size=1, max_size=6), min_size=1, max_size=4), min_size=1, max_size=4)


def render(documents):
    return "\n\n".join("\n".join(" ".join(sentence) for sentence in document) for document in documents) + "\n"


def lexicon(corpus, words):
    """Return the lexicon entry of each word, looked up only by its characters."""
    width = corpus.characters.shape[1]
    rows = {tuple(row): number for number, row in reversed(list(enumerate(corpus.characters.tolist())))}
    return [rows[tuple(pad(token_ids(word, width), width))] for word in words]


def pad(ids, width):
    return [*ids, *[PADDING] * (width - len(ids))]


@given(documents)
def test_both_directions_read_and_predict_what_they_should(tmp_path_factory, documents):
    directory = tmp_path_factory.mktemp("corpus")
    (directory / "text.txt").write_text(render(documents), encoding="utf-8")
    corpus = encode([directory / "text.txt"], VOCABULARY, 50, directory / "encoded")

    read, predicted, starts = [[], []], [[], []], []
    for sentence in (sentence for document in documents for sentence in document):
        read[0] += ["<S>", *sentence]
        predicted[0] += [*sentence, "</S>"]
        read[1] += ["</S>", *reversed(sentence)]
        predicted[1] += [*reversed(sentence), "<S>"]
        starts += [True] + [False] * len(sentence)

    words, targets, found_starts = corpus.read(np.arange(corpus.n_positions))
    assert corpus.n_positions == len(starts)
    assert words.tolist() == [lexicon(corpus, direction) for direction in read]
    ids = VOCABULARY.ids
    assert targets.tolist() == [[ids.get(word, VOCABULARY.unknown) for word in one] for one in predicted]
    assert found_starts.tolist() == starts


@given(documents, st.data())
def test_positions_are_read_in_any_shape_and_order(tmp_path_factory, documents, data):
    directory = tmp_path_factory.mktemp("corpus")
    (directory / "text.txt").write_text(render(documents), encoding="utf-8")
    corpus = encode([directory / "text.txt"], VOCABULARY, 50, directory / "encoded")
    words, targets, starts = corpus.read(np.arange(corpus.n_positions))
    places = np.array(
        data.draw(st.lists(st.integers(0, corpus.n_positions - 1), min_size=6, max_size=6)), dtype=np.int64
    ).reshape(2, 3)
    some_words, some_targets, some_starts = corpus.read(places)
    assert np.array_equal(some_words, words[:, places])
    assert np.array_equal(some_targets, targets[:, places])
    assert np.array_equal(some_starts, starts[places])


@given(documents)
def test_counts_borders_and_sizes_are_those_of_the_text(tmp_path_factory, documents):
    directory = tmp_path_factory.mktemp("corpus")
    (directory / "text.txt").write_text(render(documents), encoding="utf-8")
    corpus = encode([directory / "text.txt"], VOCABULARY, 50, directory / "encoded")
    sentences = [sentence for document in documents for sentence in document]
    words = [word for sentence in sentences for word in sentence]
    assert corpus.n_tokens == len(words)
    assert corpus.n_positions == len(words) + len(sentences)
    assert np.diff(corpus.sentences).tolist() == [len(sentence) + 1 for sentence in sentences]
    assert np.diff(corpus.documents).tolist() == [sum(len(s) + 1 for s in document) for document in documents]
    counts = corpus.counts()
    assert len(counts) == len(VOCABULARY)
    for entry in ("a", "b", "c", "naïve"):
        assert counts[VOCABULARY.ids[entry]] == words.count(entry)
    assert counts[VOCABULARY.ids["</S>"]] == len(sentences)


def test_counts_are_how_often_each_entry_is_predicted(make_corpus):
    corpus = make_corpus("a rare b <UNK>\nrare\n", VOCABULARY)
    _, targets, _ = corpus.read(np.arange(corpus.n_positions))
    expected = np.bincount(targets[0], minlength=len(VOCABULARY))
    assert corpus.counts()[1:].tolist() == expected[1:].tolist()  # forward, nothing predicts <S>


@pytest.mark.parametrize("max_characters", [3, 12, 50])
def test_characters_are_those_of_each_word(make_corpus, max_characters):
    content = "naïve a 東京 🎉 " + "x" * 60 + " </S> <S>\n"
    corpus = make_corpus(content, VOCABULARY, max_characters)
    words, _, _ = corpus.read(np.arange(corpus.n_positions))
    read = ["<S>", *content.split()]
    expected = [pad(token_ids(word, max_characters), max_characters) for word in read]
    assert corpus.characters[words[0]].tolist() == expected


def test_line_of_a_hundred_thousand_words_is_encoded(make_corpus):
    content = " ".join(["a", "b", "zz"] * 33_334) + "\nc\n"
    corpus = make_corpus(content, VOCABULARY)
    words, targets, _ = corpus.read(np.array([0, 1, 100_001, 100_002, 100_003, 100_004]))
    ids = VOCABULARY.ids
    assert targets[0].tolist() == [ids["a"], ids["b"], ids["<UNK>"], ids["</S>"], ids["c"], ids["</S>"]]
    assert words[1].tolist()[:2] == [ids["</S>"], len(VOCABULARY)]


@pytest.mark.parametrize("content", ["", "\n\n \n", "\r\n"])
def test_corpus_without_a_sentence_is_an_error_and_leaves_nothing(tmp_path, content):
    (tmp_path / "text.txt").write_text(content)
    with pytest.raises(CorpusError, match=r"text\.txt: no sentence"):
        encode([tmp_path / "text.txt"], VOCABULARY, 12, tmp_path / "out" / "encoded")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "text.txt"]


@pytest.fixture
def encoded(tmp_path, monkeypatch):
    """Return a function that encodes `text.txt` (again). It returns the corpus, and whether the text was read for
    it."""
    readings = []
    original = module.read_sentences
    monkeypatch.setattr(module, "read_sentences", lambda files: readings.append(1) or original(files))
    path = tmp_path / "text.txt"

    def run(content=None, vocabulary=VOCABULARY, max_characters=12):
        if content is not None:
            path.write_text(content)
        readings.clear()
        return encode([path], vocabulary, max_characters, tmp_path / "encoded"), bool(readings)

    return run


def test_same_text_is_encoded_once(encoded):
    assert encoded("a b\n")[1]
    assert not encoded()[1]


@pytest.mark.parametrize(
    "change",
    [
        {"content": "a c\n"},
        {"content": "a b\n\nc\n"},
        {"vocabulary": Vocabulary(["<S>", "</S>", "<UNK>", "b", "a"])},
        {"max_characters": 20},
    ],
    ids=["same length", "other length", "vocabulary", "characters"],
)
def test_what_has_changed_is_encoded_again(encoded, change):
    encoded("a b\n")
    corpus, again = encoded(**change)
    assert again
    _, targets, _ = corpus.read(np.arange(corpus.n_positions))
    vocabulary, content = change.get("vocabulary", VOCABULARY), change.get("content", "a b\n")
    expected = [word for line in content.split("\n") if line for word in (*line.split(), "</S>")]
    assert [vocabulary.words[target] for target in targets[0]] == expected
    assert corpus.characters.shape[1] == change.get("max_characters", 12)


def test_change_in_the_middle_of_a_large_file_is_seen(encoded):
    content = "a b c\n" * 60_000
    encoded(content)
    middle = len(content) // 2
    changed = content[:middle] + "c b a\n" + content[middle + 6 :]
    corpus, _ = encoded(changed)
    _, targets, _ = corpus.read(np.arange(corpus.n_positions))
    ids = VOCABULARY.ids
    expected = [ids.get(word) for line in changed.splitlines() for word in (*line.split(), "</S>")]
    assert targets[0].tolist() == expected


@pytest.mark.parametrize("record", ["", "{", "[]", '{"files": 3}'])
def test_damaged_record_leads_to_encoding_again(tmp_path, encoded, record):
    encoded("a b\n")
    (tmp_path / "encoded" / "corpus.json").write_text(record)
    corpus, again = encoded()
    assert again
    assert corpus.n_tokens == 2


def test_interrupted_encoding_leaves_nothing_and_is_done_again(tmp_path, encoded, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module.characters, "token_ids", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            encoded("a b\n")
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]
    assert encoded()[0].n_tokens == 2


def test_interrupted_encoding_keeps_the_one_before(tmp_path, encoded, monkeypatch):
    encoded("a b\n")
    before = {path.name: path.read_bytes() for path in (tmp_path / "encoded").iterdir()}
    (tmp_path / "text.txt").write_bytes(b"a b\n\xff\n")
    with pytest.raises(CorpusError, match="UTF-8"):
        encoded()
    assert {path.name: path.read_bytes() for path in (tmp_path / "encoded").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoded", "text.txt"]


def test_what_a_killed_encoding_left_is_cleared_away(tmp_path, encoded):
    left = tmp_path / ".encoded.0123456789ab.part"
    left.mkdir()
    (left / "words.int32").write_bytes(b"1234")
    assert encoded("a b\n")[0].n_tokens == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoded", "text.txt"]


def test_what_a_killed_encoding_left_is_cleared_away_where_the_text_is_encoded_already(tmp_path, encoded):
    encoded("a b\n")
    left = tmp_path / ".encoded.0123456789ab.part"
    left.mkdir()
    encoded("a b\n")
    assert not left.exists()


def test_disk_full_while_encoding_is_an_error_of_ours(tmp_path, encoded, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(ElmoError, match="No space left"):
        encoded("a b\n")
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


@settings(max_examples=10)
@given(st.integers(1, 5), documents)
def test_buffering_changes_nothing(tmp_path_factory, size, documents):
    directory = tmp_path_factory.mktemp("corpus")
    (directory / "text.txt").write_text(render(documents), encoding="utf-8")
    arguments = ([directory / "text.txt"], VOCABULARY, 12)
    whole = encode(*arguments, directory / "whole")
    before, module._BUFFERED = module._BUFFERED, size
    try:
        little = encode(*arguments, directory / "little")
        assert np.array_equal(little.words, whole.words)
        assert np.array_equal(little.counts(), whole.counts())
    finally:
        module._BUFFERED = before


def test_files_are_documents_of_one_corpus(tmp_path):
    for name, content in (("1.txt", "a b"), ("2.txt", "\nc\n\na\n")):
        (tmp_path / name).write_text(content)
    corpus = encode([tmp_path / "1.txt", tmp_path / "2.txt"], VOCABULARY, 12, tmp_path / "encoded")
    assert corpus.documents.tolist() == [0, 3, 5, 7]


def test_encoded_corpus_is_mapped_and_cannot_be_written_to(make_corpus):
    corpus = make_corpus("a b\n", VOCABULARY)
    for mapped in (corpus.words, corpus.sentences, corpus.characters):
        assert isinstance(mapped, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            mapped[0] = 1


def cut(size):
    return lambda content: content[:size]


def replaced(typecode, change):
    """Return a function that changes the numbers of a file."""

    def act(content):
        numbers = array(typecode)
        numbers.frombytes(content)
        return array(typecode, change(list(numbers))).tobytes()

    return act


DAMAGED = {
    "words.int32": [
        cut(0),
        cut(-3),
        cut(-4),
        replaced("i", lambda ids: [10_000, *ids[1:]]),
        replaced("i", lambda ids: [*ids[:-1], -1]),
    ],
    "sentences.int64": [
        cut(0),
        cut(-8),
        cut(8),
        replaced("q", lambda ids: [ids[0], ids[2], ids[1], *ids[3:]]),
        replaced("q", lambda ids: [*ids[:-1], 10_000]),
    ],
    "documents.int64": [
        cut(0),
        cut(-8),
        replaced("q", lambda ids: [ids[0], ids[1] + 1, *ids[2:]]),
        replaced("q", lambda ids: [-5, *ids[1:]]),
    ],
    "characters.npy": [
        cut(0),
        cut(100),
        cut(-12),
        lambda content: content.replace(b"<u2", b"<f2"),
        lambda content: content[:-2] + b"\xff\xff",
        lambda content: b"PK\3\4" + content,
    ],
}


@pytest.mark.parametrize(("name", "damage"), [(name, damage) for name, some in DAMAGED.items() for damage in some])
def test_damaged_file_of_an_encoded_corpus_is_an_error_that_says_what_to_do(tmp_path, name, damage):
    (tmp_path / "a.txt").write_text("a b\nb\n\nc rare a\n\na\n")
    arguments = ([tmp_path / "a.txt"], VOCABULARY, 12, tmp_path / "encoded")
    encode(*arguments)
    path = tmp_path / "encoded" / name
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert path.read_bytes() != content
    with pytest.raises(CorpusError, match=r"encoded: the encoded corpus is damaged \(.*\); delete it"):
        encode(*arguments)
    path.unlink()
    with pytest.raises(CorpusError, match="encoded: the encoded corpus is damaged"):
        encode(*arguments)
    shutil.rmtree(tmp_path / "encoded")
    assert encode(*arguments).n_positions == 11


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"3", b"[" * 100_000, b'{"files": 3}'])
def test_damaged_record_of_an_encoded_corpus_has_the_text_encoded_anew(tmp_path, content):
    (tmp_path / "a.txt").write_text("a b\n")
    arguments = ([tmp_path / "a.txt"], VOCABULARY, 12, tmp_path / "encoded")
    encode(*arguments)
    record = tmp_path / "encoded" / "corpus.json"
    whole = record.read_bytes()
    record.write_bytes(content)
    assert encode(*arguments).n_positions == 3
    assert record.read_bytes() == whole
