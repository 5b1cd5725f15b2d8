import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spacy_elmo.formats import load
from spacy_elmo.pipeline.rows import count_outputs, row_width, to_layers, to_rows


@pytest.mark.parametrize("folder", ["tiny_2l_skip", "tiny_2l_clip"])
def test_rows_hold_all_layers_of_a_bilm(data, folder):
    bilm = load(data / folder)
    layers = torch.from_numpy(bilm.encode([["We", "sat", "here"]])[0])
    rows = to_rows(layers)
    assert rows.shape == (3, row_width(bilm.options.n_outputs, bilm.options.width))
    np.testing.assert_array_equal(to_layers(rows, bilm.options.width), layers)


@given(st.integers(2, 6), st.integers(1, 50).map(lambda half: 2 * half))
def test_number_of_layers_is_found_from_the_width_of_rows(n_outputs, width):
    assert count_outputs(row_width(n_outputs, width), width) == n_outputs
    assert count_outputs(row_width(n_outputs, width) + 1, width) is None


def test_rows_with_one_layer_only_are_none():
    assert count_outputs(4, 8) is None
