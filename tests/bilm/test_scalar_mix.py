"""The learned mix of layers, compared with the originals and with finite differences."""

import numpy as np
import pytest
import torch

from spacy_elmo import ElmoError
from spacy_elmo.bilm import ScalarMix, scalar_mix
from spacy_elmo.formats import load

FOLDERS = ("tiny_2l_clip", "tiny_2l_skip", "tiny_noproj")  # tiny_1l_noskip has no mixes
WEIGHTS, GAMMA = [0.3, -0.2, 0.5], 1.7


def padded(bilm, sentences, keep_boundaries):
    """Return layers `[n_layers + 1, batch, time, width]` and the mask of the tokens, `[batch, time]`."""
    encoded = bilm.encode(sentences, keep_boundaries=keep_boundaries)
    time = max(layers.shape[1] for layers in encoded)
    filled = [np.pad(layers, ((0, 0), (0, time - layers.shape[1]), (0, 0))) for layers in encoded]
    mask = np.arange(time) < np.array([[layers.shape[1]] for layers in encoded])
    return torch.from_numpy(np.stack(filled, axis=1)), torch.from_numpy(mask)


def mix_for(bilm, do_layer_norm=False):
    return ScalarMix(bilm.options.n_outputs, do_layer_norm, WEIGHTS[: bilm.options.n_outputs], GAMMA)


def close(ours, theirs, mask):
    np.testing.assert_allclose(ours.detach()[mask].numpy(), theirs[mask.numpy()], rtol=0, atol=1e-5)


@pytest.mark.parametrize("do_layer_norm", [False, True])
@pytest.mark.parametrize("folder", FOLDERS)
def test_mix_and_its_penalty_are_those_of_bilm_tf(shared, sentences, folder, do_layer_norm):
    root = shared / "references" / folder
    expected = np.load(root / "bilm_tf.npz")
    bilm = load(root)
    layers, mask = padded(bilm, sentences[:8], keep_boundaries=False)
    mix = mix_for(bilm, do_layer_norm)
    close(mix(layers, mask), expected[f"mix_ln{do_layer_norm:d}"], mask)
    penalty = expected[f"mix_l2_reg_ln{do_layer_norm:d}"].item()
    assert mix.regularization(0.001).item() == pytest.approx(penalty, rel=1e-5)


@pytest.mark.parametrize("do_layer_norm", [False, True])
@pytest.mark.parametrize("keep_boundaries", [False, True])
@pytest.mark.parametrize("folder", FOLDERS[:2])
def test_mix_is_that_of_allennlp(shared, sentences, folder, keep_boundaries, do_layer_norm):
    """AllenNLP's layer normalization includes BOS and EOS, even where it then removes them."""
    root = shared / "references" / folder
    expected = np.load(root / "allennlp.npz")[f"mix_ln{do_layer_norm:d}_keepbe{keep_boundaries:d}"]
    bilm = load(root)
    layers, mask = padded(bilm, sentences[:8], keep_boundaries=True)
    mixed = mix_for(bilm, do_layer_norm)(layers, mask)
    if keep_boundaries:
        close(mixed, expected, mask)
        return
    for sentence, ours, theirs in zip(sentences, mixed, expected, strict=False):
        inner = slice(1, 1 + len(sentence))
        np.testing.assert_allclose(ours[inner].detach(), theirs[: len(sentence)], rtol=0, atol=1e-5)


@pytest.mark.parametrize("do_layer_norm", [False, True])
def test_gradients_are_right(do_layer_norm):
    generator = torch.Generator().manual_seed(0)
    layers = torch.randn(3, 2, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True)
    gamma = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    assert torch.autograd.gradcheck(lambda *x: scalar_mix(*x, mask, do_layer_norm), (layers, weights, gamma))


def test_starts_as_the_mean_of_the_layers_and_can_be_fixed():
    layers = torch.arange(24, dtype=torch.float32).reshape(3, 2, 4)
    mix = ScalarMix(3, trainable=False)
    torch.testing.assert_close(mix(layers), layers.mean(0))
    assert not any(parameter.requires_grad for parameter in mix.parameters())


def test_layer_normalization_of_no_tokens_changes_nothing():
    layers = torch.zeros(3, 0, 4)
    assert scalar_mix(layers, torch.zeros(3), do_layer_norm=True).shape == (0, 4)


def test_wrong_number_of_initial_weights_is_an_error():
    with pytest.raises(ElmoError, match="2 initial weights, expected one for each of the 3 layers"):
        ScalarMix(3, initial_weights=[0.5, 0.5])
