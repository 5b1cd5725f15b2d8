"""Task components that listen to `elmo`: they get its layers, learn their own mix, and are never served nothing."""

import copy
import gc
import warnings
import weakref

import numpy as np
import pytest
import spacy
import torch
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Maxout, chain, concatenate, with_array

from spacy_elmo import ElmoError, WeightsError
from spacy_elmo.bilm import BiLM
from spacy_elmo.pipeline.listener import build_listener, link_of
from spacy_elmo.pipeline.mix import mix_weights
from spacy_elmo.pipeline.rows import to_layers
from spacy_elmo.pipeline.shim import shim_of

WIDTH = 32  # of tests/data/tiny_2l_skip
TAGGED = [
    ("I live in Paris .", ["PRON", "VERB", "ADP", "PROPN", "PUNCT"]),
    ("She works . He does not .", ["PRON", "VERB", "PUNCT", "PRON", "VERB", "PART", "PUNCT"]),
    ("", []),
    ("Peter met Anna", ["PROPN", "VERB", "PROPN"]),
]


@pytest.fixture(scope="module")
def tiny(data):
    return str(data / "tiny_2l_skip")


def listener(**settings):
    return {"@architectures": "spacy-elmo.ElmoListener.v1", "width": WIDTH, **settings}


def pipeline(tiny, *, tok2vec=None, elmo=None, order=("sentencizer", "elmo"), **settings):
    nlp = spacy.blank("en")
    for name in order:
        nlp.add_pipe(name, config={"model": {"weights": tiny}, **(elmo or {})} if name == "elmo" else {})
    nlp.add_pipe("tagger", config={"model": {"tok2vec": tok2vec or listener(**settings)}})
    return nlp


def examples(nlp):
    return [
        Example(Doc(nlp.vocab, words=text.split()), Doc(nlp.vocab, words=text.split(), tags=tags))
        for text, tags in TAGGED
    ]


def train(nlp, n_updates=30, exclude=(), annotates=("sentencizer",)):
    """What `spacy train` does."""
    data = examples(nlp)
    optimizer = nlp.initialize(lambda: data)
    optimizer.learn_rate = 0.02
    losses = {}
    for _ in range(n_updates):
        losses = nlp.update(data, sgd=False, losses={}, exclude=list(exclude), annotates=list(annotates))
        for name, pipe in nlp.pipeline:
            if name not in exclude and hasattr(pipe, "finish_update"):
                pipe.finish_update(optimizer)
    return losses


def tags(nlp):
    return [[token.tag_ for token in nlp(Doc(nlp.vocab, words=text.split()))] for text, _ in TAGGED]


def scores(nlp, docs=TAGGED):
    tagger = nlp.get_pipe("tagger")
    annotated = [Doc(nlp.vocab, words=text.split()) for text, _ in docs]
    for name, pipe in nlp.pipeline:
        if name != "tagger":
            annotated = list(pipe.pipe(annotated))
    return [np.asarray(score) for score in tagger.model.predict(annotated)]


def node_of(nlp, name, component="tagger"):
    return next(node for node in nlp.get_pipe(component).model.walk() if node.name == name)


def learned(nlp):
    return mix_weights(node_of(nlp, "elmo_scalar_mix"))


def test_learns_its_task_and_its_own_weights(tiny):
    nlp = pipeline(tiny)
    losses = train(nlp, 150)
    assert tags(nlp) == [right for _, right in TAGGED]
    assert losses["elmo"] == 0.0
    weights, gamma = learned(nlp)
    assert max(abs(weight - 1 / 3) for weight in weights) > 0.01
    assert sum(weights) == pytest.approx(1)
    assert gamma != 1.0


def test_gets_all_layers_whatever_the_component_puts_on_the_token(tiny):
    nlp = pipeline(tiny, mix=[1.0, 10.0, 100.0], elmo={"layers": "top"})
    nlp.initialize(lambda: examples(nlp))
    doc = nlp("We sat here. He went there.")
    whole = spacy.blank("en")
    whole.add_pipe("sentencizer")
    whole.add_pipe("elmo", config={"model": {"weights": tiny}, "keep_layers": True})
    layers = whole("We sat here. He went there.")._.elmo_layers
    np.testing.assert_allclose(doc._.elmo, layers[2], atol=1e-5)
    rows = nlp.get_pipe("elmo").rows([doc])[0]
    np.testing.assert_allclose(to_layers(torch.from_numpy(rows), WIDTH), layers, atol=1e-5)
    mixed = chain(node_of(nlp, "elmo_listener"), node_of(nlp, "elmo_scalar_mix")).predict([doc])[0]
    np.testing.assert_allclose(mixed, np.tensordot([1, 10, 100], layers, 1), atol=1e-3)
    assert doc._.elmo_layers is None


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


