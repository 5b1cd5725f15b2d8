"""A biLM fine-tuned layer by layer, from the top."""

import pytest
import spacy

from helpers.pipelines import examples, moved, parameters, pipeline
from spacy_elmo import ElmoError


def unfreezing(**settings):
    return spacy.registry.callbacks.get("spacy-elmo.gradual_unfreezing.v1")(**settings)


def test_parts_join_the_training_from_above(tiny):
    nlp = pipeline(tiny, elmo={"frozen": False})
    data = examples(nlp)
    optimizer = nlp.initialize(lambda: data)
    callback = unfreezing(unit="step", start=2, every=2)
    parts = []
    for step in range(9):
        callback(nlp, {"step": step, "epoch": 0})
        before = parameters(nlp)
        nlp.update(data, sgd=False, annotates=["sentencizer"])
        for name in ("elmo", "tagger"):
            nlp.get_pipe(name).finish_update(optimizer)
        parts.append(
            {".".join(name.split(".")[:2]) if "layers" in name else "cnn" for name in moved(before, parameters(nlp))}
        )
    top, both = {"layers.1"}, {"layers.1", "layers.0"}
    assert parts == [set()] * 2 + [top] * 2 + [both] * 2 + [both | {"cnn"}] * 3


def test_frozen_stage_is_remembered_and_later_ones_are_not(tiny):
    nlp = pipeline(tiny, elmo={"frozen": False})
    data = examples(nlp)
    nlp.initialize(lambda: data)
    callback = unfreezing()
    callback(nlp, {"step": 0, "epoch": 0})
    for _ in range(2):
        nlp.update(data, annotates=["sentencizer"])
    assert nlp.get_pipe("elmo").memory.cache.hits > 0
    callback(nlp, {"step": 0, "epoch": 1})
    assert nlp.get_pipe("elmo").memory.cache is None
    nlp.update(data, annotates=["sentencizer"])
    assert nlp.get_pipe("elmo").memory.cache is None


def test_unfreezing_what_is_not_there_or_frozen_for_good_is_an_error(tiny):
    with pytest.raises(ElmoError, match="set frozen = false"):
        unfreezing()(pipeline(tiny), {"step": 0, "epoch": 0})
    with pytest.raises(ElmoError, match="no elmo component 'bert'"):
        unfreezing(upstream="bert")(pipeline(tiny, elmo={"frozen": False}), {"step": 0, "epoch": 0})
    with pytest.raises(ElmoError, match="expected at least 0 and 1"):
        unfreezing(every=0)
