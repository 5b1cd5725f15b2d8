"""Parts of spaCy that read vectors on their own work after `elmo`, and do not change the static vectors."""

import warnings
from contextlib import ExitStack

import numpy as np
import pytest
import spacy
from spacy import displacy
from spacy.kb import InMemoryLookupKB
from spacy.tokens import Doc
from spacy.training import Example
from spacy.vectors import Vectors

from spacy_elmo import ElmoError
from spacy_elmo.pipeline.annotations import annotate

PATTERNS = ["New York", "Berlin", "Foo Bar", "coffee"]
TEXTS = ["He left New York for Berlin .", "In Foo Bar they like New York and coffee .", "Berlin and New York ."]
STATIC = ("New", "York", "coffee", "and")


# Static vectors of the vocab, after a component that merges


def make(*, elmo, width=300, attr="ORTH", vectors="auto", merge=True):
    nlp = spacy.blank("en")
    nlp.vocab.vectors = Vectors(shape=(0, width), strings=nlp.vocab.strings, attr=attr)
    for number, word in enumerate(STATIC):
        nlp.vocab.set_vector(word, np.full(width, 1.0 + number, dtype="f"))
    nlp.add_pipe("entity_ruler").add_patterns([{"label": "X", "pattern": pattern} for pattern in PATTERNS])
    if elmo:
        nlp.add_pipe("elmo", config={"vectors": vectors})
    if merge:
        nlp.add_pipe("merge_entities")
    return nlp


def table(nlp):
    return {nlp.vocab.strings[key]: nlp.vocab.vectors[key] for key in nlp.vocab.vectors}


def assert_as_in_plain_spacy(nlp, plain):
    got, expected = table(nlp), table(plain)
    assert got.keys() == expected.keys()
    for word, vector in expected.items():
        np.testing.assert_array_equal(got[word], vector, err_msg=word)


@pytest.mark.parametrize("attr", ["ORTH", "LOWER"])
@pytest.mark.parametrize("vectors", ["auto", "hooks", "tensor", "none"])
@pytest.mark.parametrize("width", ["other", "that of elmo"])
def test_merging_behind_elmo_writes_static_vectors_only(width, vectors, attr, bundled_width):
    width = bundled_width if width == "that of elmo" else 300
    nlp, plain = (make(elmo=elmo, width=width, attr=attr, vectors=vectors) for elmo in (True, False))
    for _ in nlp.pipe(TEXTS):
        pass
    for text in TEXTS:
        plain(text)
    assert_as_in_plain_spacy(nlp, plain)
    np.testing.assert_array_equal(nlp.vocab.get_vector("New York"), np.full(width, 1.5))


def test_merging_behind_elmo_leaves_the_table_alone_beside_the_tensor_of_another_component():
    nlp, plain = make(elmo=True, vectors="hooks", merge=False), make(elmo=False, merge=False)
    for each in (nlp, plain):
        doc = each.make_doc(TEXTS[0])
        doc.tensor = np.ones((len(doc), 3), dtype=np.float32)
        doc = each(doc)
        with doc.retokenize() as merging:
            merging.merge(doc[2:4])
            merging.merge(doc[5:6])
    assert_as_in_plain_spacy(nlp, plain)


def test_merging_by_other_means_than_with_is_noticed_by_the_tensor():
    nlp, plain = make(elmo=True, merge=False), make(elmo=False, merge=False)
    for each in (nlp, plain):
        doc = each(TEXTS[0])
        with ExitStack() as stack:
            stack.enter_context(doc.retokenize()).merge(doc[2:4])
    assert_as_in_plain_spacy(nlp, plain)


def test_without_block_and_tensor_emptied_hooks_keep_elmo_out_of_the_table():
    nlp, plain = (make(elmo=elmo, vectors="hooks", merge=False) for elmo in (True, False))
    for each in (nlp, plain):
        doc = each(TEXTS[0])
        doc.user_span_hooks.clear()
        doc.user_token_hooks.clear()
        with ExitStack() as stack:
            stack.enter_context(doc.retokenize()).merge(doc[2:4])
    assert_as_in_plain_spacy(nlp, plain)


@pytest.mark.parametrize("vectors", ["auto", "hooks"])
def test_spans_answer_from_elmo_while_merges_are_being_chosen(vectors):
    nlp = make(elmo=True, vectors=vectors, merge=False)
    for words in ("Foo Bar", "New York"):
        assert nlp.vocab[words].text == words  # there is a lexeme, as after an earlier merge
    doc = nlp("Berlin is not Foo Bar or New York")
    spans = [doc[0:1], doc[3:5], doc[6:8]]
    expected = [span._.elmo.mean(axis=0) for span in spans]
    with doc.retokenize() as retokenizer:
        for span, vector in zip(spans, expected, strict=True):
            np.testing.assert_allclose(span.vector, vector, atol=1e-6)
            retokenizer.merge(span)
        np.testing.assert_allclose([span.vector for span in spans], expected, atol=1e-6)
        norms = [span.vector_norm for span in spans]
    np.testing.assert_allclose(norms, np.linalg.norm(expected, axis=1), rtol=1e-5)


def test_merging_single_tokens_keeps_the_vectors():
    nlp = make(elmo=True)
    doc = nlp("We like Berlin")
    assert [token.text for token in doc] == ["We", "like", "Berlin"]
    np.testing.assert_array_equal(doc[2].vector, doc._.elmo[2])
    np.testing.assert_allclose(doc[2:3].vector, doc._.elmo[2], atol=1e-6)


# Docs without ELMo vectors, or with those of other words


