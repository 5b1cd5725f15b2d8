"""The same words have the same vectors, whatever is done with them: over random Docs, through the component.

SPACY_ELMO_PRECISION sets the precision (float32 by default), and SPACY_ELMO_ISA the instructions. `make faults` tries
all of both.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import spacy
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.tokens import Doc, DocBin

from helpers.pipelines import WIDTH, assert_same_scores, bilm_of, blank, pipeline, scores, train
from spacy_elmo.formats import BUNDLED
from spacy_elmo.pipeline.mix import scalar_mix

TINY = str(Path(__file__).parent / "data" / "tiny_2l_skip")
PRECISION = os.environ.get("SPACY_ELMO_PRECISION", "float32")
TOLERANCE = 1e-5
# How much the vectors of random text may differ from float32. docs/performance.md promises this for the model.
FROM_FLOAT32 = {"float32": 1e-5, "float16": 0.002, "int8": 0.1}

# Texts: lists of words, each with whether a sentence begins there
WORDS = st.one_of(
    st.sampled_from(["the", "bank", "of", "a", "river", ",", ".", "groß", "東京", "😀", "x" * 60, " ", "\n"]),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=12),
)
TEXTS = st.lists(st.lists(st.tuples(WORDS, st.booleans()), max_size=12), min_size=1, max_size=6)


def make(weights=TINY, precision=PRECISION, model=None, **config):
    return blank(weights, "xx", {"device": "cpu", "precision": precision, **(model or {})}, **config)


def docs_of(nlp, texts):
    """Make a Doc of each text."""
    return [
        Doc(
            nlp.vocab,
            words=[word for word, _ in text],
            sent_starts=[begins or not at for at, (_, begins) in enumerate(text)],
        )
        for text in texts
    ]


def encode(nlp, texts, batch_size=128):
    """Return the vectors of each text, in one stream."""
    elmo = nlp.get_pipe("elmo")
    return [doc._.elmo for doc in elmo.pipe(docs_of(nlp, texts), batch_size=batch_size)]


def close(ours, expected, tolerance=TOLERANCE):
    for mine, theirs in zip(ours, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def nlp():
    return make()


@pytest.fixture(scope="module")
def bundled():
    return make(BUNDLED)


def check_company(nlp, drawn):
    """Encode each text alone with an empty word table, then all together in another order, in batches of any size."""
    texts = drawn.draw(TEXTS)
    order = drawn.draw(st.permutations(range(len(texts))))
    alone = []
    for text in texts:
        bilm_of(nlp).clear_word_table()
        alone += encode(nlp, [text])
    bilm_of(nlp).clear_word_table()
    together = encode(nlp, [texts[number] for number in order], drawn.draw(st.integers(1, 6)))
    close(together, [alone[number] for number in order])


@given(drawn=st.data())
def test_company_and_order_change_no_vector(nlp, drawn):
    check_company(nlp, drawn)


@settings(max_examples=10)
@given(drawn=st.data())
def test_company_and_order_change_no_vector_of_the_bundled_model(bundled, drawn):
    check_company(bundled, drawn)


@pytest.fixture(scope="module")
def in_pieces():
    return make(model={"max_sequence_length": 3})


@given(texts=TEXTS)
def test_a_long_sentence_has_the_vectors_of_its_pieces(nlp, in_pieces, texts):
    for text, doc in zip(texts, in_pieces.get_pipe("elmo").pipe(docs_of(in_pieces, texts)), strict=True):
        there = [not token.is_space for token in doc]
        sentences = [[word for word in sentence if not word.is_space] for sentence in doc.sents] if text else []
        pieces = [words[at : at + 3] for words in sentences for at in range(0, len(words), 3)]
        expected = encode(nlp, [[(word.text, False) for word in piece] for piece in pieces])
        close([doc._.elmo[there]], [np.concatenate(expected) if expected else np.zeros((0, WIDTH))])
        assert not doc._.elmo[~np.array(there, bool)].any()


MIXES = {"mean": "mean", "thirds": [1 / 3] * 3, "top": "top", "only the top": [0, 0, 1], "third": 2, "concat": "concat"}


@pytest.fixture(scope="module")
def mixed():
    """Make a pipeline of each mix."""
    return {name: make(layers=layers) for name, layers in MIXES.items()}


@given(texts=TEXTS, gamma=st.floats(-4, 4, width=32))
def test_mixes_that_are_the_same_give_the_same(mixed, texts, gamma):
    vectors = {name: encode(nlp, texts) for name, nlp in mixed.items()}
    parts = [one.reshape(-1, 3, WIDTH) for one in vectors["concat"]]
    close(vectors["mean"], vectors["thirds"])
    close(vectors["mean"], [one.mean(axis=1) for one in parts])
    close(vectors["top"], [one[:, 2] for one in parts])
    for name in ("only the top", "third"):
        close(vectors[name], vectors["top"])
    elmo = mixed["mean"].get_pipe("elmo")
    rows = elmo.rows(docs_of(mixed["mean"], texts))
    listener = scalar_mix(WIDTH, initial_weights=[0.7] * 3, initial_gamma=gamma)
    listener.initialize(X=rows)
    close(listener.predict(rows), [gamma * one for one in vectors["mean"]])


@pytest.fixture(scope="module")
def copies(nlp, tmp_path_factory):
    """Save the pipeline to disk and to bytes, and load both."""
    path = tmp_path_factory.mktemp("saved")
    nlp.to_disk(path)
    empty = blank("/no/such", "xx", {"device": "cpu", "precision": PRECISION})
    return [spacy.load(path), empty.from_bytes(nlp.to_bytes())]


@given(texts=TEXTS)
def test_what_was_saved_gives_the_same_vectors(nlp, copies, texts):
    for copy in copies:
        close(encode(copy, texts), encode(nlp, texts))


@given(texts=TEXTS)
def test_vectors_travel_with_their_docs(nlp, texts):
    docs = list(nlp.get_pipe("elmo").pipe(docs_of(nlp, texts)))
    content = DocBin(store_user_data=True, docs=docs).to_bytes()
    for doc, back in zip(docs, DocBin().from_bytes(content).get_docs(nlp.vocab), strict=True):
        np.testing.assert_array_equal(back._.elmo, doc._.elmo)


def trained(**elmo):
    """Train briefly with a listener. Returns the scores and the cache. elmo: settings of the cache."""
    spacy.util.fix_random_seed(0)
    model = {"weights": TINY, "device": "cpu", "precision": PRECISION}
    nlp = pipeline(TINY, elmo={"model": model, **elmo})
    train(nlp, 10)
    return scores(nlp), nlp.get_pipe("elmo").memory.cache


def test_a_training_comes_to_the_same_with_a_cache_in_memory_in_a_file_and_without(tmp_path):
    expected, cache = trained(cache_mb=0)
    assert cache is None
    path = str(tmp_path / "rows")
    in_memory, new, warm = trained(), trained(cache_path=path), trained(cache_path=path)
    assert [cache.misses for _, cache in (in_memory, new, warm)] == [4, 4, 0]
    for found, _ in (in_memory, new, warm):
        assert_same_scores(found, expected, atol=1e-4)


def test_two_processes_give_the_vectors_of_one(nlp):
    texts = [f"Number {number}: the bank lent {'much ' * (number % 4)}money.\n" * (number % 3) for number in range(12)]
    expected = [nlp(text)._.elmo for text in texts]
    close([doc._.elmo for doc in nlp.pipe(texts, n_process=2, batch_size=3)], expected)


@given(drawn=st.data())
def test_each_direction_knows_only_what_it_has_read(nlp, drawn):
    """Forward layers depend on <S> and the words up to here, so the beginning of a sentence has the same layers alone,
    except for its </S>. Backward layers likewise depend on </S> and the words from here on. In layer 0 both halves
    depend only on the word."""
    bilm = bilm_of(nlp)
    half = bilm.options.width // 2
    words = drawn.draw(st.lists(WORDS, max_size=12))
    n = drawn.draw(st.integers(0, len(words)))
    whole, begin, end = bilm.encode([words, words[:n], words[n:]], keep_boundaries=True)
    close([begin[:, : n + 1, :half]], [whole[:, : n + 1, :half]])
    close([end[:, 1:, half:]], [whole[:, n + 1 :, half:]])


def test_each_direction_knows_all_that_it_has_read(nlp):
    """The halves that the test above skips differ at every word."""
    bilm = bilm_of(nlp)
    half = bilm.options.width // 2
    words = ["We", "sat", "on", "the", "bank"]
    whole, begin, end = bilm.encode([words, words[:2], words[2:]])
    for part, same in ((begin[1:, :, half:], whole[1:, :2, half:]), (end[1:, :, :half], whole[1:, 2:, :half])):
        assert np.abs(part - same).max(axis=2).min() > 1e-3


@pytest.fixture(scope="module")
def in_float32():
    return make(precision="float32")


@given(texts=TEXTS)
def test_a_precision_stays_as_near_to_float32_as_the_docs_say(nlp, in_float32, texts):
    close(encode(nlp, texts), encode(in_float32, texts), FROM_FLOAT32[PRECISION])
