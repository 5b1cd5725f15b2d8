import numpy as np
import pytest
import spacy
from spacy.tokens import Doc, DocBin, Span

from spacy_elmo import ElmoError, restore_hooks
from spacy_elmo.pipeline.annotations import annotate


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_token_span_and_doc_vectors_come_from_elmo(nlp, bundled_width):
    doc = nlp("We sat on the bank.")
    assert doc._.elmo.shape == (6, bundled_width)
    assert doc._.elmo.dtype == np.float32
    np.testing.assert_array_equal(doc[4].vector, doc._.elmo[4])
    np.testing.assert_array_equal(doc[4]._.elmo, doc._.elmo[4])
    np.testing.assert_array_equal(doc[1:3]._.elmo, doc._.elmo[1:3])
    np.testing.assert_allclose(doc[1:3].vector, doc._.elmo[1:3].mean(0), atol=1e-6)
    np.testing.assert_allclose(doc.vector, doc._.elmo.mean(0), atol=1e-6)
    assert doc[4].vector_norm == pytest.approx(np.linalg.norm(doc._.elmo[4]), rel=1e-5)
    assert doc[1:3].vector_norm == pytest.approx(np.linalg.norm(doc._.elmo[1:3].mean(0)), rel=1e-5)
    assert doc.vector_norm == pytest.approx(np.linalg.norm(doc._.elmo.mean(0)), rel=1e-5)
    assert doc.has_vector
    assert doc[1:3].has_vector
    assert doc[4].has_vector


def test_same_word_in_two_contexts_is_not_the_same(nlp):
    money, river = nlp("I left money at the bank ."), nlp("We sat on the bank of the river .")
    expected = cosine(money._.elmo[5], river._.elmo[4])
    assert expected < 0.99
    assert money[5].similarity(river[4]) == pytest.approx(expected, abs=1e-5)
    assert money[5:6].similarity(river[4:5]) == pytest.approx(expected, abs=1e-5)
    assert money.similarity(river) == pytest.approx(cosine(money.vector, river.vector), abs=1e-5)
    assert money[5]._.elmo_similarity(river[4]) == pytest.approx(expected, abs=1e-5)
    assert money[5].similarity(money[5]) == pytest.approx(1.0, abs=1e-6)


def test_elmo_answers_where_the_vocab_has_static_vectors(bundled_width):
    nlp = spacy.blank("en")
    nlp.vocab.reset_vectors(width=300)
    nlp.vocab.set_vector("bank", np.ones(300, dtype=np.float32))
    nlp.add_pipe("elmo")
    money, river = nlp("I left money at the bank ."), nlp("We sat on the bank of the river .")
    assert money[5].vector.shape == (bundled_width,)
    assert money[5].similarity(river[4]) == pytest.approx(cosine(money._.elmo[5], river._.elmo[4]), abs=1e-5)
    assert money.vector.shape == (bundled_width,)
    assert money[4:6].vector.shape == (bundled_width,)
    assert money[0].has_vector  # no static vector, but one from ELMo
    with pytest.raises(ElmoError, match="width"):
        money[5].similarity(nlp.vocab["bank"])


def test_whitespace_tokens_have_no_vector_and_do_not_count(nlp):
    doc = nlp("We  sat \n\n here")
    spaces = [token.i for token in doc if token.is_space]
    assert spaces
    assert not doc._.elmo[spaces].any()
    assert not any(doc[i].has_vector for i in spaces)
    assert doc[spaces[0]].similarity(doc[0]) == 0.0
    words = [token.i for token in doc if not token.is_space]
    np.testing.assert_allclose(doc.vector, doc._.elmo[words].mean(0), atol=1e-6)
    plain = nlp(Doc(nlp.vocab, words=["We", "sat", "here"]))
    np.testing.assert_allclose(doc._.elmo[words], plain._.elmo, atol=1e-5)


