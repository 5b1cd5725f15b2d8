"""`precision` as a setting of the component: saved, loaded, used by listeners, and refused where it makes no sense."""

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc
from spacy.training import Example

from helpers.pipelines import blank, listener
from spacy_elmo.bilm.products import _HAS
from spacy_elmo.errors import ElmoError
from spacy_elmo.pipeline.shim import shim_of

REDUCED = [
    "float16",
    pytest.param("int8", marks=pytest.mark.skipif(not _HAS["int8"], reason="no int8 products on this processor")),
]
WORDS = ["The", "bank", "of", "the", "river", "was", "steep", "."]


def vectors(nlp):
    return nlp.get_pipe("elmo")(Doc(nlp.vocab, words=WORDS))._.elmo


@pytest.mark.parametrize("precision", REDUCED)
def test_precision_survives_saving(precision, tiny, tmp_path):
    nlp = blank(tiny, model={"precision": precision})
    before = vectors(nlp)
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    assert shim_of(loaded.get_pipe("elmo").model).bilm.layers[0].precision == precision
    np.testing.assert_allclose(vectors(loaded), before, rtol=0, atol=1e-5)
    loaded.from_bytes(nlp.to_bytes())
    np.testing.assert_allclose(vectors(loaded), before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", REDUCED)
def test_a_saved_pipeline_loads_in_another_precision(precision, tiny, tmp_path):
    nlp = blank(tiny)
    nlp.to_disk(tmp_path)
    reduced = spacy.load(tmp_path, config={"components.elmo.model.precision": precision})
    ours, expected = vectors(reduced), vectors(nlp)
    assert not np.array_equal(ours, expected)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=0.05)


@pytest.mark.parametrize("precision", REDUCED)
def test_what_was_trained_in_float32_runs_in_less(precision, tiny, tmp_path):
    nlp = blank(tiny)
    tagger = nlp.add_pipe("tagger", config={"model": {"tok2vec": listener()}})
    tagger.add_label("A"), tagger.add_label("B")
    example = Example.from_dict(Doc(nlp.vocab, words=WORDS), {"words": WORDS, "tags": ["A", "B"] * 4})
    optimizer = nlp.initialize(lambda: [example])
    optimizer.learn_rate = 0.05
    for _ in range(40):
        nlp.update([example], sgd=optimizer)
    nlp.to_disk(tmp_path)
    reduced = spacy.load(tmp_path, config={"components.elmo.model.precision": precision})
    doc = reduced(Doc(reduced.vocab, words=WORDS))
    assert [token.tag_ for token in doc] == ["A", "B"] * 4


def test_fine_tuning_in_reduced_precision_is_a_clear_error(tiny):
    with pytest.raises(ElmoError, match=r'precision = "float16" is for frozen weights; set frozen = true'):
        blank(tiny, model={"precision": "float16"}, frozen=False)
