"""Who listens to `elmo`, and which rows are ready for which Doc. Also for listeners that two pipelines share, and after
a pipeline is deleted."""

import copy
import gc
import pickle
import warnings
import weakref

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc

from helpers.pipelines import (
    bilm_of,
    blank,
    examples,
    listener,
    moved,
    parameters,
    pipeline,
    tags,
    tensor_listener,
    train,
)
from spacy_elmo.errors import WeightsError
from spacy_elmo.pipeline.listener import link_of
from spacy_elmo.pipeline.shim import shim_of

WORDS = ["Peter", "met", "Anna"]


@pytest.fixture
def make(tiny):
    """Return a function that makes a trained pipeline of elmo and tagger."""

    def make(tok2vec=None, frozen=True):
        nlp = pipeline(tiny, tok2vec=tok2vec, elmo={"frozen": frozen}, order=["elmo"])
        data = examples(nlp)
        optimizer = nlp.initialize(lambda: data)
        for _ in range(2):
            nlp.update(data, sgd=optimizer)
        return nlp

    return make


@pytest.mark.parametrize("spacys", [False, True])
@pytest.mark.parametrize("frozen", [True, False])
def test_listener_that_was_disabled_while_spacy_linked_goes_on_learning(tiny, frozen, spacys):
    """`spacy train` does this with a sourced component."""
    nlp = pipeline(tiny, elmo={"frozen": frozen}, tok2vec=tensor_listener() if spacys else None)
    train(nlp, 2)
    with nlp.select_pipes(disable="tagger"):
        nlp._link_components()
    elmo = nlp.get_pipe("elmo")
    assert elmo.listener_map == {}
    before, tagger = shim_of(elmo.model).digest, nlp.get_pipe("tagger").model
    learned_before = tagger.to_bytes()
    data = examples(nlp)
    for _ in range(3):
        nlp.update(data, annotates=["sentencizer"])
    assert tagger.to_bytes() != learned_before
    assert (shim_of(elmo.model).digest == before) == frozen
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nlp("We sat here.")


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("tok2vec", [listener(), tensor_listener()], ids=["ours", "spacys"])
def test_dropped_pipeline_is_freed_without_the_garbage_collector(make, tok2vec, frozen):
    gc.collect()
    gc.disable()
    try:
        nlp = make(tok2vec, frozen)
        nlp(" ".join(WORDS))
        bilm = weakref.ref(bilm_of(nlp))
        del nlp
        assert bilm() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("tok2vec", [listener(), tensor_listener()], ids=["ours", "spacys"])
@pytest.mark.parametrize("how", [copy.deepcopy, lambda nlp: pickle.loads(pickle.dumps(nlp))], ids=["copied", "pickled"])
def test_copy_of_a_trained_pipeline_lives_and_learns_on_its_own(make, tok2vec, frozen, how):
    nlp = make(tok2vec, frozen)
    expected, before, bilm = tags(nlp), parameters(nlp), weakref.ref(bilm_of(nlp))
    copied = how(nlp)
    data = examples(copied)
    copied.update(data, sgd=copied.create_optimizer())
    copied.update(data, sgd=copied.create_optimizer())
    assert bool(moved(before, parameters(copied))) != frozen
    assert not moved(before, parameters(nlp))
    assert tags(nlp) == expected
    copied = how(nlp)
    del nlp
    gc.collect()
    assert bilm() is None
    assert tags(copied) == expected
    copied.update(data, sgd=copied.create_optimizer())


@pytest.mark.parametrize("first", [0, 1])
def test_listener_of_two_pipelines_reads_what_the_elmo_of_each_gave(make, first):
    """A sourced component is the same object in both pipelines."""
    one = make()
    other = spacy.blank("en", vocab=one.vocab)
    other.add_pipe("elmo", source=make())
    other.add_pipe("tagger", source=one)
    tagger = one.get_pipe("tagger")
    assert other.get_pipe("tagger") is tagger
    pipelines = [one, other]
    elmos = [nlp.get_pipe("elmo") for nlp in pipelines]
    for number in (first, 1 - first, first):
        doc = elmos[number](Doc(one.vocab, words=WORDS))
        link = next(link for node in tagger.model.walk() if (link := link_of(node)))
        assert link.get_upstream([doc]) is elmos[number].hub
        np.testing.assert_array_equal(elmos[number].rows([doc])[0], link.get_upstream([doc]).rows([doc])[0])


def test_listener_goes_on_with_the_pipeline_that_is_left(make):
    one = make()
    other = spacy.blank("en", vocab=one.vocab)
    other.add_pipe("elmo", source=make())
    other.add_pipe("tagger", source=one)
    expected = [token.tag_ for token in one(Doc(one.vocab, words=WORDS))]
    del other
    gc.collect()
    assert [token.tag_ for token in one(Doc(one.vocab, words=WORDS))] == expected


