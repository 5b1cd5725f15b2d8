import pickle

import numpy as np
import pytest
import spacy
from spacy.strings import hash_string
from spacy.tokens import Doc, DocBin, Span

from spacy_elmo import ElmoError, restore_hooks
from spacy_elmo.pipeline.annotations import VECTORS, WORDS, annotate, words_of


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


# Vectors belong to words, however many there are


def merge_and_split(doc, first):
    """Merge the two tokens from `first` on, and split the one after the next in two. The number of tokens stays the
    same."""
    with doc.retokenize() as retokenizer:
        retokenizer.merge(doc[first : first + 2])
        last = doc[first + 3]
        retokenizer.split(last, [last.text[:1], last.text[1:]], heads=[(last, 0), (last, 1)])


ASK = {
    "doc._.elmo": lambda doc: doc._.elmo,
    "doc._.elmo_layers": lambda doc: doc._.elmo_layers,
    "span._.elmo": lambda doc: doc[0:1]._.elmo,
    "token._.elmo": lambda doc: doc[0]._.elmo,
    "doc.vector": lambda doc: doc.vector,
    "token.vector": lambda doc: doc[0].vector,
    "token.similarity": lambda doc: doc[0].similarity(doc[1]),
    "token.elmo_similarity": lambda doc: doc[0]._.elmo_similarity(doc[1]),
    "restore_hooks": restore_hooks,
}


def through_bytes(doc):
    return Doc(doc.vocab).from_bytes(doc.to_bytes(exclude=["user_hooks"]))


def through_docbin(doc):
    return next(DocBin().from_bytes(DocBin(store_user_data=True, docs=[doc]).to_bytes()).get_docs(doc.vocab))


@pytest.fixture(params=["as it is", "to_bytes", "DocBin", "copy", "pickle"])
def travel(request):
    return {
        "as it is": lambda doc: doc,
        "to_bytes": through_bytes,
        "DocBin": through_docbin,
        "copy": lambda doc: doc.copy(),
        "pickle": lambda doc: pickle.loads(pickle.dumps(doc)),
    }[request.param]


def annotated(words, *, tensor, width=4):
    """Make a Doc with layers, and vectors that all differ."""
    doc = Doc(spacy.blank("en").vocab, words=words)
    vectors = np.arange(len(words) * width, dtype=np.float32).reshape(-1, width)
    annotate(doc, vectors, np.stack([vectors] * 3), hooks=True, tensor=tensor)
    return doc


@pytest.mark.parametrize("tensor", [True, False])
def test_as_many_other_words_are_an_error(travel, tensor):
    doc = travel(annotated(["He", "likes", "New", "York", "and", "gimme", "coffee", "."], tensor=tensor))
    restore_hooks(doc)
    assert doc._.elmo_layers.shape == (3, 8, 4)
    before = len(doc)
    merge_and_split(doc, 2)
    assert len(doc) == before
    for how, ask in ASK.items():
        with pytest.raises(ElmoError, match="retokenized"):
            raise AssertionError(f"{how} gives {ask(doc)}")
    with pytest.warns(UserWarning, match="retokenized"):
        assert doc[0:1].has_vector == (doc.tensor.size > 0)


def test_other_words_are_an_error_in_the_docs_that_processes_gave(bundled_width):
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"vectors": "none"})
    docs = list(nlp.pipe(["He likes New York and gimme coffee .", "We sat ."], n_process=2))
    assert docs[0]._.elmo.shape == (8, bundled_width)
    merge_and_split(docs[0], 2)
    with pytest.raises(ElmoError, match="retokenized"):
        docs[0]._.elmo  # noqa: B018
    assert docs[1]._.elmo.shape == (3, bundled_width)


def test_in_long_docs_words_nearby_and_all_of_the_doc_are_looked_at():
    doc = annotated(["very"] * 400 + ["New", "York", "and", "gimme"] + ["very"] * 400, tensor=False)
    np.testing.assert_array_equal(doc[402].vector, doc._.elmo[402])
    np.testing.assert_array_equal(doc[803].vector, doc._.elmo[803])
    np.testing.assert_array_equal(doc[0:2]._.elmo, doc._.elmo[:2])
    merge_and_split(doc, 400)
    for ask in (lambda: doc._.elmo, lambda: doc.vector):
        with pytest.raises(ElmoError, match="retokenized"):
            ask()
    for i in range(398, 406):
        with pytest.raises(ElmoError, match="retokenized"):
            doc[i].vector  # noqa: B018
    far = 4 * np.arange(804, dtype=np.float32)
    assert doc[0].vector[0] == far[0]
    assert doc[803].vector[0] == far[803]


def test_docs_that_an_earlier_version_saved_are_known_by_their_length():
    doc = annotated(["He", "likes", "New", "York", "and", "gimme", "coffee", "."], tensor=False)
    del doc.user_data[WORDS]
    doc = through_docbin(doc)
    assert doc._.elmo.shape == (8, 4)
    merge_and_split(doc, 2)
    assert doc._.elmo.shape == (8, 4)
    with doc.retokenize() as retokenizer:
        retokenizer.merge(doc[0:2])
    with pytest.raises(ElmoError, match="retokenized"):
        doc._.elmo  # noqa: B018