def test_prediction_is_that_of_training_in_any_batch(tiny):
    nlp = pipeline(tiny)
    train(nlp, 5)
    alone = [scores(nlp, [one])[0] for one in TAGGED if one[0]]
    together = [score for score in scores(nlp) if len(score)]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_saved_pipeline_restores_the_mix_exactly_and_scores_the_same(tiny, tmp_path):
    nlp = pipeline(tiny)
    train(nlp)
    expected = scores(nlp)
    nlp.to_disk(tmp_path / "saved")
    from_bytes = spacy.util.load_model_from_config(nlp.config).from_bytes(nlp.to_bytes())
    for other in (spacy.load(tmp_path / "saved"), from_bytes):
        assert learned(other) == learned(nlp)
        for one, theirs in zip(expected, scores(other), strict=True):
            np.testing.assert_allclose(one, theirs, rtol=0, atol=1e-5)  # other company, other rounding


def input_and_output():
    encoder = with_array(Maxout(nO=24, nI=WIDTH, nP=2, dropout=0.0, normalize=True))
    return concatenate(chain(build_listener(WIDTH), encoder), build_listener(WIDTH, initial_gamma=2.0))


@pytest.mark.parametrize("frozen", [True, False])
def test_two_listeners_in_one_component_work(tiny, frozen):
    """As in the paper's SQuAD model: ELMo at the input and at the output."""
    spacy.registry.architectures("test.InputAndOutput.v1", func=input_and_output)
    nlp = pipeline(tiny, tok2vec={"@architectures": "test.InputAndOutput.v1"}, elmo={"frozen": frozen})
    assert len(nlp.get_pipe("elmo").listeners) == 2
    train(nlp, 150)
    assert tags(nlp) == [right for _, right in TAGGED]
    mixes = [mix_weights(node) for node in nlp.get_pipe("tagger").model.walk() if node.name == "elmo_scalar_mix"]
    assert len(mixes) == 2
    assert all(max(weights) - min(weights) > 0.01 for weights, _ in mixes)  # gradients reach both


@pytest.mark.parametrize("frozen", [True, False])
def test_each_component_learns_its_own_mix(tiny, frozen):
    nlp = pipeline(tiny, elmo={"frozen": frozen})
    nlp.add_pipe("morphologizer", config={"model": {"tok2vec": listener(do_layer_norm=True, dropout=0.1)}})
    data = examples(nlp)
    for example in data:
        for token in example.reference:
            token.set_morph("Number=Sing" if token.text.istitle() else "Number=Plur")
            token.pos_ = token.tag_
    optimizer = nlp.initialize(lambda: data)
    for _ in range(10):
        nlp.update(data, sgd=optimizer, annotates=["sentencizer"])
    mixes = [mix_weights(node_of(nlp, "elmo_scalar_mix", name)) for name in ("tagger", "morphologizer")]
    assert mixes[0] != mixes[1]


@pytest.mark.parametrize(
    "name", ["ner", "parser", "tagger", "morphologizer", "spancat", "textcat", "textcat_multilabel"]
)
def test_every_listener_component_trains(tiny, name):
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"model": {"weights": tiny}})
    config = {"model": {"tok2vec": listener()}}
    if name.startswith("textcat"):
        config = {"model": {"@architectures": "spacy.TextCatReduce.v1", "exclusive_classes": name == "textcat"}}
        config["model"] |= {"use_reduce_first": False, "use_reduce_last": False, "use_reduce_max": False}
        config["model"] |= {"use_reduce_mean": True, "tok2vec": listener()}
    if name == "parser":
        config["min_action_freq"] = 1
    nlp.add_pipe(name, config=config)
    words = ["Peter", "met", "Anna"]
    gold = {
        "entities": ["U-PER", "O", "U-PER"],
        "heads": [1, 1, 1],
        "deps": ["nsubj", "ROOT", "obj"],
        "tags": ["A", "B", "A"],
        "pos": ["NOUN", "VERB", "NOUN"],
        "morphs": ["Number=Sing", "", ""],
        "cats": {"A": 1.0, "B": 0.0},
        "spans": {"sc": [(0, 5, "PER")]},
    }
    data = [Example.from_dict(Doc(nlp.vocab, words=words), {"words": words, **gold}), *examples(nlp)[2:3]]
    nlp.initialize(lambda: data[:1])
    before = nlp.get_pipe(name).model.to_bytes()
    for _ in range(3):
        losses = nlp.update(data)
    assert losses[name] > 0
    assert nlp.get_pipe(name).model.to_bytes() != before
    nlp("Peter met Anna")


# Other routes to the same vectors


def test_concatenation_with_hashed_features_in_front_of_an_encoder(tiny):
    embed = {"@architectures": "spacy.MultiHashEmbed.v2", "width": 16, "attrs": ["NORM"], "rows": [100]}
    encode = {"@architectures": "spacy.MaxoutWindowEncoder.v2", "width": 24, "window_size": 1, "maxout_pieces": 2}
    tok2vec = {
        "@architectures": "spacy-elmo.ConcatTok2Vec.v1",
        "elmo": listener(),
        "width": 24,
        "embed": {**embed, "include_static_vectors": False},
        "encode": {**encode, "depth": 1},
    }
    nlp = pipeline(tiny, tok2vec=tok2vec)
    train(nlp, 30)
    assert tags(nlp) == [right for _, right in TAGGED]
    assert learned(nlp)[1] != 1.0


