"""Gradients of every parameter, compared with autograd's through the second implementation, which shares no code."""

import copy

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_elmo.formats import arrays, load

SENTENCES = [["We", "sat", "here", "."], ["Anna"], ["We", "sat", "there", "and", "waited", "for", "Zoë", "."], []]


def check_gradients(bilm, sentences, slowly, seed=0):
    """Check the gradients of a random linear function of all layers. Returns how often the clips cut a value."""
    generator = torch.Generator().manual_seed(seed)
    weights = {name: weight.requires_grad_() for name, weight in slowly.weights_of(bilm).items()}
    clipped = {"cell": 0, "projection": 0}
    layers = [slowly.encode(bilm, sentence, weights, clipped) for sentence in sentences]
    slopes = [torch.randn(one.shape, generator=generator, dtype=torch.float64) for one in layers]
    sum((one * slope).sum() for one, slope in zip(layers, slopes, strict=True)).backward()

    found = gradients(bilm, sentences, [slope.float() for slope in slopes])
    assert set(found) == set(weights)
    for name, weight in weights.items():
        expected = torch.zeros_like(weight) if weight.grad is None else weight.grad
        tolerance = 1e-5 * max(1.0, float(expected.abs().max()))
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=tolerance, err_msg=name)
    return clipped


def gradients(bilm, sentences, slopes):
    """Return our gradients, with the names and layout of the weights file. All sentences are packed into one batch."""
    bilm.requires_grad_()
    (batch,) = bilm.stream_with_gradients(sentences)
    batch.layers.backward(torch.cat([slopes[number] for number in batch.numbers], dim=1))
    holder = copy.deepcopy(bilm)
    with torch.no_grad():
        for held, parameter in zip(holder.parameters(), bilm.parameters(), strict=True):
            held.copy_(parameter.grad)
    return dict(arrays(holder))


def test_gradients_where_both_clips_cut(data, slowly):
    clipped = check_gradients(load(data / "tiny_2l_clip"), SENTENCES, slowly)
    assert clipped["cell"] > 0
    assert clipped["projection"] > 0


@settings(max_examples=60)
@given(drawn=st.data())
def test_gradients_of_any_architecture(strategies, make_bilm, slowly, drawn):
    bilm = make_bilm(**drawn.draw(strategies.architectures()))
    check_gradients(bilm, drawn.draw(strategies.lists_of_sentences(min_size=1, max_size=3)), slowly)