def test_words_are_told_by_what_is_the_same_in_every_process():
    doc = Doc(spacy.blank("en").vocab, words=["We", "sat"])
    assert words_of(doc) == np.array([hash_string("We"), hash_string("sat")], dtype=np.uint64).tobytes()


def test_vectors_set_by_hand_belong_to_the_words_of_then():
    doc = annotated(["He", "likes", "New", "York", "and", "gimme", "coffee", "."], tensor=True)
    merge_and_split(doc, 2)
    doc._.elmo = np.eye(8, dtype=np.float32)
    assert doc[2]._.elmo[2] == 1.0
    assert doc._.elmo_layers is None  # the old layers belong to other words
    merge_and_split(doc, 0)
    with pytest.raises(ElmoError, match="retokenized"):
        doc._.elmo  # noqa: B018


def test_layers_set_by_hand_belong_to_the_words_of_then():
    doc = annotated(["He", "likes", "New", "York", "and", "gimme", "coffee", "."], tensor=True)
    merge_and_split(doc, 2)
    doc._.elmo_layers = np.ones((2, 8, 4), dtype=np.float32)
    assert doc._.elmo_layers.all()
    assert doc._.elmo is None  # the old vectors belong to other words
    merge_and_split(doc, 0)
    with pytest.raises(ElmoError, match="retokenized"):
        doc._.elmo_layers  # noqa: B018


def test_what_tells_the_words_is_left_where_the_vectors_are_left():
    doc = annotated(["We", "sat"], tensor=True)
    part = doc[0:1].as_doc(copy_user_data=True)
    assert part.user_data == {}
    with pytest.warns(UserWarning, match="W101"):
        both = Doc.from_docs([doc, doc])
    assert both.user_data == {}
    assert doc.to_json(underscore=[])["text"] == "We sat "


# Vectors from a file that another program has written


@pytest.mark.parametrize("name", ["elmo", "elmo_layers"])
@pytest.mark.parametrize(
    "value",
    [
        np.ones(2, np.float32),
        np.float32(1.0),
        np.array(1.0, np.float32),
        np.ones((2, 2, 2, 2), np.float32),
        np.ones((2, 2), np.int64),
        np.ones((3, 2, 2), np.complex64),
        np.array([["a", "b"], ["c", "d"]]),
        np.array([[{}, None], [1, 2]], dtype=object),
        [[1.0, 2.0], [3.0, 4.0]],
        {},
        "vectors",
        b"vectors",
        3,
        True,
    ],
)
def test_what_is_no_array_of_vectors_is_one_clear_error(name, value):
    doc = annotated(["We", "sat"], tensor=False)
    with pytest.raises(ElmoError, match=rf"doc\._\.{name}: expected an array of floats \[n_.*got"):
        doc._.set(name, value)
    doc.user_data["._.", name, None, None] = value
    for how, ask in ASK.items():
        if (how == "doc._.elmo_layers") == (name == "elmo"):
            continue
        with pytest.raises(ElmoError, match=rf"doc\._\.{name}: expected an array of floats \[n_.*got"):
            ask(doc)


@pytest.mark.parametrize("words", [3, None, "words", b"words", [1, 2], {}, np.zeros(2)])
def test_words_that_are_none_are_other_words(words):
    doc = annotated(["We", "sat"], tensor=False)
    doc.user_data[WORDS] = words
    if words is None:
        assert doc._.elmo.shape == (2, 4)
    else:
        with pytest.raises(ElmoError, match="retokenized"):
            doc._.elmo  # noqa: B018


@pytest.mark.parametrize(("name", "shape"), [("elmo", (3, 4)), ("elmo_layers", (3, 3, 4))])
def test_setting_vectors_for_another_number_of_tokens_is_an_error(name, shape):
    doc = annotated(["We", "sat"], tensor=False)
    with pytest.raises(ElmoError, match="the Doc has 2 tokens"):
        doc._.set(name, np.ones(shape, np.float32))


def test_none_in_the_place_of_vectors_says_that_there_are_none():
    doc = annotated(["We", "sat"], tensor=False)
    doc.user_data[VECTORS] = None
    doc = through_docbin(doc)
    assert doc._.elmo is None
    assert doc[0]._.elmo is None
    with pytest.raises(ElmoError, match="no ELMo vectors"):
        restore_hooks(doc)


# Settings, and vectors set by hand


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


def test_with_the_tensor_spacy_answers_by_its_own_rules():
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"vectors": "tensor"})
    doc, other = nlp("He likes New York and gimme coffee ."), nlp("New coffee")
    assert doc[6].similarity(other[1]) == 1.0
    assert doc[6]._.elmo_similarity(other[1]) < 0.99
    last_part = doc._.elmo[3].copy()
    merge_and_split(doc, 2)
    np.testing.assert_array_equal(doc[2].vector, last_part)
    assert not doc[4].vector.any()
    assert not doc[5].vector.any()


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
