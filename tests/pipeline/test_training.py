"""Training the pipeline: a frozen biLM runs once per sentence, and caching changes no results."""

import gc

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc

from helpers.pipelines import TAGGED, assert_same_scores, examples, pipeline, scores, tags, tensor_listener, train
from spacy_elmo.pipeline.shim import shim_of

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
    assert_same_scores(*results, atol=1e-4)


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


def test_listener_of_spacys_to_a_frozen_component_has_each_sentence_run_once(frozen_component, seen):
    nlp, update = frozen_component(tok2vec=tensor_listener())
    update()  # this is the first sign of a training
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


# What is cached


@pytest.mark.parametrize("elmo", [{"cache_mb": 0}, {"cache_precision": "float16"}], ids=str)
def test_cached_and_computed_are_the_same(tiny, elmo):
    results = []
    for settings in ({}, elmo):
        spacy.util.fix_random_seed(0)
        nlp = pipeline(tiny, elmo=settings)
        train(nlp)
        results.append(scores(nlp))
    assert_same_scores(*results, atol=1e-4 if elmo.get("cache_mb") == 0 else 0.05)


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