@pytest.mark.parametrize("text", ["", " ", "\n\n\t "])
def test_docs_without_words_have_zero_vectors(nlp, text, bundled_width):
    doc = nlp(text)
    assert doc._.elmo.shape == (len(doc), bundled_width)
    assert not doc.has_vector
    assert doc.vector.shape == (bundled_width,)
    assert doc.similarity(nlp("word")) == 0.0


def test_retokenizing_behind_elmo_is_an_error(nlp):
    doc = nlp("We sat in New York")
    with doc.retokenize() as retokenizer:
        retokenizer.merge(doc[3:5])
    with pytest.raises(ElmoError, match="retokenized"):
        doc._.elmo  # noqa: B018
    with pytest.raises(ElmoError, match="retokenized"):
        doc[0].vector  # noqa: B018


def test_parts_cut_out_say_that_they_have_no_vectors(nlp):
    part = nlp("We sat in New York")[3:5].as_doc()
    assert part._.elmo is None
    assert part[0]._.elmo is None
    with pytest.raises(ElmoError, match="as_doc"):
        restore_hooks(part)


def test_docbin_keeps_vectors_and_hooks_can_be_restored(nlp):
    docs = [nlp("I left money at the bank ."), nlp("We sat on the bank of the river .")]
    expected = docs[0][5].similarity(docs[1][4])
    data = DocBin(store_user_data=True, docs=docs).to_bytes()
    back = list(DocBin().from_bytes(data).get_docs(nlp.vocab))
    np.testing.assert_array_equal(back[0]._.elmo, docs[0]._.elmo)
    assert back[0][5]._.elmo_similarity(back[1][4]) == pytest.approx(expected)
    for doc in back:
        assert restore_hooks(doc) is doc
    assert back[0][5].similarity(back[1][4]) == pytest.approx(expected)
    np.testing.assert_array_equal(back[0][5].vector, docs[0][5].vector)


def test_doc_to_bytes_and_copy_keep_vectors(nlp):
    doc = nlp("We sat on the bank .")
    with pytest.warns(UserWarning, match="hooks"):
        back = Doc(nlp.vocab).from_bytes(doc.to_bytes())
    np.testing.assert_array_equal(back._.elmo, doc._.elmo)
    np.testing.assert_array_equal(doc.copy()._.elmo, doc._.elmo)
    np.testing.assert_array_equal(doc.copy()[4].vector, doc[4].vector)


def test_vectors_setting_says_who_answers(bundled_width):
    static = np.arange(300, dtype=np.float32)
    answers = {}
    for vectors in ("auto", "hooks", "tensor", "none"):
        nlp = spacy.blank("en")
        nlp.vocab.reset_vectors(width=300)
        nlp.vocab.set_vector("bank", static)
        nlp.add_pipe("elmo", config={"vectors": vectors})
        doc = nlp("the bank")
        assert doc._.elmo.shape == (2, bundled_width)
        answers[vectors] = (doc[1].vector.shape[0], doc.tensor.shape)
    assert answers == {
        "auto": (bundled_width, (2, bundled_width)),
        "hooks": (bundled_width, (0,)),
        "tensor": (300, (2, bundled_width)),
        "none": (300, (0,)),
    }


def test_annotate_again_without_layers_drops_the_old_ones(nlp):
    doc = Doc(nlp.vocab, words=["a", "b"])
    annotate(doc, np.ones((2, 4), np.float32), np.ones((3, 2, 4), np.float32), hooks=True, tensor=False)
    assert doc._.elmo_layers.shape == (3, 2, 4)
    annotate(doc, np.ones((2, 4), np.float32), None, hooks=True, tensor=False)
    assert doc._.elmo_layers is None


def test_extensions_can_be_set_by_hand(nlp):
    doc = Doc(nlp.vocab, words=["a", "b"])
    doc._.elmo = np.eye(2, dtype=np.float32)
    assert doc[0]._.elmo_similarity(doc[1]) == 0.0
    doc._.elmo_layers = np.ones((3, 2, 2), np.float32)
    assert doc._.elmo_layers.shape == (3, 2, 2)
    assert Span(doc, 0, 2)._.elmo.shape == (2, 2)
