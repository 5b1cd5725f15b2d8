"""The text classifier that adds up ELMo's vectors and n-grams of characters."""

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import NumpyOps

from helpers.pipelines import WIDTH, listener
from spacy_elmo.pipeline.textcat import LENGTH, mean_and_maximum, ngrams

TEXTS = [("Good film", "A"), ("a bad film", "B"), ("", "A"), ("Really good.", "A"), ("\n bad indeed", "B")]
FACTORIES = ["textcat", "textcat_multilabel"]


def classifier(weights, factory="textcat", **settings):
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.add_pipe("elmo", config={"model": {"weights": weights}})
    model = {
        "@architectures": "spacy-elmo.TextCatNgrams.v1",
        "exclusive_classes": factory == "textcat",
        "length": 256,
        "tok2vec": {"@architectures": "spacy-elmo.ConcatTok2Vec.v1", "width": 8, "elmo": listener()},
    }
    nlp.add_pipe(factory, config={"model": {**model, **settings}})
    return nlp


def trained(weights, factory="textcat", n_updates=30, **settings):
    nlp = classifier(weights, factory, **settings)
    cats = {label: dict.fromkeys("AB", 0.0) | {label: 1.0} for label in "AB"}
    examples = [Example.from_dict(nlp.make_doc(text), {"cats": cats[label]}) for text, label in TEXTS]
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 0.02
    for _ in range(n_updates):
        nlp.update(examples, sgd=optimizer, annotates=["sentencizer"])
    return nlp


def scores(nlp, texts):
    return np.array([[doc.cats["A"], doc.cats["B"]] for doc in nlp.pipe(texts)])


@pytest.mark.parametrize("factory", FACTORIES)
def test_learns_its_labels_from_texts_some_of_which_have_no_tokens(tiny, factory):
    found = scores(trained(tiny, factory), [text for text, _ in TEXTS])
    assert ["AB"[one] for one in found.argmax(1)] == [label for _, label in TEXTS]
    if factory == "textcat":
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_text_has_the_same_scores_beside_texts_without_tokens(tiny, factory):
    nlp = trained(tiny, factory)
    alone = scores(nlp, ["a good one"])
    np.testing.assert_allclose(scores(nlp, ["", "a good one", "", "bad"])[1:2], alone, atol=1e-6)


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_saved_classifier_has_the_same_scores(tiny, factory, tmp_path):
    nlp = trained(tiny, factory)
    nlp.to_disk(tmp_path)
    texts = [text for text, _ in TEXTS]
    np.testing.assert_allclose(scores(spacy.load(tmp_path), texts), scores(nlp, texts), atol=1e-6)


def test_another_label_after_initialization_is_spacys_error(tiny):
    nlp = trained(tiny, n_updates=1)
    with pytest.raises(ValueError, match="E922"):
        nlp.get_pipe("textcat").add_label("C")


@pytest.mark.parametrize("factory", FACTORIES)
def test_each_of_the_two_learns_from_its_own_cross_entropy(tiny, factory):
    nlp = trained(tiny, factory, n_updates=3)
    model = nlp.get_pipe(factory).model
    docs = [nlp(text) for text in ("Good film", "", "bad")]
    truth = np.array([[1, 0], [1, 0], [0, 1]], dtype="f")
    found, backprop = model(docs, is_train=True)
    backprop(found - truth)
    for layer, name in zip(model.layers, ("linear", "sparse_linear"), strict=True):
        node = next(node for node in layer.walk() if node.name == name)
        bias = node.get_param("b").copy()

        def cross_entropy(shift, layer=layer, node=node, bias=bias):
            node.set_param("b", bias + np.array(shift, dtype="f"))
            logits = layer.predict(docs).astype(float)
            if factory == "textcat":
                return (np.log(np.exp(logits).sum(1)) - (truth * logits).sum(1)).sum()
            return (np.log1p(np.exp(logits)) - truth * logits).sum()

        slopes = [
            (cross_entropy(step) - cross_entropy([-one for one in step])) / 0.02 for step in ([0.01, 0], [0, 0.01])
        ]
        np.testing.assert_allclose(node.get_grad("b"), slopes, atol=1e-3)


def test_a_missing_label_is_not_learned(tiny):
    nlp = trained(tiny, "textcat_multilabel", n_updates=3)
    pipe = nlp.get_pipe("textcat_multilabel")
    partly = Example.from_dict(nlp.make_doc("Good film"), {"cats": {"A": 0.0}})
    scores, backprop = pipe.model([partly.predicted], is_train=True)
    backprop(pipe.get_loss([partly], scores)[1])
    for name in ("linear", "sparse_linear"):
        d_bias = next(node for node in pipe.model.walk() if node.name == name).get_grad("b")
        assert d_bias[pipe.labels.index("A")] > 0
        assert d_bias[pipe.labels.index("B")] == 0


def test_mean_and_maximum_of_each_doc():
    rows = [
        np.random.default_rng(number).normal(size=(length, 3)).astype("f") for number, length in enumerate((2, 0, 4))
    ]
    pooled, backprop = mean_and_maximum()(rows, is_train=True)
    for one, doc_rows in zip(pooled, rows, strict=True):
        expected = [*doc_rows.mean(0), *doc_rows.max(0)] if len(doc_rows) else [0] * 6
        np.testing.assert_allclose(one, expected, atol=1e-6)
    d_pooled = np.arange(18, dtype="f").reshape(3, 6)
    d_rows = backprop(d_pooled)
    assert [one.shape for one in d_rows] == [one.shape for one in rows]
    for one, doc_rows, gradient in zip(d_rows, rows, d_pooled, strict=True):
        if len(doc_rows):
            is_maximum = doc_rows == doc_rows.max(0)
            np.testing.assert_allclose(one, gradient[:3] / len(doc_rows) + is_maximum * gradient[3:], atol=1e-5)


def features(*docs):
    return ngrams().predict([Doc(spacy.blank("en").vocab, words=words) for words in docs])


def test_ngrams_are_those_within_words_and_pairs_of_words_in_lower_case():
    hashes, values, lengths = features(["To", "it"], ["to", "\n", "IT"], [], ["it", "to"], ["it"])
    first, second, _, third, last = np.split(hashes, np.cumsum(lengths)[:-1])
    assert set(first) == set(second)
    assert len(set(first) ^ set(third)) == 2  # the pair of words
    assert len(last) == len({"<i", "it", "t>", "<it", "it>", "<it>"})
    assert lengths.tolist() == [13, 13, 0, 13, 6]
    norms = [np.linalg.norm(some) for some in np.split(values, np.cumsum(lengths)[:-1]) if len(some)]
    assert norms == pytest.approx([LENGTH] * 4)
    assert (hashes.dtype, values.dtype, lengths.dtype) == (np.uint64, np.float32, np.int32)


def test_ngrams_of_a_long_word_are_those_of_any_word():
    (hashes, _, lengths), word = features(["ab" * 40]), "<" + "ab" * 40 + ">"
    assert lengths.tolist() == [len({word[i : i + n] for n in (2, 3, 4, 5) for i in range(len(word) - n + 1)})]
    assert len(set(hashes)) == len(hashes)


def test_without_any_tokens_there_are_no_features():
    hashes, values, lengths = features([], [])
    assert (len(hashes), len(values), lengths.tolist()) == (0, 0, [0, 0])


def test_takes_any_tok2vec(tiny):
    model = trained(tiny, tok2vec=listener()).get_pipe("textcat").model
    assert isinstance(model.ops, NumpyOps)
    assert model.get_ref("tok2vec").get_dim("nO") == WIDTH