def test_bilm_of_the_components_own(tiny):
    bilm = {"@architectures": "spacy-elmo.BiLM.v1", "weights": tiny}
    bilm["get_spans"] = {"@misc": "spacy-elmo.sentence_spans.v1"}
    tok2vec = {"@architectures": "spacy-elmo.Tok2Vec.v1", "bilm": bilm, "width": WIDTH}
    inline, listening = spacy.blank("en"), pipeline(tiny)
    inline.add_pipe("sentencizer")
    inline.add_pipe("tagger", config={"model": {"tok2vec": tok2vec}})
    results = []
    for nlp in (inline, listening):
        spacy.util.fix_random_seed(0)
        train(nlp, 10)
        results.append(scores(nlp))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


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
        for one, theirs in zip(expected, scores(other), strict=True):
            np.testing.assert_allclose(one, theirs, atol=1e-5)


def test_sourced_component_listens_to_the_elmo_there(tiny, tmp_path):
    nlp = pipeline(tiny)
    train(nlp)
    expected = scores(nlp)
    other = spacy.blank("en")
    other.add_pipe("sentencizer")
    other.add_pipe("elmo", config={"model": {"weights": tiny}})
    other.add_pipe("tagger", source=nlp)
    for one, theirs in zip(expected, scores(other), strict=True):
        np.testing.assert_allclose(one, theirs, rtol=0, atol=1e-5)


def tensor_listener():
    return {"@architectures": "spacy.Tok2VecListener.v1", "width": WIDTH, "upstream": "elmo"}


@pytest.mark.parametrize("frozen", [True, False])
def test_listener_of_spacys_is_a_drop_in(tiny, frozen):
    nlp = pipeline(tiny, tok2vec=tensor_listener(), elmo={"frozen": frozen})
    train(nlp, 200)
    assert tags(nlp) == [right for _, right in TAGGED]


def learn_tags_twice(nlp, n_updates, annotates=()):
    """By the tagger, and as parts of speech by the morphologizer."""
    data = examples(nlp)
    for example in data:
        for token in example.reference:
            token.pos_ = token.tag_
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


HASHED = {
    "@architectures": "spacy.HashEmbedCNN.v2",
    "pretrained_vectors": None,
    "width": WIDTH,
    "depth": 1,
    "embed_size": 100,
    "window_size": 1,
    "maxout_pieces": 2,
    "subword_features": True,
}


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
                spacys = {**tensor_listener(), "upstream": upstream[0]}
                nlp.add_pipe(name, config={"model": {"tok2vec": listener() if upstream == ["ours"] else spacys}})
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
        # of 15; with the vectors of another component, about half
        assert sum(one == other for one, other in zip(found, right, strict=True)) >= 13


@pytest.mark.parametrize("asks", ["elmo", "tok2vec"])
def test_tensor_asked_for_by_a_disabled_listener_and_another_is_an_error_that_names_both(tiny, asks):
    """Enabled again, one of the two would read the vectors of another component."""
    nlp = spacy.blank("en")
    nlp.add_pipe("tok2vec", config={"model": HASHED})
    nlp.add_pipe("elmo", config={"model": {"weights": tiny}})
    nlp.add_pipe("tagger", config={"model": {"tok2vec": {**tensor_listener(), "upstream": asks}}})
    nlp.initialize(lambda: examples(nlp))
    nlp.disable_pipe("tagger")
    other = {**tensor_listener(), "upstream": "tok2vec" if asks == "elmo" else "elmo"}
    with pytest.raises(ElmoError, match=r"(?=.*tagger)(?=.*morphologizer)"):
        nlp.add_pipe("morphologizer", config={"model": {"tok2vec": other}})


def test_listener_of_spacys_that_was_removed_asks_for_nothing(tiny):
    nlp = spacy.blank("en")
    nlp.add_pipe("tok2vec", config={"model": HASHED})
    nlp.add_pipe("elmo", config={"model": {"weights": tiny}})
    nlp.add_pipe("tagger", config={"model": {"tok2vec": tensor_listener()}})
    kept = nlp.remove_pipe("tagger")
    nlp.add_pipe("morphologizer", config={"model": {"tok2vec": {**tensor_listener(), "upstream": "tok2vec"}}})
    nlp.get_pipe("tok2vec").initialize(lambda: examples(nlp), nlp=nlp)
    doc = nlp.get_pipe("tok2vec")(nlp.make_doc("We sat here."))
    before = doc.tensor.copy()
    np.testing.assert_array_equal(nlp.get_pipe("elmo")(doc).tensor, before)
    assert kept[0] == "tagger"