@pytest.fixture(scope="module")
def made():
    """Give pipelines by the components after `elmo`. Each finds New York twice."""

    def pipeline(*behind):
        nlp = spacy.blank("en")
        nlp.add_pipe("sentencizer")
        nlp.add_pipe("entity_ruler").add_patterns([{"label": "GPE", "pattern": "New York"}])
        nlp.add_pipe("elmo")
        for name in behind:
            nlp.add_pipe(name, config={"attrs": {"_.elmo": None}} if name == "doc_cleaner" else {})
        return nlp

    return {behind: pipeline(*behind) for behind in ((), ("merge_entities",), ("doc_cleaner",))}


TEXT = "He likes New York a lot. It rains in New York."


def first_sentence(nlp):
    return next(nlp(TEXT).sents)


@pytest.fixture
def caught():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


@pytest.mark.parametrize(
    ("behind", "make_doc"),
    [
        ((), lambda nlp: first_sentence(nlp).as_doc()[0:3].as_doc()),
        (("merge_entities",), lambda nlp: first_sentence(nlp).as_doc()),
        (("doc_cleaner",), lambda nlp: first_sentence(nlp).as_doc()),
    ],
)
def test_as_doc_works_where_vectors_are_gone_with_one_warning(behind, make_doc, made, caught):
    doc = make_doc(made[behind])
    doc[0:2].as_doc()
    assert doc[0:2].has_vector in (True, False)
    assert doc.text.startswith("He likes")
    assert ["elmo" in str(warning.message) for warning in caught] == [True]
    assert caught[0].filename == __file__
    for ask in (
        lambda: doc.vector,
        lambda: doc[0].vector,
        lambda: doc.has_vector,
        lambda: doc[0].has_vector,
        lambda: doc.similarity(doc),
        lambda: doc[0].similarity(doc[1]),
        lambda: doc[0:1].similarity(doc[1:2]),
        lambda: doc[0:1]._.elmo_similarity(doc[1:2]),
    ):
        with pytest.raises(ElmoError):
            ask()


def test_displacy_shows_a_sentence_behind_merge_entities(made, caught):
    page = displacy.render(first_sentence(made["merge_entities",]), style="ent", jupyter=False, page=False)
    assert "New York" in page
    assert len(caught) == 1


def test_as_doc_works_behind_a_doc_cleaner_that_left_the_vectors():
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo")
    nlp.add_pipe("doc_cleaner")
    doc = nlp("We sat on the bank")
    assert doc.tensor is None
    assert doc[0:2].as_doc().text.strip() == "We sat"


def test_the_entity_linker_works_behind_merge_entities(caught):
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    ruler = nlp.add_pipe("entity_ruler")
    nlp.add_pipe("elmo")
    nlp.add_pipe("merge_entities")
    linker = nlp.add_pipe("entity_linker", config={"incl_prior": False})

    def knowledge(vocab):
        kb = InMemoryLookupKB(vocab, entity_vector_length=4)
        kb.add_entity("Q1", 1, [1.0] * 4)
        kb.add_entity("Q2", 1, [-1.0] * 4)
        kb.add_alias("New York", ["Q1", "Q2"], [0.5, 0.5])
        return kb

    def examples():
        doc = nlp.make_doc(TEXT)
        starts = [1 if i in (0, 7) else -1 for i in range(len(doc))]
        given = {"entities": [(9, 17, "GPE")], "links": {(9, 17): {"Q1": 1.0}}, "sent_starts": starts}
        return [Example.from_dict(doc, given)]

    linker.set_kb(knowledge)
    nlp.initialize(examples)
    ruler.add_patterns([{"label": "GPE", "pattern": "New York"}])  # initialize has removed its patterns
    caught.clear()
    assert len([entity.kb_id_ for entity in nlp(TEXT).ents if entity.kb_id_]) == 2
    assert len([warning for warning in caught if "elmo" in str(warning.message)]) == 1


@pytest.mark.parametrize("has_static", [True, False])
@pytest.mark.parametrize("has_tensor", [True, False])
def test_spans_without_vectors_answer_as_spacy_does_without_hooks(has_static, has_tensor):
    nlp = spacy.blank("en")
    if has_static:
        nlp.vocab.set_vector("York", np.arange(5, dtype="f"))
    plain, doc = (Doc(nlp.vocab, words=["in", "New", "York", "is"]) for _ in range(2))
    annotate(doc, np.ones((4, 3), np.float32), None, hooks=True, tensor=False)
    doc._.elmo = None
    if has_tensor:
        plain.tensor = doc.tensor = np.arange(8, dtype="f").reshape(4, 2)
    with pytest.warns(UserWarning, match="You get spaCy's own vector"):
        assert doc[1:3].has_vector == plain[1:3].has_vector
    for start, end in ((1, 3), (0, 2), (0, 1), (2, 2)):
        np.testing.assert_array_equal(doc[start:end].vector, plain[start:end].vector)
        assert doc[start:end].vector_norm == plain[start:end].vector_norm
        assert doc[start:end].has_vector == plain[start:end].has_vector


def test_a_doc_that_elmo_runs_on_again_warns_anew(nlp, caught):
    doc = nlp("We sat in New York")
    for _ in range(2):
        doc._.elmo = None
        assert len(doc[0:2].vector)
        assert len(doc[0:2].vector)
        doc = nlp.get_pipe("elmo")(doc)
        np.testing.assert_allclose(doc[0:2].vector, doc._.elmo[0:2].mean(axis=0), atol=1e-6)
    assert len(caught) == 2
