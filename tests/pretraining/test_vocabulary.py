from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_elmo.errors import CorpusError
from spacy_elmo.pretraining.vocabulary import SPECIAL, Vocabulary, count_words
from spacy_elmo.support.text import read_sentences

words = st.text(st.characters(blacklist_categories=["Cs", "Z", "Cc"]), min_size=1, max_size=6).filter(
    lambda word: word.split() == [word]
)
counts = st.dictionaries(words, st.integers(1, 50), max_size=20)


@given(counts)
def test_words_come_by_falling_count_behind_the_special_entries(counts):
    made = Vocabulary.from_counts(counts).words
    assert made[:3] == ["<S>", "</S>", "<UNK>"]
    assert sorted(made[3:]) == sorted(set(counts) - set(SPECIAL))
    order = [counts[word] for word in made[3:]]
    assert order == sorted(order, reverse=True)


@given(counts, st.randoms())
def test_vocabulary_does_not_depend_on_the_order_in_which_words_were_met(counts, random):
    items = list(counts.items())
    random.shuffle(items)
    assert Vocabulary.from_counts(dict(items)).words == Vocabulary.from_counts(counts).words


@given(counts, st.integers(1, 60), st.integers(3, 20))
def test_rare_words_and_those_beyond_the_largest_size_are_left_out(counts, min_count, max_size):
    kept = Vocabulary.from_counts(counts, min_count=min_count).words
    assert set(kept[3:]) == {word for word, count in counts.items() if count >= min_count} - set(SPECIAL)
    assert Vocabulary.from_counts(counts, min_count=min_count, max_size=max_size).words == kept[:max_size]


def test_special_entries_in_the_text_are_not_entered_twice():
    made = Vocabulary.from_counts(Counter({"<S>": 9, "a": 2, "<UNK>": 5, "</S>": 1}))
    assert made.words == ["<S>", "</S>", "<UNK>", "a"]


@given(counts)
def test_vocabulary_survives_its_file(tmp_path_factory, counts):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    made = Vocabulary.from_counts(counts)
    path.write_bytes(made.text().encode())
    read = Vocabulary.from_file(path)
    assert (read.words, read.ids, read.digest) == (made.words, made.ids, made.digest)


@pytest.mark.parametrize("ending", ["\n", "\r\n", " \n", ""])
def test_line_ends_and_white_space_around_entries_are_no_part_of_them(tmp_path, ending):
    path = tmp_path / "vocab.txt"
    path.write_bytes((ending or "\n").join(["<S>", "</S>", "<UNK>", "é"]).encode() + ending.encode())
    assert Vocabulary.from_file(path).words == ["<S>", "</S>", "<UNK>", "é"]


def test_byte_order_mark_is_no_part_of_the_first_entry(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("\ufeff<S>\n</S>\n<UNK>\na\n".encode())
    assert Vocabulary.from_file(path).words == ["<S>", "</S>", "<UNK>", "a"]


def test_special_entries_may_stand_anywhere():
    vocabulary = Vocabulary(["a", "<UNK>", "b", "</S>", "<S>"])
    assert (vocabulary.unknown, len(vocabulary)) == (1, 5)


@pytest.mark.parametrize("missing", SPECIAL)
def test_missing_special_entry_is_named(tmp_path, missing):
    path = tmp_path / "vocab.txt"
    path.write_text("".join(word + "\n" for word in (*SPECIAL, "a") if word != missing))
    with pytest.raises(CorpusError, match=f"vocab.txt: {missing} missing"):
        Vocabulary.from_file(path)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (["a", "b", "a"], "line [46]: 'a' occurs twice"),
        (["<S>"], "line [14]: '<S>' occurs twice"),
        (["a b"], "line 4: 'a b' is not one word"),
        (["a", "", "b"], "line 5: '' is not one word"),
        (["a\u00a0b"], "line 4: .* is not one word"),
    ],
)
def test_wrong_entry_is_named_with_its_line(tmp_path, entries, words):
    path = tmp_path / "vocab.txt"
    path.write_text("".join(word + "\n" for word in (*SPECIAL, *entries)), encoding="utf-8")
    with pytest.raises(CorpusError, match=words):
        Vocabulary.from_file(path)


@pytest.mark.parametrize("data", [None, b"", b"<S>\n</S>\n<UNK>\n\xff\n"])
def test_file_that_is_no_vocabulary_is_an_error_naming_it(tmp_path, data):
    path = tmp_path / "vocab.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(CorpusError, match=r"vocab\.txt"):
        Vocabulary.from_file(path)


def test_digest_tells_order_and_borders_of_words_apart():
    digests = {Vocabulary([*SPECIAL, *words]).digest for words in (["a", "b"], ["b", "a"], ["ab"], ["a"], [])}
    assert len(digests) == 5


def zipf(n, seed=0):
    """Return counts like those of a text, by falling rank, after the special entries."""
    rng = np.random.default_rng(seed)
    return np.concatenate([[0, 500, 900], np.sort(rng.poisson(3000 / np.arange(1, n + 1)))[::-1]])


def test_order_by_falling_count_is_in_order():
    known = Vocabulary([*SPECIAL, *(f"w{n}" for n in range(2000))])
    assert not known.is_out_of_order(zipf(2000))


@pytest.mark.parametrize("reorder", [lambda known: known[::-1], np.random.default_rng(1).permutation])
def test_order_far_from_falling_count_is_out_of_order(reorder):
    known = Vocabulary([*SPECIAL, *(f"w{n}" for n in range(2000))])
    counts = zipf(2000)
    assert known.is_out_of_order(np.concatenate([counts[:3], reorder(counts[3:])]))


def test_order_of_special_entries_says_nothing():
    known = Vocabulary([*(f"w{n}" for n in range(2000)), *SPECIAL])
    counts = zipf(2000)
    assert not known.is_out_of_order(np.concatenate([counts[3:], [10**6, 10**6, 10**6]]))


def test_real_vocabulary_is_in_order_on_other_text_and_not_when_alphabetical(shared):
    reference = shared / "references" / "bilm-tf-trained"
    vocabulary = Vocabulary.from_file(reference / "vocab.txt")
    assert len(vocabulary) == 38_752
    counted = count_words(read_sentences([reference / "heldout.txt"]))

    def disordered(words):
        other = Vocabulary(words)
        return other.is_out_of_order(np.array([counted[word] for word in words]))

    assert not disordered(vocabulary.words)
    assert disordered([*SPECIAL, *sorted(vocabulary.words[3:])])


def test_counted_words_are_those_of_all_sentences():
    assert count_words([(["a", "b", "a"], True), (["b", "c"], False)]) == {"a": 2, "b": 2, "c": 1}


def test_bilm_tf_vocabulary_is_rebuilt_from_counts_in_its_order(shared):
    words = (shared / "references" / "bilm-tf-trained" / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    counts = {word: len(words) - number for number, word in enumerate(words)}
    assert Vocabulary.from_counts(counts).words == words
