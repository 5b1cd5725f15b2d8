from collections import Counter

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc

from spacy_elmo.errors import ElmoError
from spacy_elmo.tools.pooling import max_vector, mean_vector, smooth_inverse_frequency, weighted_vector


@pytest.fixture(scope="module")
def nlp(data):
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"model": {"weights": str(data / "tiny_2l_skip")}})
    return nlp


@pytest.fixture
def doc(nlp):
    return nlp("the cat \n\n sat on the mat")


def words(item):
    return [token for token in item if not token.is_space]


def rows(item):
    return np.array([token._.elmo for token in words(item)])


@pytest.mark.parametrize("part", [slice(None), slice(1, 5), slice(0, 1)])
def test_vectors_are_pooled_over_words_but_not_whitespace(doc, part):
    for item in (doc[part], doc):
        np.testing.assert_allclose(mean_vector(item), rows(item).mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(max_vector(item), rows(item).max(axis=0))
        weights = np.array([len(token) for token in words(item)])
        expected = weights @ rows(item) / weights.sum()
        np.testing.assert_allclose(weighted_vector(item, len), expected, rtol=1e-5)
        for pooled in (mean_vector(item), max_vector(item), weighted_vector(item, len)):
            assert (pooled.shape, pooled.dtype) == ((32,), np.float32)


def test_doc_vector_is_the_mean(doc):
    np.testing.assert_array_equal(doc.vector, mean_vector(doc))
    np.testing.assert_array_equal(doc[1:5].vector, mean_vector(doc[1:5]))


def test_equal_weights_give_the_mean_and_zero_weights_leave_tokens_out(doc):
    np.testing.assert_allclose(weighted_vector(doc, lambda token: 3.0), mean_vector(doc), rtol=1e-4, atol=1e-7)
    only = weighted_vector(doc, lambda token: float(token.text == "cat"))
    np.testing.assert_allclose(only, doc[1].vector, rtol=1e-6)
    assert not weighted_vector(doc, lambda token: 0.0).any()


def test_frequent_words_count_less(doc):
    counts = Counter(["the", "the", "the", "the", "the", "the", "the", "the", "cat"])
    weigh = smooth_inverse_frequency(counts, a=0.01)
    assert weigh(doc[0]) == pytest.approx(0.01 / (0.01 + 8 / 9))
    assert weigh(doc[1]) == pytest.approx(0.01 / (0.01 + 1 / 9))
    assert weigh(doc[3]) == 1.0
    weights = np.array([weigh(token) for token in words(doc)])
    np.testing.assert_allclose(weighted_vector(doc, weigh), weights @ rows(doc) / weights.sum(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("pool", [mean_vector, max_vector, lambda item: weighted_vector(item, len)])
def test_without_words_the_result_is_zero_and_without_vectors_an_error(nlp, pool):
    for item in (nlp(""), nlp(" \n "), nlp("a b")[1:1]):
        assert not pool(item).any()
    with pytest.raises(ElmoError, match="no ELMo vectors"):
        pool(Doc(nlp.vocab, words=["a"]))


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_weights_that_are_none_are_an_error(doc, weight):
    with pytest.raises(ElmoError, match="at least 0"):
        weighted_vector(doc, lambda token: weight)


@pytest.mark.parametrize(("counts", "a"), [({}, 1e-3), ({"a": 0}, 1e-3), ({"a": 1}, 0)])
def test_frequencies_need_counts_and_a_positive_a(counts, a):
    with pytest.raises(ElmoError, match="need counts"):
        smooth_inverse_frequency(counts, a)