def tok2vec_before_elmo(tiny, width, upstream="*", **settings):
    """A pipeline tok2vec, tagger that listens to it; trained, and only then with elmo between the two."""
    nlp = spacy.blank("en")
    nlp.add_pipe("tok2vec", config={"model": {**HASHED, "width": width}})
    spacys = {**tensor_listener(), "upstream": upstream, "width": width}
    nlp.add_pipe("tagger", config={"model": {"tok2vec": spacys}})
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
    with pytest.warns(UserWarning, match="'tok2vec' has put there") as told:
        assert tags(nlp) == [right for _, right in TAGGED]
    assert len(told) == 1


def test_own_tensor_is_replaced_however_the_doc_came_back(tiny):
    nlp = spacy.blank("en")
    elmo = nlp.add_pipe("elmo", config={"model": {"weights": tiny}, "vectors": "tensor"})
    docs = [nlp("New York is big ."), Doc(nlp.vocab).from_bytes(nlp("New York is big .").to_bytes())]
    docs += list(nlp.pipe(["New York is big ."] * 2, n_process=2))
    for doc in docs:
        with doc.retokenize() as retokenizer:
            retokenizer.merge(doc[0:2])
            retokenizer.split(doc[3], ["bi", "g"], heads=[doc[3], doc[3]])
        elmo(doc)
        expected = elmo(Doc(nlp.vocab, words=[token.text for token in doc]))
        np.testing.assert_array_equal(doc.tensor, expected.tensor)


def test_listener_of_spacys_of_another_width_is_an_error(tiny):
    nlp = pipeline(tiny, tok2vec={**tensor_listener(), "width": 96})
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


def test_replaced_listener_of_spacys_gives_the_same_scores(tiny, tmp_path):
    nlp = pipeline(tiny, tok2vec=tensor_listener(), elmo={"layers": "top"})
    train(nlp)
    expected = scores(nlp)
    nlp.replace_listeners("elmo", "tagger", ["model.tok2vec"])
    nlp.to_disk(tmp_path / "replaced")
    for other in (nlp, spacy.load(tmp_path / "replaced")):
        for one, theirs in zip(expected, scores(other), strict=True):
            np.testing.assert_allclose(one, theirs, atol=1e-5)


def test_replacing_more_than_the_listener_is_an_error_that_names_its_path(tiny):
    concat = {"@architectures": "spacy-elmo.ConcatTok2Vec.v1", "elmo": listener(), "width": 24}
    nlp = pipeline(tiny, tok2vec=concat)
    train(nlp, 2)
    with pytest.raises(ElmoError, match=r"such as 'model\.tok2vec\.elmo' first"):
        nlp.replace_listeners("elmo", "tagger", ["model.tok2vec"])


def test_replacing_the_listener_within_a_concatenation(tiny, tmp_path):
    concat = {"@architectures": "spacy-elmo.ConcatTok2Vec.v1", "elmo": listener(), "width": 24}
    nlp = pipeline(tiny, tok2vec=concat)
    train(nlp, 2)
    expected = scores(nlp)
    nlp.replace_listeners("elmo", "tagger", ["model.tok2vec.elmo"])
    nlp.to_disk(tmp_path / "replaced")
    for one, theirs in zip(expected, scores(spacy.load(tmp_path / "replaced")), strict=True):
        np.testing.assert_allclose(one, theirs, atol=1e-5)


@pytest.mark.parametrize("upstream", ["tok2vec", "*"])
def test_replacing_a_listener_behind_that_of_another_component(tiny, tmp_path, upstream):
    other = {**tensor_listener(), "upstream": upstream}
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
    for one, theirs in zip(expected, scores(spacy.load(tmp_path / "replaced")), strict=True):
        np.testing.assert_allclose(one, theirs, atol=1e-5)


PARTS = {
    "@architectures": "spacy-elmo.ConcatTok2Vec.v1",
    "elmo": listener(initial_gamma=2.0),
    "embed": listener(mix="top"),
    "width": 24,
}


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
    for one, theirs in zip(expected, scores(spacy.load(tmp_path / "replaced")), strict=True):
        np.testing.assert_allclose(one, theirs, atol=1e-5)


def test_listeners_replaced_in_another_order_are_an_error(tiny):
    nlp = pipeline(tiny, tok2vec=PARTS)
    train(nlp, 2)
    with pytest.raises(ElmoError, match=r"such as 'model\.tok2vec\.elmo' first"):
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
        with pytest.raises(ElmoError, match="such as"):
            nlp.replace_listeners("elmo", "tagger", wrong)
        assert nlp.config == before
    nlp.replace_listeners("elmo", "tagger", [f"model.tok2vec.{name}" for name in parts])
    nlp.remove_pipe("elmo")
    nlp("We sat here.")


@pytest.mark.parametrize("spacys", [False, True])
@pytest.mark.parametrize("frozen", [True, False])
def test_listener_that_was_disabled_while_spacy_linked_goes_on_learning(tiny, frozen, spacys):
    """As `spacy train` does with a sourced component."""
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


