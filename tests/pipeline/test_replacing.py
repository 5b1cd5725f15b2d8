"""`replace_listeners`: the same scores without `elmo`, and a config that describes the new model."""

import copy

import pytest
import spacy

from helpers.pipelines import HASHED, assert_same_scores, blank, listener, pipeline, scores, tensor_listener, train
from spacy_elmo import ElmoError


@pytest.mark.parametrize("frozen", [True, False])
def test_replaced_listeners_give_the_same_scores_without_elmo(tiny, frozen, tmp_path):
    nlp = pipeline(tiny, do_layer_norm=True, elmo={"frozen": frozen})
    train(nlp)
    expected = scores(nlp)
    nlp.replace_listeners("elmo", "tagger", ["model.tok2vec"])
    tok2vec = nlp.config["components"]["tagger"]["model"]["tok2vec"]
    assert (tok2vec["@architectures"], tok2vec["frozen"]) == ("spacy-elmo.Tok2Vec.v1", frozen)
    assert nlp.get_pipe("elmo").listeners == []
    nlp.remove_pipe("elmo")
    nlp.to_disk(tmp_path / "replaced")
    for other in (nlp, spacy.load(tmp_path / "replaced")):
        assert_same_scores(expected, scores(other))


def test_replaced_listener_of_spacys_gives_the_same_scores(tiny, tmp_path):
    nlp = pipeline(tiny, tok2vec=tensor_listener(), elmo={"layers": "top"})
    train(nlp)
    expected = scores(nlp)
    nlp.replace_listeners("elmo", "tagger", ["model.tok2vec"])
    nlp.to_disk(tmp_path / "replaced")
    for other in (nlp, spacy.load(tmp_path / "replaced")):
        assert_same_scores(expected, scores(other))


def test_replacing_the_listener_within_a_concatenation(tiny, tmp_path):
    concat = {"@architectures": "spacy-elmo.ConcatTok2Vec.v1", "elmo": listener(), "width": 24}
    nlp = pipeline(tiny, tok2vec=concat)
    train(nlp, 2)
    expected = scores(nlp)
    nlp.replace_listeners("elmo", "tagger", ["model.tok2vec.elmo"])
    nlp.to_disk(tmp_path / "replaced")
    assert_same_scores(expected, scores(spacy.load(tmp_path / "replaced")))


@pytest.mark.parametrize("upstream", ["tok2vec", "*"])
def test_replacing_a_listener_behind_that_of_another_component(tiny, tmp_path, upstream):
    other = tensor_listener(upstream)
    concat = {"@architectures": "spacy-elmo.ConcatTok2Vec.v1", "embed": other, "elmo": listener(), "width": 24}
    nlp = spacy.blank("en")
    nlp.add_pipe("tok2vec", config={"model": HASHED})
    nlp.add_pipe("elmo", config={"model": {"weights": tiny}})
    nlp.add_pipe("tagger", config={"model": {"tok2vec": concat}})
    train(nlp, 2, annotates=())
    expected = scores(nlp)
    nlp.replace_listeners("elmo", "tagger", ["model.tok2vec.elmo"])
    assert nlp.config["components"]["tagger"]["model"]["tok2vec"]["embed"] == other
    nlp.remove_pipe("elmo")
    nlp.to_disk(tmp_path / "replaced")
    assert_same_scores(expected, scores(spacy.load(tmp_path / "replaced")))


PARTS = {
    "@architectures": "spacy-elmo.ConcatTok2Vec.v1",
    "elmo": listener(initial_gamma=2.0),
    "embed": listener(mix="top"),
    "width": 24,
}


def test_listeners_of_a_renamed_elmo_are_replaced(tiny, tmp_path):
    nlp = blank(tiny)
    nlp.rename_pipe("elmo", "vectors")
    parts = {"elmo": listener(upstream="vectors"), "embed": listener(upstream="vectors", mix="top")}
    nlp.add_pipe("tagger", config={"model": {"tok2vec": {**PARTS, **parts}}})
    train(nlp, 2, annotates=())
    expected = scores(nlp)
    nlp.replace_listeners("vectors", "tagger", ["model.tok2vec.elmo", "model.tok2vec.embed"])
    nlp.remove_pipe("vectors")
    nlp.to_disk(tmp_path / "replaced")
    assert_same_scores(expected, scores(spacy.load(tmp_path / "replaced")))


def test_two_listeners_of_a_component_are_replaced(tiny, tmp_path):
    nlp = pipeline(tiny, tok2vec=PARTS)
    train(nlp, 2)
    expected = scores(nlp)
    nlp.replace_listeners("elmo", "tagger", ["model.tok2vec.elmo", "model.tok2vec.embed"])
    assert nlp.get_pipe("elmo").listeners == []
    tok2vec = nlp.config["components"]["tagger"]["model"]["tok2vec"]
    assert (tok2vec["elmo"]["mix"], tok2vec["embed"]["mix"]) == ("learned", "top")
    nlp.remove_pipe("elmo")
    nlp.to_disk(tmp_path / "replaced")
    assert_same_scores(expected, scores(spacy.load(tmp_path / "replaced")))


def test_replacing_more_than_the_listener_is_an_error_that_names_its_path(tiny):
    concat = {"@architectures": "spacy-elmo.ConcatTok2Vec.v1", "elmo": listener(), "width": 24}
    nlp = pipeline(tiny, tok2vec=concat)
    train(nlp, 2)
    with pytest.raises(ElmoError, match=r"for example 'model\.tok2vec\.elmo' first"):
        nlp.replace_listeners("elmo", "tagger", ["model.tok2vec"])


def test_listeners_replaced_in_another_order_are_an_error(tiny):
    nlp = pipeline(tiny, tok2vec=PARTS)
    train(nlp, 2)
    with pytest.raises(ElmoError, match=r"for example 'model\.tok2vec\.elmo' first"):
        nlp.replace_listeners("elmo", "tagger", ["model.tok2vec.embed", "model.tok2vec.elmo"])


@pytest.mark.parametrize(
    ("parts", "wrong"),
    [
        (["elmo"], ["model.tok2vec"]),
        (["elmo", "embed"], ["model.tok2vec.embed", "model.tok2vec.elmo"]),
        (["elmo", "embed"], ["model.tok2vec.elmo", "model.tok2vec"]),
    ],
)
def test_replacing_at_a_wrong_path_leaves_the_config_as_it_was(tiny, parts, wrong):
    kept = {*parts, "@architectures", "width"}
    nlp = pipeline(tiny, tok2vec={name: value for name, value in PARTS.items() if name in kept})
    train(nlp, 2)
    before = copy.deepcopy(nlp.config)
    for _ in range(2):
        with pytest.raises(ElmoError, match="for example"):
            nlp.replace_listeners("elmo", "tagger", wrong)
        assert nlp.config == before
    nlp.replace_listeners("elmo", "tagger", [f"model.tok2vec.{name}" for name in parts])
    nlp.remove_pipe("elmo")
    nlp("We sat here.")
