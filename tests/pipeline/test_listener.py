"""Task components that listen to `elmo` receive its layers and learn their own mix, and never train on nothing."""

import warnings

import numpy as np
import pytest
import spacy
import torch
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Maxout, chain, concatenate, with_array

from helpers.pipelines import (
    TAGGED,
    WIDTH,
    assert_same_scores,
    blank,
    examples,
    learned,
    listener,
    node_of,
    pipeline,
    scores,
    tags,
    train,
)
from spacy_elmo import ElmoError
from spacy_elmo.pipeline.listener import build_listener, link_of
from spacy_elmo.pipeline.mix import mix_weights
from spacy_elmo.pipeline.rows import to_layers


def test_learns_its_task_and_its_own_weights(tiny):
    nlp = pipeline(tiny)
    losses = train(nlp, 150)
    assert tags(nlp) == [right for _, right in TAGGED]
    assert losses[-1]["elmo"] == 0.0
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


def test_prediction_is_that_of_training_in_any_batch(tiny):
    nlp = pipeline(tiny)
    train(nlp, 5)
    alone = [scores(nlp, [one])[0] for one in TAGGED if one[0]]
    together = [score for score in scores(nlp) if len(score)]
    assert_same_scores(alone, together)


def test_saved_pipeline_restores_the_mix_exactly_and_scores_the_same(tiny, tmp_path):
    nlp = pipeline(tiny)
    train(nlp)
    expected = scores(nlp)
    nlp.to_disk(tmp_path / "saved")
    from_bytes = spacy.util.load_model_from_config(nlp.config).from_bytes(nlp.to_bytes())
    for other in (spacy.load(tmp_path / "saved"), from_bytes):
        assert learned(other) == learned(nlp)
        assert_same_scores(expected, scores(other))  # a different batch rounds differently


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
    data = examples(nlp, pos=True)
    for example in data:
        for token in example.reference:
            token.set_morph("Number=Sing" if token.text.istitle() else "Number=Plur")
    optimizer = nlp.initialize(lambda: data)
    for _ in range(10):
        nlp.update(data, sgd=optimizer, annotates=["sentencizer"])
    mixes = [mix_weights(node_of(nlp, "elmo_scalar_mix", name)) for name in ("tagger", "morphologizer")]
    assert mixes[0] != mixes[1]


@pytest.mark.parametrize(
    "name", ["ner", "parser", "tagger", "morphologizer", "spancat", "textcat", "textcat_multilabel"]
)
def test_every_listener_component_trains(tiny, name):
    nlp = blank(tiny)
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


def test_initialized_anew_it_starts_from_equal_weights(tiny):
    nlp = pipeline(tiny)
    train(nlp, 20)
    assert learned(nlp)[1] != 1.0
    nlp.initialize(lambda: examples(nlp))
    assert learned(nlp) == (pytest.approx([1 / 3] * 3), 1.0)


def test_sourced_component_listens_to_the_elmo_there(tiny, tmp_path):
    nlp = pipeline(tiny)
    train(nlp)
    expected = scores(nlp)
    other = spacy.blank("en")
    other.add_pipe("sentencizer")
    other.add_pipe("elmo", config={"model": {"weights": tiny}})
    other.add_pipe("tagger", source=nlp)
    assert_same_scores(expected, scores(other))


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


def test_any_upstream_will_do_for_a_star(tiny):
    nlp = pipeline(tiny, upstream="*")
    train(nlp, 1)


# Mistakes have clear errors


def test_no_warning_where_all_is_well(tiny):
    nlp = pipeline(tiny)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(nlp)
        nlp("We sat here.")
        list(nlp.pipe(["We sat here.", "", " "]))


def test_upstream_that_was_disabled_is_named_and_the_vectors_are_right(tiny):
    nlp = pipeline(tiny)
    train(nlp)
    expected = tags(nlp)
    with nlp.select_pipes(disable="elmo"), pytest.warns(UserWarning, match="tagger: 'elmo', which it listens to"):
        assert tags(nlp) == expected


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
    with pytest.raises(ElmoError, match="no elmo component of that name comes before it in this pipeline"):
        nlp.initialize(lambda: examples(nlp))


def test_upstream_of_another_name_is_an_error(tiny):
    nlp = pipeline(tiny, upstream="transformer")
    with pytest.raises(ElmoError, match="listens to 'transformer'"):
        nlp.initialize(lambda: examples(nlp))


@pytest.mark.parametrize(("width", "mix"), [(64, "learned"), (30, "mean"), (32, "concat")])
def test_wrong_width_is_an_error_that_names_the_right_one(tiny, width, mix):
    nlp = pipeline(tiny, tok2vec=listener(width=width, mix=mix))
    right = 96 if mix == "concat" else 32
    with pytest.raises(ElmoError, match=f"tagger: the width of its ElmoListener is {width}.*set width = {right}"):
        nlp.initialize(lambda: examples(nlp))
