"""What elmo reads of each token: its text, or another attribute."""

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc, DocBin

from helpers.pipelines import blank, examples, listener
from spacy_elmo import ElmoError

WORDS, LEMMAS, NORMS = ["We", "sat", "THERE"], ["we", "sit", "there"], ["w", "s", "t"]


def make(nlp, words=WORDS, **more):
    doc = Doc(nlp.vocab, words=words, lemmas=LEMMAS, **more)
    for token, norm in zip(doc, NORMS, strict=True):
        token.norm_ = norm
    return doc


@pytest.mark.parametrize(
    ("attr", "read"), [("ORTH", WORDS), ("LEMMA", LEMMAS), ("NORM", NORMS), ("LOWER", ["we", "sat", "there"])]
)
def test_reads_that_attribute(tiny, attr, read):
    nlp, plain = blank(tiny, model={"attr": attr}), blank(tiny)
    doc = nlp.get_pipe("elmo")(make(nlp))
    expected = plain.get_pipe("elmo")(Doc(plain.vocab, words=read))
    np.testing.assert_array_equal(doc._.elmo, expected._.elmo)
    assert doc[0].similarity(doc[0]) == pytest.approx(1)
    loaded = blank(tiny).from_bytes(nlp.to_bytes())
    np.testing.assert_array_equal(loaded.get_pipe("elmo")(make(loaded))._.elmo, doc._.elmo)


def test_a_pipeline_keeps_it(tiny, tmp_path):
    nlp = blank(tiny, model={"attr": "LOWER"})
    nlp.to_disk(tmp_path / "saved")
    np.testing.assert_array_equal(spacy.load(tmp_path / "saved")("WE sat")._.elmo, nlp("we Sat")._.elmo)


def test_an_unknown_one_is_refused(tiny):
    with pytest.raises(ValueError, match="attr"):
        blank(tiny, model={"attr": "SHAPE"})


def test_a_token_without_lemma_is_one_clear_error(tiny):
    nlp = blank(tiny, model={"attr": "LEMMA"})
    with pytest.raises(ElmoError, match=r'attr = "LEMMA", but the token .We. has no lemma; put a lemmatizer before'):
        nlp("We sat")


def test_whitespace_needs_none(tiny):
    nlp = blank(tiny, model={"attr": "LEMMA"})
    doc = Doc(nlp.vocab, words=["We", "\n", "sat"], lemmas=["we", "", "sit"])
    assert not nlp.get_pipe("elmo")(doc)._.elmo[1].any()


def test_what_changes_the_attribute_changes_the_doc(tiny):
    nlp = blank(tiny, model={"attr": "LEMMA"})
    doc = nlp.get_pipe("elmo")(make(nlp))
    doc[0].norm_ = "other"
    assert doc[1]._.elmo is not None
    doc.tensor = np.zeros(0, dtype=np.float32)
    doc[1].lemma_ = "saw"
    for item in (doc, doc[1], doc[1:2]):
        with pytest.raises(ElmoError, match="belongs to other lemmas than the Doc now has"):
            item._.elmo.shape  # noqa: B018
    assert nlp.get_pipe("elmo")(doc)._.elmo is not None


def test_what_leaves_the_attribute_leaves_the_doc(tiny):
    nlp = blank(tiny)
    doc = nlp.get_pipe("elmo")(make(nlp))
    doc.tensor = np.zeros(0, dtype=np.float32)
    doc[1].lemma_ = "saw"
    assert doc._.elmo is not None


def test_docs_travel_with_it(tiny):
    nlp = blank(tiny, model={"attr": "LEMMA"})
    doc = nlp.get_pipe("elmo")(make(nlp))
    (again,) = DocBin(docs=[doc], store_user_data=True, attrs=["ORTH", "LEMMA"]).get_docs(nlp.vocab)
    np.testing.assert_array_equal(again._.elmo, doc._.elmo)
    again[0].lemma_ = "other"
    with pytest.raises(ElmoError, match="other lemmas"):
        again._.elmo.shape  # noqa: B018
    doc.user_data["._.", "elmo_attr", None, None] = "SHAPE"
    doc.tensor = np.zeros(0, dtype=np.float32)
    with pytest.raises(ElmoError, match="other words"):
        doc._.elmo.shape  # noqa: B018


def test_a_listener_reads_it_anew_where_it_has_changed(tiny):
    nlp = blank(tiny, model={"attr": "LEMMA"})
    nlp.add_pipe("tagger", config={"model": {"tok2vec": listener()}})
    tagger, elmo = nlp.get_pipe("tagger"), nlp.get_pipe("elmo")
    tagger.add_label("N")
    nlp.initialize()
    doc = elmo(make(nlp))
    assert elmo.missing([doc]) == []
    doc[1].lemma_ = "saw"
    assert elmo.missing([doc]) == [doc]


def test_a_training_whose_lemmas_come_from_a_component(tiny):
    nlp = spacy.blank("en")

    @spacy.Language.component("test_lowering_lemmatizer")
    def lemmatize(doc):
        for token in doc:
            token.lemma_ = token.lower_ or token.text
        return doc

    nlp.add_pipe("test_lowering_lemmatizer")
    nlp.add_pipe("elmo", config={"model": {"weights": tiny, "attr": "LEMMA"}})
    nlp.add_pipe("tagger", config={"model": {"tok2vec": listener()}})
    data = examples(nlp)
    optimizer = nlp.initialize(lambda: data)
    losses = nlp.update(data, sgd=optimizer, annotates=["test_lowering_lemmatizer"])
    assert losses["tagger"] > 0
    with pytest.raises(ElmoError, match="annotating_components"):
        nlp.update(examples(nlp), sgd=optimizer)
