"""What a biLM accepts as sentences: anything that holds tokens, and nothing that only looks like it."""

import numpy as np
import pytest
import spacy
import torch

from spacy_elmo import ElmoError
from spacy_elmo.bilm import Elmo, batch_to_ids

WORDS = [["We", "sat", "here"], ["It", "rained"]]


@pytest.fixture(scope="module")
def bilm(data):
    from spacy_elmo.formats import load

    return load(data / "tiny_2l_skip")


def of_spacy():
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    return nlp("We sat here. It rained.")


@pytest.mark.parametrize(
    "sentences",
    [
        pytest.param(lambda: (tuple(words) for words in WORDS), id="generator"),
        pytest.param(lambda: [iter(words) for words in WORDS], id="generators"),
        pytest.param(lambda: [np.array(words) for words in WORDS], id="arrays"),
        pytest.param(lambda: [np.array(words, dtype=object) for words in WORDS], id="arrays of objects"),
        pytest.param(lambda: {7: WORDS[0], 2: WORDS[1]}.values(), id="view"),
    ],
)
def test_whatever_holds_the_same_words_gives_the_same(bilm, sentences):
    for given, expected in zip(bilm.encode(sentences()), bilm.encode(WORDS), strict=True):
        np.testing.assert_array_equal(given, expected)
    assert torch.equal(batch_to_ids(sentences()), batch_to_ids(WORDS))


def test_a_column_of_pandas_is_read_in_its_order(bilm):
    pandas = pytest.importorskip("pandas")
    column = pandas.Series(WORDS, index=[1, 0])
    for given, expected in zip(bilm.encode(column), bilm.encode(WORDS), strict=True):
        np.testing.assert_array_equal(given, expected)


def test_a_matrix_of_words_is_a_sentence_a_row(bilm):
    words = [["We", "sat"], ["It", "rained"]]
    for given, expected in zip(bilm.encode(np.array(words)), bilm.encode(words), strict=True):
        np.testing.assert_array_equal(given, expected)


def test_docs_and_spans_are_sentences(bilm):
    doc = of_spacy()
    expected = bilm.encode([[token.text for token in sentence] for sentence in doc.sents])
    for given in (doc.sents, list(doc.sents)):
        for layers, right in zip(bilm.encode(given), expected, strict=True):
            np.testing.assert_array_equal(layers, right)
    assert bilm.encode([doc])[0].shape[1] == len(doc)
    assert torch.equal(bilm.embed(doc), bilm.embed([token.text for token in doc]))


NOT_SENTENCES = [
    ("We sat here.", "expected sentences, each a list of tokens, got the string 'We sat here.'"),
    (["We", "sat"], "a sentence is a list of tokens, got the string 'We'; split it first"),
    (np.array(["We", "sat"]), "a sentence is a list of tokens, got the string 'We'"),
    ([float("nan")], r"a sentence is a list of tokens, got nan \(float\)"),
    ([None], "a sentence is a list of tokens, got None"),
    ([["We", float("nan")]], r"a token is a string, got nan \(float\)"),
    ([[b"We"]], r"a token is a string, got b'We' \(bytes\)"),
    ([b"We"], "a token is a string, got 87"),
    (7, r"expected sentences, each a list of tokens, got 7 \(int\)"),
]


@pytest.mark.parametrize(("sentences", "message"), NOT_SENTENCES)
def test_what_is_no_list_of_tokens_is_one_clear_error(bilm, sentences, message):
    with pytest.raises(ElmoError, match=message):
        bilm.encode(sentences)
    with pytest.raises(ElmoError, match=message):
        list(bilm.stream(sentences))
    with pytest.raises(ElmoError, match=message):
        batch_to_ids(sentences)


def test_a_doc_is_one_sentence_and_not_several(bilm):
    with pytest.raises(ElmoError, match="a sentence is a list of tokens, got We"):
        bilm.encode(of_spacy())


@pytest.mark.parametrize("words", ["king", ["king", None], None])
def test_embed_takes_words_only(bilm, words):
    with pytest.raises(ElmoError, match=r"list of tokens|a token is a string"):
        bilm.embed(words)


@pytest.mark.parametrize("inputs", [["hi"], [["hi"]], "hi", None])
def test_elmo_asks_for_ids(bilm, inputs):
    message = r"expected a tensor of character ids; make it with batch_to_ids\(sentences, 50\)"
    with pytest.raises(ElmoError, match=message):
        Elmo(None, None, 1, module=bilm)(inputs)
