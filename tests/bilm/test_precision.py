"""Layers in reduced precision, compared with float32."""

from typing import get_args

import numpy as np
import pytest
import torch

from spacy_elmo.bilm import CarriedState, Elmo, batch_to_ids, products
from spacy_elmo.bilm.products import Precision
from spacy_elmo.errors import ElmoError
from spacy_elmo.formats import BUNDLED, load

REDUCED = [precision for precision in get_args(Precision) if precision != "float32"]
LEAST_COSINE = {"float16": 0.99999, "int8": 0.99}  # for any token and layer of the bundled model

needs_int8 = pytest.mark.skipif(not products._HAS["int8"], reason="no int8 products on this processor")
any_reduced = pytest.mark.parametrize(
    "precision", [pytest.param(one, marks=needs_int8 if one == "int8" else ()) for one in REDUCED]
)

TEXT = [
    sentence.split(" ")
    for sentence in (
        "The bank of the river was steep , and nobody had moored a boat there .",
        "She works at a bank .",
        "Hm ?",
        "Colourless green ideas sleep furiously , said the linguist from the north .",
    )
]


def at(precision, path=BUNDLED):
    bilm = load(path)
    bilm.set_precision(precision)
    return bilm


def cosines(ours, expected):
    """Return the cosine of each token in each layer, `[n_layers + 1, n_tokens]`."""
    return (ours * expected).sum(-1) / np.linalg.norm(ours, axis=-1) / np.linalg.norm(expected, axis=-1)


@any_reduced
def test_layers_point_where_those_in_float32_do(precision):
    for ours, expected in zip(at(precision).encode(TEXT), load(BUNDLED).encode(TEXT), strict=True):
        assert ours.dtype == np.float32
        assert cosines(ours, expected).min() > LEAST_COSINE[precision]


@any_reduced
def test_same_sentence_same_vectors_in_any_batch(precision):
    bilm = at(precision)
    together = bilm.encode(TEXT)
    bilm.clear_word_table()
    alone = [bilm.encode([sentence])[0] for sentence in TEXT]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


@any_reduced
def test_matrices_take_half_the_memory_and_the_rest_stays(precision):
    dtypes = {name: parameter.dtype for name, parameter in at(precision).named_parameters()}
    assert dtypes["layers.0.weight"] == dtypes["embedder.highways.0.carry_weight"] == torch.float16
    assert dtypes["layers.0.bias"] == dtypes["embedder.filters.0"] == torch.float32


@any_reduced
def test_carried_state_is_still_computed_in_float64(precision, data):
    bilm, states = at(precision, data / "tiny_2l_skip"), [CarriedState(), CarriedState()]
    bilm.encode(TEXT, state=states[0])
    carried = bilm.encode(TEXT, state=states[0])
    bilm.encode(TEXT, state=states[1])
    for one, other in zip(carried, bilm.encode(TEXT, state=states[1]), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["tiny_2l_skip", "tiny_2l_clip"])
def test_without_packed_products_float16_runs_in_plain_ones(name, data, monkeypatch):
    """Plain products, as on a GPU."""
    monkeypatch.setattr(products, "_HAS", dict.fromkeys(get_args(Precision), False))
    expected = load(data / name).encode(TEXT)
    bilm = at("float16", data / name)
    for ours, theirs in zip([*bilm.encode(TEXT), *bilm.encode(TEXT[:1])], [*expected, expected[0]], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.02)


def test_unknown_precision_is_a_clear_error(data):
    with pytest.raises(ElmoError, match="precision is 'float8', expected one of 'float32', 'float16', 'int8'"):
        at("float8", data / "tiny_2l_skip")


def test_weights_that_are_trained_stay_float32(data):
    bilm = load(data / "tiny_2l_skip").requires_grad_()
    with pytest.raises(ElmoError, match="for frozen weights"):
        bilm.set_precision("float16")
    assert all(parameter.dtype == torch.float32 for parameter in bilm.parameters())


def test_int8_without_means_is_a_clear_error(data, monkeypatch):
    monkeypatch.setattr(products, "_HAS", dict.fromkeys(get_args(Precision), False))
    with pytest.raises(ElmoError, match='precision = "int8" needs an x86 processor'):
        at("int8", data / "tiny_2l_skip")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("float32", "float16"),
        pytest.param("float16", "int8", marks=needs_int8),
        pytest.param("int8", "float32", marks=needs_int8),
    ],
)
def test_words_embedded_in_one_precision_are_not_taken_for_another(first, second):
    bilm = at(first)
    bilm.encode(TEXT)
    bilm.set_precision(second)
    found = bilm.encode(TEXT)
    bilm.forget()
    for ours, expected in zip(found, bilm.encode(TEXT), strict=True):
        np.testing.assert_array_equal(ours, expected)


@needs_int8
def test_elmo_embeds_words_anew_in_another_precision():
    elmo, ids = Elmo(None, BUNDLED, 1, dropout=0.0), batch_to_ids(TEXT)
    elmo.bilm.set_precision("float16")
    before = elmo(ids)["elmo_representations"][0]
    elmo.bilm.set_precision("int8")
    assert not torch.equal(elmo(ids)["elmo_representations"][0], before)