# Frozen routes


@pytest.mark.parametrize("annotates", [("sentencizer",), ("sentencizer", "elmo")])
def test_frozen_component_is_the_same_as_frozen_weights(tiny, annotates):
    results = []
    for exclude in ((), ("elmo",)):
        spacy.util.fix_random_seed(0)
        nlp = pipeline(tiny, elmo={"frozen": not exclude})
        before = shim_of(nlp.get_pipe("elmo").model).digest
        train(nlp, exclude=exclude, annotates=annotates)
        assert shim_of(nlp.get_pipe("elmo").model).digest == before
        results.append(scores(nlp))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.fixture
def seen(monkeypatch):
    """What the biLM has read, sentence by sentence."""
    sentences = []
    original = BiLM.stream

    def stream(self, given, *rest):
        sentences.extend(tuple(sentence) for sentence in given)
        return original(self, given, *rest)

    monkeypatch.setattr(BiLM, "stream", stream)
    return sentences


def test_frozen_sentences_are_run_once(tiny, seen):
    nlp = pipeline(tiny)
    data = examples(nlp)
    nlp.initialize(lambda: data)
    seen.clear()
    for _ in range(4):
        nlp.update(data, annotates=["sentencizer"])
        nlp.evaluate(data)
    assert sorted(seen) == sorted(set(seen))
    assert len(seen) == 4
    memory = nlp.get_pipe("elmo").memory
    assert memory.cache is not None
    assert memory.cache.misses == 4


@pytest.fixture
def frozen_component(tiny):
    """Make a pipeline whose `elmo` is among the frozen_components, so that spaCy neither initializes nor updates it,
    and its update; keyword arguments as of `pipeline`."""

    def make(**settings):
        nlp = pipeline(tiny, **settings)
        with nlp.select_pipes(disable=["elmo"]):
            optimizer = nlp.initialize(lambda: examples(nlp))
        optimizer.learn_rate = 0.02

        def update(annotates=("sentencizer", "elmo")):
            nlp.update(examples(nlp), sgd=optimizer, exclude=["elmo"], annotates=list(annotates))

        return nlp, update

    return make


def test_listener_of_spacys_to_a_frozen_component_has_each_sentence_run_once(frozen_component, seen):
    nlp, update = frozen_component(tok2vec=tensor_listener())
    update()  # only in this it shows that there is a training
    seen.clear()
    for _ in range(4):
        update()
        nlp.evaluate(examples(nlp))
    assert sorted(seen) == sorted(set(seen))
    assert len(seen) == 4


def test_listener_of_spacys_to_a_frozen_component_takes_an_empty_doc(frozen_component):
    nlp, update = frozen_component(tok2vec=tensor_listener())
    assert not all(len(example.x) for example in examples(nlp))
    for _ in range(400):
        update()
    assert tags(nlp) == [right for _, right in TAGGED]
    with pytest.raises(ValueError, match="E203"):
        update(annotates=["sentencizer"])


def test_reads_in_training_what_it_reads_later_where_sentences_are_set_behind_it(tiny, seen, caplog):
    spacy.util.logger.propagate = True
    nlp = pipeline(tiny, order=["elmo", "sentencizer"])
    data = examples(nlp)
    optimizer = nlp.initialize(lambda: data)
    read = []
    for run in (lambda: nlp.update(data, sgd=optimizer, annotates=["sentencizer"]), lambda: nlp.evaluate(data)):
        seen.clear()
        nlp.get_pipe("elmo").memory.clear()
        run()
        read.append(sorted(seen))
    assert read[0] == read[1]
    assert "annotating_components" not in caplog.text


@pytest.mark.parametrize("annotates", [["sentencizer"], ["elmo", "sentencizer"]])
def test_frozen_component_warns_when_it_first_reads_no_sentences(frozen_component, caplog, annotates):
    spacy.util.logger.propagate = True
    nlp, update = frozen_component(order=["elmo", "sentencizer"])
    update(annotates)
    assert "annotating_components" not in caplog.text
    for _ in range(2):
        nlp.evaluate(examples(nlp))
    assert caplog.text.count("list elmo in [training] annotating_components") == ("elmo" not in annotates)


@pytest.mark.parametrize("elmo", [{"cache_mb": 0}, {"cache_precision": "float16"}], ids=str)
def test_cached_and_computed_are_the_same(tiny, elmo):
    results = []
    for settings in ({}, elmo):
        spacy.util.fix_random_seed(0)
        nlp = pipeline(tiny, elmo=settings)
        train(nlp)
        results.append(scores(nlp))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4 if elmo.get("cache_mb") == 0 else 0.05)


