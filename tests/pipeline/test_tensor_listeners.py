"""spaCy's own listeners after `elmo`, and which component sets `doc.tensor`."""

import warnings

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc

from helpers.pipelines import HASHED, TAGGED, WIDTH, blank, examples, listener, pipeline, tags, tensor_listener, train
from spacy_elmo import ElmoError


@pytest.mark.parametrize("frozen", [True, False])
def test_listener_of_spacys_is_a_drop_in(tiny, frozen):
    nlp = pipeline(tiny, tok2vec=tensor_listener(), elmo={"frozen": frozen})
    train(nlp, 200)
    assert tags(nlp) == [right for _, right in TAGGED]


def learn_tags_twice(nlp, n_updates, annotates=()):
    """Learn the tags with the tagger, and as parts of speech with the morphologizer."""
    data = examples(nlp, pos=True)
    optimizer = nlp.initialize(lambda: data)
    optimizer.learn_rate = 0.02
    for _ in range(n_updates):
        nlp.update(data, sgd=optimizer, annotates=list(annotates))


def test_listener_of_spacys_beside_ours(tiny):
    nlp = pipeline(tiny)
    nlp.add_pipe("morphologizer", config={"model": {"tok2vec": tensor_listener()}})
    learn_tags_twice(nlp, 200, annotates=["sentencizer"])
    assert tags(nlp) == [right for _, right in TAGGED]
    assert [token.pos_ for token in nlp("Peter met Anna")] == TAGGED[-1][1]


def test_listener_of_spacys_of_another_width_is_an_error(tiny):
    nlp = pipeline(tiny, tok2vec=tensor_listener(width=96))
    with pytest.raises(ElmoError, match=r"is 96, .* set width = 32"):
        train(nlp, 1)


def test_listener_of_spacys_warns_before_it_gives_zeros(tiny):
    nlp = pipeline(tiny, tok2vec=tensor_listener())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(nlp, 2)
        nlp("We sat here.")
    with nlp.select_pipes(disable="elmo"), pytest.warns(UserWarning, match="'elmo', which it listens to.*zeros"):
        nlp("We sat here.")


# Which component sets doc.tensor


@pytest.mark.parametrize(
    ("layout", "named"),
    [
        (["tok2vec", "elmo", "tagger *", "morphologizer elmo"], "tagger"),
        (["tok2vec", "elmo", "tagger elmo", "morphologizer *"], "morphologizer"),
        (["elmo", "tok2vec", "tagger *", "morphologizer elmo"], "tok2vec"),
        (["elmo", "tok2vec", "tagger elmo"], "tok2vec"),
        (["elmo", "tagger elmo", "tok2vec", "morphologizer tok2vec"], "morphologizer"),
        (["elmo", "tok2vec", "tagger tok2vec", "morphologizer ours"], None),
        (["tok2vec", "elmo", "tagger *", "morphologizer ours"], None),
        (["tok2vec", "tagger *", "elmo", "morphologizer elmo"], None),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, list) else f"refused-{value}" if value else "fine",
)
def test_tensor_holds_what_listeners_were_trained_on_or_linking_is_an_error(tiny, layout, named):
    nlp = spacy.blank("en")

    def build():
        for name, *upstream in map(str.split, layout):
            if name == "tok2vec":
                nlp.add_pipe("tok2vec", config={"model": HASHED})
            elif name == "elmo":
                nlp.add_pipe("elmo", config={"model": {"weights": tiny}})
            else:
                tok2vec = listener() if upstream == ["ours"] else tensor_listener(upstream[0])
                nlp.add_pipe(name, config={"model": {"tok2vec": tok2vec}})
        nlp._link_components()

    if named:
        with pytest.raises(ElmoError, match=f"elmo.*{named}"):
            build()
        return
    build()
    learn_tags_twice(nlp, 200)
    right = [tag for _, tags in TAGGED for tag in tags]
    tokens = [token for text, _ in TAGGED for token in nlp(Doc(nlp.vocab, words=text.split()))]
    for found in ([token.tag_ for token in tokens], [token.pos_ for token in tokens]):
        # out of 15; about half with the vectors of another component
        assert sum(one == other for one, other in zip(found, right, strict=True)) >= 13


@pytest.mark.parametrize("asks", ["elmo", "tok2vec"])
def test_tensor_asked_for_by_a_disabled_listener_and_another_is_an_error_that_names_both(tiny, asks):
    """If it were enabled again, one of the two would read the vectors of another component."""
    nlp = spacy.blank("en")
    nlp.add_pipe("tok2vec", config={"model": HASHED})
    nlp.add_pipe("elmo", config={"model": {"weights": tiny}})
    nlp.add_pipe("tagger", config={"model": {"tok2vec": tensor_listener(asks)}})
    nlp.initialize(lambda: examples(nlp))
    nlp.disable_pipe("tagger")
    other = tensor_listener("tok2vec" if asks == "elmo" else "elmo")
    with pytest.raises(ElmoError, match=r"(?=.*tagger)(?=.*morphologizer)"):
        nlp.add_pipe("morphologizer", config={"model": {"tok2vec": other}})


