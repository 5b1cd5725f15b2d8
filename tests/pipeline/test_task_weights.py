"""The layer weights that each task has learned, wherever in its model it listens."""

import pytest
import spacy
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Maxout, chain, concatenate

from helpers.pipelines import WIDTH, blank, listener, tensor_listener
from spacy_elmo import task_weights
from spacy_elmo.pipeline.listener import build_listener


@pytest.fixture
def pipeline(tiny):
    """Return a function that makes a pipeline, trained for some steps: `pipeline(tagger=config of its tok2vec,
    ...)`."""

    def make(elmo=None, n_updates=5, **tok2vecs):
        nlp = blank(tiny, **(elmo or {}))
        for name, tok2vec in tok2vecs.items():
            nlp.add_pipe(name, config={"model": {"tok2vec": tok2vec}})
        words, tags = ["We", "live", "here"], ["PRON", "VERB", "ADV"]
        gold = Doc(nlp.vocab, words=words, tags=tags, pos=tags, sent_starts=[True, False, False])
        examples = [Example(Doc(nlp.vocab, words=words), gold)]
        optimizer = nlp.initialize(lambda: examples)
        optimizer.learn_rate = 0.05
        for _ in range(n_updates):
            nlp.update(examples, sgd=optimizer)
        return nlp

    return make


def only(mixes):
    (mix,) = mixes
    return mix


def test_each_task_has_the_weights_that_it_has_learned(pipeline):
    start = {"initial_weights": [0.0, 1.0, 2.0], "initial_gamma": 1.5}
    nlp = pipeline(tagger=listener(), morphologizer=listener(**start), n_updates=0)
    found = task_weights(nlp)
    assert list(found) == ["tagger", "morphologizer"]
    tagger, morphologizer = map(only, found.values())
    assert (tagger.upstream, tagger.mix, tagger.gamma) == ("elmo", "learned", 1.0)
    assert tagger.weights == pytest.approx([1 / 3] * 3)
    assert morphologizer.weights == pytest.approx([0.0900, 0.2447, 0.6652], abs=1e-4)
    assert morphologizer.gamma == 1.5
    learned = only(task_weights(pipeline(tagger=listener()))["tagger"])
    assert learned.weights != pytest.approx([1 / 3] * 3, abs=1e-3)
    assert sum(learned.weights) == pytest.approx(1)
    assert learned.gamma != 1.0


@pytest.mark.parametrize("mix", ["mean", "top", -1, [0.5, 0.25, 0.25]])
def test_a_fixed_mix_is_named(pipeline, mix):
    found = only(task_weights(pipeline(tagger=listener(mix=mix)))["tagger"])
    assert (found.mix, found.weights, found.gamma) == (mix, None, None)


def test_a_listener_of_spacys_has_the_mix_of_the_component(pipeline):
    nlp = pipeline(tagger=tensor_listener(), elmo={"layers": "top"})
    assert only(task_weights(nlp)["tagger"]).mix == "top"
    nlp.replace_listeners("elmo", "tagger", ["model.tok2vec"])
    found = only(task_weights(nlp)["tagger"])
    assert (found.upstream, found.mix) == (None, "top")


def test_a_model_of_its_own_and_a_listener_beside_other_features_are_found(pipeline, tiny):
    bilm = {
        "@architectures": "spacy-elmo.BiLM.v1",
        "weights": tiny,
        "get_spans": {"@misc": "spacy-elmo.doc_spans.v1"},
    }
    own = {"@architectures": "spacy-elmo.Tok2Vec.v1", "width": WIDTH, "bilm": bilm}
    beside = {"@architectures": "spacy-elmo.ConcatTok2Vec.v1", "width": 16, "elmo": listener()}
    found = task_weights(pipeline(tagger=own, morphologizer=beside, senter=listener()))
    assert [only(mixes).upstream for mixes in found.values()] == [None, "elmo", "elmo"]
    assert all(only(mixes).weights is not None for mixes in found.values())


def test_a_replaced_listener_keeps_its_weights(pipeline):
    nlp = pipeline(tagger=listener())
    before = only(task_weights(nlp)["tagger"])
    nlp.replace_listeners("elmo", "tagger", ["model.tok2vec"])
    after = only(task_weights(nlp)["tagger"])
    assert (after.upstream, after.weights, after.gamma) == (None, before.weights, before.gamma)


def test_listeners_of_one_component_come_in_the_order_of_its_model(pipeline):
    nlp = pipeline(tagger=listener(), n_updates=0)
    first, second = build_listener(WIDTH, mix="top"), build_listener(WIDTH, upstream="*")
    model = nlp.get_pipe("tagger").model
    model.layers[0] = concatenate(chain(concatenate(first, second), Maxout()), model.layers[0])
    found = task_weights(nlp)["tagger"]
    assert [(mix.upstream, mix.mix) for mix in found] == [("elmo", "top"), ("elmo", "learned"), ("elmo", "learned")]
    assert [mix.weights is None for mix in found] == [True, True, False]


def test_before_training_there_is_nothing_learned(tiny):
    nlp = blank(tiny)
    assert task_weights(nlp) == {}
    nlp.add_pipe("tagger", config={"model": {"tok2vec": listener()}})
    found = only(task_weights(nlp)["tagger"])
    assert (found.mix, found.weights, found.gamma) == ("learned", None, None)


def test_disabled_components_are_there_too_and_others_are_not(pipeline, tmp_path):
    nlp = pipeline(tagger=listener())
    nlp.add_pipe("sentencizer", first=True)
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path, disable=["tagger"])
    assert task_weights(loaded) == task_weights(nlp)
    assert list(task_weights(loaded)) == ["tagger"]