def test_second_run_starts_warm_from_the_file(tiny, tmp_path):
    path = str(tmp_path / "rows")
    results = []
    for run in range(2):
        spacy.util.fix_random_seed(0)
        nlp = pipeline(tiny, elmo={"cache_path": path})
        train(nlp)
        cache = nlp.get_pipe("elmo").memory.cache
        assert cache.misses == (4 if run == 0 else 0)
        results.append(scores(nlp))
        nlp.get_pipe("elmo").memory.clear()
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_plain_prediction_remembers_nothing(tiny, tmp_path):
    nlp = pipeline(tiny)
    nlp.initialize(lambda: examples(nlp))
    nlp("We sat here.")
    memory = nlp.get_pipe("elmo").memory
    assert memory.cache is None
    train(nlp, 2)
    n_remembered = len(memory.cache)
    nlp.to_disk(tmp_path / "saved")
    nlp("Something new after the training.")
    assert len(memory.cache) == n_remembered
    nlp.update(examples(nlp), annotates=["sentencizer"])
    nlp("Something new between updates.")
    assert len(memory.cache) == n_remembered + 1


def test_two_trainings_in_a_row_share_a_file(tiny, tmp_path):
    path = str(tmp_path / "rows")
    first, second = (pipeline(tiny, elmo={"cache_path": path}) for _ in range(2))
    train(first, 2)
    train(second, 2)
    assert second.get_pipe("elmo").memory.cache.misses == 0
    first("We sat here.")


@pytest.mark.parametrize("end", ["replaced", "removed"])
def test_elmo_runs_on_after_a_training_with_a_file_when_its_listeners_are_gone(tiny, tmp_path, end):
    nlp = pipeline(tiny, elmo={"cache_path": str(tmp_path / "rows")})
    train(nlp, 2)
    expected = nlp("We sat here.")._.elmo
    if end == "replaced":
        nlp.replace_listeners("elmo", "tagger", ["model.tok2vec"])
    else:
        nlp.remove_pipe("tagger")
        gc.collect()
    np.testing.assert_allclose(nlp("We sat here.")._.elmo, expected, atol=1e-5)


def test_says_at_the_start_how_much_fits(tiny, capsys):
    nlp = pipeline(tiny)
    nlp.initialize(lambda: examples(nlp))
    told = capsys.readouterr().err
    assert "ℹ elmo: 15 tokens of training text" in told
    assert "all of them fit into cache_mb = 1024" in told


# What is wrong is said


def test_upstream_that_was_disabled_is_named_and_the_vectors_are_right(tiny):
    nlp = pipeline(tiny)
    train(nlp)
    expected = tags(nlp)
    with nlp.select_pipes(disable="elmo"), pytest.warns(UserWarning, match="tagger: 'elmo', which it listens to"):
        assert tags(nlp) == expected


def test_no_warning_where_all_is_well(tiny):
    nlp = pipeline(tiny)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(nlp)
        nlp("We sat here.")
        list(nlp.pipe(["We sat here.", "", " "]))


def test_pipeline_loaded_without_its_upstream_is_an_error(tiny, tmp_path):
    nlp = pipeline(tiny)
    train(nlp, 1)
    nlp.to_disk(tmp_path / "saved")
    without = spacy.load(tmp_path / "saved", exclude=["elmo"])
    with pytest.raises(ElmoError, match="listens to 'elmo', but no elmo component of that name"):
        without("We sat here.")


@pytest.mark.parametrize("order", [["tagger"], ["tagger", "elmo"]])
def test_listener_with_nothing_before_it_is_an_error(tiny, order):
    nlp = spacy.blank("en")
    for name in order:
        config = {"model": {"tok2vec": listener()} if name == "tagger" else {"weights": tiny}}
        nlp.add_pipe(name, config=config)
    with pytest.raises(ElmoError, match="stands before it in this pipeline"):
        nlp.initialize(lambda: examples(nlp))


def test_upstream_of_another_name_is_an_error(tiny):
    nlp = pipeline(tiny, upstream="transformer")
    with pytest.raises(ElmoError, match="listens to 'transformer'"):
        nlp.initialize(lambda: examples(nlp))


def test_any_upstream_will_do_for_a_star(tiny):
    nlp = pipeline(tiny, upstream="*")
    train(nlp, 1)


@pytest.mark.parametrize(("width", "mix"), [(64, "learned"), (30, "mean"), (32, "concat")])
def test_wrong_width_is_an_error_that_names_the_right_one(tiny, width, mix):
    nlp = pipeline(tiny, tok2vec=listener(width=width, mix=mix))
    right = 96 if mix == "concat" else 32
    with pytest.raises(ElmoError, match=f"tagger: the width of its ElmoListener is {width}.*set width = {right}"):
        nlp.initialize(lambda: examples(nlp))