def test_listener_that_another_pipeline_sources_goes_on_learning_with_its_own_elmo(make, tiny):
    """The last step of `nlp.update` waits for the next update, so the weights change after the sourcing."""
    nlp, other = make(frozen=False), blank(tiny)
    other.add_pipe("tagger", source=nlp)
    data, optimizer = examples(nlp), nlp.resume_training()
    for _ in range(2):
        nlp.update(data, sgd=optimizer)
    with pytest.raises(WeightsError, match="trained with other weights"):
        other("We sat here.")


@pytest.mark.parametrize("tok2vec", [None, tensor_listener()], ids=["ours", "spacys"])
def test_initialize_forgets_which_weights_a_listener_was_trained_with(make, tiny, data, tok2vec):
    nlp = pipeline(str(data / "tiny_2l_clip"), tok2vec=tok2vec, order=["elmo"])
    nlp.initialize(lambda: examples(nlp))
    nlp.get_pipe("tagger").from_bytes(make(tok2vec).get_pipe("tagger").to_bytes())
    with pytest.raises(WeightsError, match="trained with other weights"):
        nlp("We sat here.")
    nlp.initialize(lambda: examples(nlp))
    assert len(nlp("We sat here.")) == 4


@pytest.mark.parametrize("tok2vec", [None, tensor_listener()], ids=["ours", "spacys"])
def test_listener_that_is_removed_is_served_no_more(make, tok2vec):
    nlp = make(tok2vec)
    elmo, tagger = nlp.get_pipe("elmo"), nlp.get_pipe("tagger")
    assert elmo.listening_components == ["tagger"]
    assert all(elmo.remove_listener(node, "tagger") for node in elmo.listeners)
    assert elmo.listeners == []
    assert not elmo.hub.is_listened_to
    assert not any(elmo.remove_listener(node, "tagger") for node in tagger.model.walk())


def test_fine_tuned_listener_refuses_weights_that_are_loaded_later(make):
    nlp, other = make(frozen=False), make()
    own = nlp.get_pipe("elmo").to_bytes()
    expected = [token.tag_ for token in nlp(Doc(nlp.vocab, words=WORDS))]
    nlp.get_pipe("elmo").from_bytes(other.get_pipe("elmo").to_bytes())
    with pytest.raises(WeightsError, match="trained with other weights"):
        nlp(Doc(nlp.vocab, words=WORDS))
    nlp.get_pipe("elmo").from_bytes(own)
    assert [token.tag_ for token in nlp(Doc(nlp.vocab, words=WORDS))] == expected


@pytest.mark.parametrize("how", ["sourced", "loaded"])
def test_listener_of_a_file_without_a_digest_keeps_to_the_weights_that_it_was_first_linked_to(make, data, how):
    nlp, other = make(), blank(str(data / "tiny_2l_clip"))
    (link,) = [link for node in nlp.get_pipe("tagger").model.walk() if (link := link_of(node))]
    link.load(None)  # as a file of an earlier version does
    nlp("We sat here.")
    if how == "sourced":
        other.add_pipe("tagger", source=nlp)
    else:
        nlp.get_pipe("elmo").from_bytes(other.get_pipe("elmo").to_bytes())
    with pytest.raises(WeightsError, match="trained with other weights"):
        (other if how == "sourced" else nlp)("We sat here.")


# Which rows are ready for which Doc


def test_rows_stay_in_the_process_and_go_with_the_doc(tiny):
    nlp = pipeline(tiny)
    train(nlp, 1)
    doc = nlp("We sat here.")
    elmo = nlp.get_pipe("elmo")
    assert elmo.missing([doc]) == []
    others = [Doc(nlp.vocab).from_bytes(doc.to_bytes()), doc[:2].as_doc()]
    assert elmo.missing(others) == others
    rows = weakref.ref(elmo.rows([doc])[0])
    del doc
    assert rows() is None


def test_words_changed_behind_elmo_get_vectors_of_their_own(tiny):
    nlp = pipeline(tiny)
    train(nlp, 2)
    elmo = nlp.get_pipe("elmo")
    doc = elmo(nlp.make_doc("New York is big ."))
    with doc.retokenize() as retokenizer:
        retokenizer.merge(doc[0:2])
        retokenizer.split(doc[3], ["bi", "g"], heads=[doc[3], doc[3]])
    assert len(doc) == 5
    assert elmo.missing([doc]) == [doc]
    with pytest.warns(UserWarning, match="was changed since"):
        nlp.get_pipe("tagger")(doc)


def test_doc_of_another_pipeline_is_not_read_with_its_bilm(tiny):
    one, other = (pipeline(tiny, elmo={"frozen": False}) for _ in range(2))
    train(one, 3)
    train(other, 5)
    text = "We sat here ."
    expected = other.get_pipe("tagger").model.predict([other(text)])[0]
    with pytest.warns(UserWarning, match="has not run on a Doc"):
        got = other.get_pipe("tagger").model.predict([one(text)])[0]
    np.testing.assert_allclose(got, expected, atol=1e-5)