def test_listener_that_is_refused_leaves_another_pipeline_as_it_was(tiny):
    nlp = tok2vec_before_elmo(tiny, WIDTH, "tok2vec")
    other = spacy.blank("en")
    other.add_pipe("elmo", source=nlp)
    with pytest.raises(ElmoError, match=r"(?=.*tagger)(?=.*morphologizer)"):
        other.add_pipe("morphologizer", config={"model": {"tok2vec": tensor_listener()}})
    assert tags(nlp) == [right for _, right in TAGGED]


def test_listener_of_spacys_that_was_removed_asks_for_nothing(tiny):
    nlp = spacy.blank("en")
    nlp.add_pipe("tok2vec", config={"model": HASHED})
    nlp.add_pipe("elmo", config={"model": {"weights": tiny}})
    nlp.add_pipe("tagger", config={"model": {"tok2vec": tensor_listener()}})
    kept = nlp.remove_pipe("tagger")
    nlp.add_pipe("morphologizer", config={"model": {"tok2vec": tensor_listener("tok2vec")}})
    nlp.get_pipe("tok2vec").initialize(lambda: examples(nlp), nlp=nlp)
    doc = nlp.get_pipe("tok2vec")(nlp.make_doc("We sat here."))
    before = doc.tensor.copy()
    np.testing.assert_array_equal(nlp.get_pipe("elmo")(doc).tensor, before)
    assert kept[0] == "tagger"


def tok2vec_before_elmo(tiny, width, upstream="*", **settings):
    """Make a pipeline of tok2vec and a tagger that listens to it. Train it, and then add elmo between the two."""
    nlp = spacy.blank("en")
    nlp.add_pipe("tok2vec", config={"model": {**HASHED, "width": width}})
    nlp.add_pipe("tagger", config={"model": {"tok2vec": tensor_listener(upstream, width)}})
    data = examples(nlp)
    optimizer = nlp.initialize(lambda: data)
    optimizer.learn_rate = 0.02
    for _ in range(60):
        nlp.update(data, sgd=optimizer)
    assert tags(nlp) == [right for _, right in TAGGED]
    nlp.add_pipe("elmo", config={"model": {"weights": tiny}, **settings}, before="tagger")
    return nlp


@pytest.mark.parametrize("width", [WIDTH, 16])
@pytest.mark.parametrize("upstream", ["*", "tok2vec"])
def test_tensor_of_another_component_stays_for_a_listener_that_was_disabled_when_spacy_linked(
    tiny, tmp_path, width, upstream
):
    right = [right for _, right in TAGGED]
    nlp = tok2vec_before_elmo(tiny, width, upstream)
    assert tags(nlp) == right
    nlp.to_disk(tmp_path / "saved")
    loaded = spacy.load(tmp_path / "saved", disable=["tagger"])
    loaded.enable_pipe("tagger")
    assert tags(loaded) == right
    with nlp.select_pipes(disable="tagger"):
        nlp._link_components()
    assert tags(nlp) == right
    other = spacy.blank("en")
    other.add_pipe("elmo", source=nlp)  # links this elmo in a pipeline without the tagger
    assert tags(nlp) == right


def test_setting_tensor_leaves_that_of_another_component_alone_with_one_warning(tiny):
    nlp = tok2vec_before_elmo(tiny, WIDTH, vectors="tensor")
    with pytest.warns(UserWarning, match="already holds the output of 'tok2vec'") as told:
        assert tags(nlp) == [right for _, right in TAGGED]
    assert len(told) == 1


@pytest.mark.parametrize("has_run", [False, True])
@pytest.mark.parametrize("width", [WIDTH, 5])
def test_tensor_that_was_set_by_hand_stays(tiny, width, has_run):
    nlp = blank(tiny, vectors="tensor")
    doc = nlp("We sat here.") if has_run else nlp.make_doc("We sat here.")
    doc.tensor = np.ones((len(doc), width), dtype="f")
    with pytest.warns(UserWarning, match="already holds the output of a component before it"):
        nlp.get_pipe("elmo")(doc)
    np.testing.assert_array_equal(doc.tensor, np.ones((len(doc), width)))


def test_elmo_runs_again_on_a_doc_whose_tensor_was_cleaned(tiny):
    nlp = blank(tiny, vectors="tensor")
    nlp.add_pipe("doc_cleaner")
    doc = nlp("We sat here.")
    assert doc.tensor is None
    nlp.get_pipe("elmo")(doc)
    np.testing.assert_array_equal(doc.tensor, doc._.elmo)


def test_own_tensor_is_replaced_however_the_doc_came_back(tiny):
    nlp = blank(tiny, vectors="tensor")
    elmo = nlp.get_pipe("elmo")
    docs = [nlp("New York is big ."), Doc(nlp.vocab).from_bytes(nlp("New York is big .").to_bytes())]
    docs += list(nlp.pipe(["New York is big ."] * 2, n_process=2))
    for doc in docs:
        with doc.retokenize() as retokenizer:
            retokenizer.merge(doc[0:2])
            retokenizer.split(doc[3], ["bi", "g"], heads=[doc[3], doc[3]])
        elmo(doc)
        expected = elmo(Doc(nlp.vocab, words=[token.text for token in doc]))
        np.testing.assert_array_equal(doc.tensor, expected.tensor)