def test_weights_other_than_those_it_was_trained_with_are_an_error(tiny, data, tmp_path):
    nlp = pipeline(tiny)
    train(nlp, 2)
    nlp.to_disk(tmp_path / "saved")
    saved = spacy.load(tmp_path / "saved")
    other = spacy.blank("en")
    other.add_pipe("elmo", config={"model": {"weights": None}})
    bilm = copy.deepcopy(shim_of(saved.get_pipe("elmo").model).bilm)
    with torch.no_grad():
        next(bilm.parameters()).add_(1e-3)
    shim_of(other.get_pipe("elmo").model).set(bilm)
    other.add_pipe("tagger", source=saved)
    with pytest.raises(WeightsError, match=r"tagger: was trained with other weights than 'elmo' has now"):
        other("We sat here.")
    with pytest.raises(WeightsError, match="was trained with other weights"):
        other.update(examples(other))


def other_weights(nlp):
    """A pipeline with an `elmo` whose weights are a little different."""
    bilm = copy.deepcopy(shim_of(nlp.get_pipe("elmo").model).bilm)
    with torch.no_grad():
        next(bilm.parameters()).add_(1e-3)
    other = spacy.blank("en")
    other.add_pipe("sentencizer")
    other.add_pipe("elmo", config={"model": {"weights": None}})
    shim_of(other.get_pipe("elmo").model).set(bilm)
    return other


@pytest.mark.parametrize("through_disk", [True, False])
@pytest.mark.parametrize("has_run", [True, False])
def test_sourcing_beside_other_weights_is_an_error_that_saving_does_not_cure(tiny, tmp_path, through_disk, has_run):
    nlp = pipeline(tiny)
    train(nlp, 2)
    other = other_weights(nlp)
    if through_disk:
        nlp.to_disk(tmp_path / "source")
        nlp = spacy.load(tmp_path / "source")
    if has_run:
        nlp("We sat here.")
    other.add_pipe("tagger", source=nlp)
    other.to_disk(tmp_path / "assembled")
    for one in (other, spacy.load(tmp_path / "assembled")):
        with pytest.raises(WeightsError, match="trained with other weights"):
            one("We sat here.")
    nlp("We sat here.")  # the pipeline it comes from goes on as before


def test_weights_exchanged_under_a_trained_listener_are_an_error(tiny, tmp_path):
    nlp = pipeline(tiny)
    train(nlp, 2)
    other = other_weights(nlp)
    other.get_pipe("elmo").to_disk(tmp_path / "elmo")
    nlp.get_pipe("elmo").from_disk(tmp_path / "elmo")
    with pytest.raises(WeightsError, match="trained with other weights"):
        nlp("We sat here.")


def test_untrained_component_beside_a_fine_tuned_elmo_is_an_error_also_when_loaded(tiny, tmp_path):
    nlp = pipeline(tiny)
    train(nlp, 2)
    nlp.to_disk(tmp_path / "first")
    nlp = spacy.load(tmp_path / "first", config={"components.elmo.frozen": False})
    nlp.add_pipe("morphologizer", config={"model": {"tok2vec": listener()}})
    data = examples(nlp)
    for example in data:
        for token in example.reference:
            token.pos_ = token.tag_
    nlp.get_pipe("morphologizer").initialize(lambda: data, nlp=nlp)
    optimizer = nlp.resume_training()
    for _ in range(3):
        nlp.update(data, sgd=optimizer, exclude=["tagger"], annotates=["sentencizer"])
    with pytest.raises(WeightsError, match="tagger: was trained with other weights"):
        nlp("We sat here.")
    nlp.to_disk(tmp_path / "second")
    with pytest.raises(WeightsError, match="tagger: was trained with other weights"):
        spacy.load(tmp_path / "second")("We sat here.")


def test_weights_exchanged_under_a_listener_they_were_tuned_with_are_an_error(tiny, tmp_path):
    nlp = pipeline(tiny, elmo={"frozen": False})
    train(nlp, 3)
    other_weights(nlp).get_pipe("elmo").to_disk(tmp_path / "elmo")
    nlp.get_pipe("elmo").from_disk(tmp_path / "elmo")
    with pytest.raises(WeightsError, match="trained with other weights"):
        nlp("We sat here.")


def test_fine_tuned_pipeline_loaded_over_another_is_that_one(tiny, tmp_path):
    nlp, other = (pipeline(tiny, elmo={"frozen": False}) for _ in range(2))
    train(nlp, 3)
    train(other, 5)
    other.to_disk(tmp_path / "other")
    nlp.from_disk(tmp_path / "other")
    for one, theirs in zip(scores(nlp), scores(other), strict=True):
        np.testing.assert_allclose(one, theirs, atol=1e-5)


def test_doc_of_another_pipeline_is_not_read_with_its_bilm(tiny):
    one, other = (pipeline(tiny, elmo={"frozen": False}) for _ in range(2))
    train(one, 3)
    train(other, 5)
    text = "We sat here ."
    expected = other.get_pipe("tagger").model.predict([other(text)])[0]
    with pytest.warns(UserWarning, match="has not run on a Doc"):
        got = other.get_pipe("tagger").model.predict([one(text)])[0]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_encoder_of_another_width_than_the_concatenation_is_an_error(tiny):
    encode = {"@architectures": "spacy.MaxoutWindowEncoder.v2", "width": 32, "depth": 1, "window_size": 1}
    concat = {"@architectures": "spacy-elmo.ConcatTok2Vec.v1", "elmo": listener(), "width": 24}
    with pytest.raises(ElmoError, match=r"width is 24, that of its encoder 32"):
        pipeline(tiny, tok2vec={**concat, "encode": {**encode, "maxout_pieces": 2}})


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


def test_training_docs_without_sentences_are_warned_about_once(tiny, caplog):
    spacy.util.logger.propagate = True
    train(pipeline(tiny), 3, annotates=())
    assert caplog.text.count("annotating_components") == 1
    assert "'sentencizer'" in caplog.text
    caplog.clear()
    train(pipeline(tiny), 3)
    nlp = pipeline(tiny)
    nlp.remove_pipe("sentencizer")
    train(nlp, 3, annotates=())
    nlp("We")  # of which a boundary is always said
    assert "annotating_components" not in caplog.text


@pytest.mark.parametrize("spacys", [False, True])
@pytest.mark.parametrize("annotates", [["sentencizer", "elmo"], ["elmo"]])
def test_frozen_component_warns_when_it_first_reads_sentences(frozen_component, caplog, annotates, spacys):
    """spaCy neither initializes nor updates it; then it shows at the first evaluation."""
    spacy.util.logger.propagate = True
    nlp, update = frozen_component(tok2vec=tensor_listener() if spacys else None)
    update(annotates if spacys else annotates[:-1])
    assert "annotating_components" not in caplog.text
    for _ in range(2):
        nlp.evaluate(examples(nlp))
    assert caplog.text.count("[training] annotating_components") == ("sentencizer" not in annotates)


def test_sentences_are_nothing_to_one_that_reads_whole_docs(tiny, caplog):
    spacy.util.logger.propagate = True
    nlp = pipeline(tiny, elmo={"model": {"weights": tiny, "get_spans": {"@misc": "spacy-elmo.doc_spans.v1"}}})
    train(nlp, 2, annotates=())
    tags(nlp)
    assert "annotating_components" not in caplog.text


def test_initialized_anew_it_starts_from_equal_weights(tiny):
    nlp = pipeline(tiny)
    train(nlp, 20)
    assert learned(nlp)[1] != 1.0
    nlp.initialize(lambda: examples(nlp))
    assert learned(nlp) == (pytest.approx([1 / 3] * 3), 1.0)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_rows_from_the_cache_are_those_computed(tiny, precision):
    nlp = pipeline(tiny, elmo={"cache_precision": precision})
    train(nlp, 2)
    memory = nlp.get_pipe("elmo").memory
    docs = [[nlp.get_pipe("sentencizer")(Doc(nlp.vocab, words=text.split())) for text, _ in TAGGED] for _ in range(2)]
    misses = memory.cache.misses
    cached = nlp.get_pipe("elmo").rows(docs[0])
    assert memory.cache.misses == misses
    memory.clear()
    memory.is_on = False
    computed = nlp.get_pipe("elmo").rows(docs[1])
    assert memory.cache is None
    for one, other in zip(cached, computed, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 if precision == "float32" else 2e-3)


def test_bilstm_encoder_over_elmo_and_static_vectors_learns(tiny):
    """As the paper's model for NER."""
    tok2vec = {
        "@architectures": "spacy-elmo.ConcatTok2Vec.v1",
        "width": 24,
        "elmo": listener(),
        "embed": {
            "@architectures": "spacy.MultiHashEmbed.v2",
            "width": 24,
            "attrs": ["NORM"],
            "rows": [100],
            "include_static_vectors": True,
        },
        "encode": {"@architectures": "spacy.TorchBiLSTMEncoder.v1", "width": 24, "depth": 1, "dropout": 0.0},
    }
    nlp = pipeline(tiny, tok2vec=tok2vec)
    for text, _ in TAGGED:
        for word in text.split():
            nlp.vocab.set_vector(word, np.random.default_rng(len(word)).normal(size=8).astype("f"))
    data = examples(nlp)
    optimizer = nlp.initialize(lambda: data)
    optimizer.learn_rate = 0.02
    for _ in range(60):
        nlp.update(data, sgd=optimizer, annotates=["sentencizer"])
    assert tags(nlp) == [right for _, right in TAGGED]
    assert learned(nlp)[1] != 1.0


def test_listener_copies_keep_their_connection(tiny):
    nlp = pipeline(tiny)
    train(nlp, 2)
    model = nlp.get_pipe("tagger").model
    copied = model.copy()
    docs = list(nlp.pipe(["We sat here."]))
    np.testing.assert_array_equal(model.predict(docs)[0], copied.predict(docs)[0])
    links = [[link for node in one.walk() if (link := link_of(node))] for one in (model, copied)]
    assert links[0][0] is not links[1][0]
    assert links[0][0].upstream is links[1][0].upstream
