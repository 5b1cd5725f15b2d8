"""The token embedder of ELMoForManyLangs, compared with a plain computation, token by token."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch

from spacy_elmo import ElmoError
from spacy_elmo.bilm import BiLM, BiLMOptions, characters
from spacy_elmo.bilm.lexicons import Lexicons

WORDS = ["<oov>", "<bos>", "<eos>", "<pad>", "Haus", "das", "longword"]
CHARACTERS = [*"Hausdlongwr", "<bos>", "<eos>", "<oov>", "<pad>", "<bow>", "<eow>"]
TEXT = ["das", "Haus", "", "x", "longwordlongword", "<bos>", "ääää"]


def make_options(word_dim=4, char_dim=3, dim=8, projection_dim=6, most=10, name="cnn", **encoder):
    return BiLMOptions.from_dict(
        {
            "encoder": {"name": "elmo", "dim": dim, "projection_dim": projection_dim, "n_layers": 2, **encoder},
            "token_embedder": {
                "name": name,
                "activation": "tanh",
                "filters": [[1, 5], [3, 4]],
                "n_highway": 2,
                "word_dim": word_dim,
                "char_dim": char_dim,
                "max_characters_per_token": most,
            },
        }
    )


def make_bilm(**settings):
    bilm = BiLM(make_options(**settings), lexicons=Lexicons(WORDS, CHARACTERS))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in bilm.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return bilm.requires_grad_(False).eval()


def plainly(embedder, token):
    """Return the vector of one token, with every window over the whole row computed, in float64."""
    token = token[:8]
    parts = []
    if embedder.words is not None:
        row = WORDS.index(token) if token in WORDS else 0
        parts.append(embedder.words.weight[row].double().numpy())
    cnn = embedder.char_cnn
    if cnn is not None:
        inner = [token] if token in ("<bos>", "<eos>") else list(token)
        row = ["<eow>", *inner, "<bow>"]
        row += ["<pad>"] * (10 - len(row))
        table = cnn.embedding.double().numpy()
        x = np.stack([table[CHARACTERS.index(c if c in CHARACTERS else "<oov>")] for c in row])
        pooled = []
        for (size, _), weight, bias in zip(cnn.options.filters, cnn.filters, cnn.biases, strict=True):
            windows = np.stack([x[start : start + size].ravel() for start in range(10 - size + 1)])
            pooled.append(np.tanh((windows @ weight.double().numpy()).max(0) + bias.double().numpy()))
        y = np.concatenate(pooled)
        for highway in cnn.highways:
            transform = np.maximum(0, y @ highway.transform_weight.double().numpy() + highway.transform_bias.numpy())
            carry = 1 / (1 + np.exp(-(y @ highway.carry_weight.double().numpy() + highway.carry_bias.numpy())))
            y = carry * transform + (1 - carry) * y
        parts.append(y)
    projection = embedder.projection
    return np.concatenate(parts) @ projection.weight.double().numpy() + projection.bias.double().numpy()


@pytest.mark.parametrize(("word_dim", "char_dim"), [(4, 3), (4, 0), (0, 3)])
def test_vectors_are_those_of_a_plain_computation(word_dim, char_dim):
    embedder = make_bilm(word_dim=word_dim, char_dim=char_dim).embedder
    with torch.inference_mode():
        together = embedder(TEXT).numpy()
        alone = [embedder([token]).numpy()[0] for token in TEXT]
    for token, one, other in zip(TEXT, together, alone, strict=True):
        np.testing.assert_allclose(one, plainly(embedder, token), rtol=0, atol=1e-5)
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-6)


def test_a_long_token_is_cut_before_its_word_is_looked_up():
    embedder = make_bilm(char_dim=0).embedder
    whole = make_bilm(char_dim=0, name="lstm").embedder
    with torch.inference_mode():
        assert torch.equal(embedder(["longwordlongword"]), embedder(["longword"]))
        assert torch.equal(whole(["longwordlongword"]), whole(["unknown"]))


def test_the_row_of_padding_is_used_as_it_is():
    bilm = make_bilm()
    before = bilm.encode([["das"]])[0]
    bilm.embedder.char_cnn.embedding[CHARACTERS.index("<pad>")] += 1
    bilm.forget()
    assert np.abs(bilm.encode([["das"]])[0] - before).max() > 1e-3


def test_the_projection_is_there_at_any_width():
    options = make_options(word_dim=0, projection_dim=9, dim=9)
    assert options.token_embedder.n_features == 9
    bilm = BiLM(options, lexicons=Lexicons(None, CHARACTERS))
    assert bilm.embedder.projection.weight.shape == (9, 9)
    assert bilm.layers[0].projection.shape == (2, 9, 9)


def test_the_projection_may_be_wider_than_the_cells():
    layers = make_bilm(dim=5, projection_dim=7).encode([["das", "Haus"], ["x"]])
    assert [part.shape for part in layers] == [(3, 2, 14), (3, 1, 14)]


def test_sentences_begin_and_end_with_the_borders_of_its_own():
    bilm = make_bilm()
    layers = bilm.encode([["das"]], keep_boundaries=True)[0][0, :, :6]
    with torch.inference_mode():
        expected = bilm.embedder(["<bos>", "das", "<eos>"]).numpy()
        assert np.abs(bilm.embedder([characters.BOS]).numpy() - layers[:1]).max() > 1e-3
    np.testing.assert_allclose(layers, expected, rtol=0, atol=1e-6)


def test_a_bilm_without_its_lexicons_is_an_error():
    with pytest.raises(ElmoError, match="needs its lexicons"):
        BiLM(make_options())
    with pytest.raises(ElmoError, match="lexicon of characters, but it is missing"):
        BiLM(make_options(), lexicons=Lexicons(WORDS, None))


def test_all_of_it_can_be_trained():
    bilm = make_bilm().requires_grad_().train()
    for batch in bilm.stream_with_gradients([["das", "Haus", "x"], ["Haus"]]):
        batch.layers.square().sum().backward()
    missing = [name for name, parameter in bilm.named_parameters() if parameter.grad is None]
    assert missing == []
    assert bilm.embedder.words.weight.grad[WORDS.index("Haus")].abs().max() > 0
    assert bilm.embedder.words.weight.grad[WORDS.index("longword")].abs().max() == 0


def test_distinct_words_are_computed_once_while_weights_are_frozen(monkeypatch):
    bilm, seen = make_bilm(), []
    forward = bilm.embedder.forward
    monkeypatch.setattr(bilm.embedder, "forward", lambda words: (seen.extend(words), forward(words))[1])
    for _ in range(2):
        bilm.encode([["das", "Haus", "das"]])
    assert sorted(seen) == sorted(["<bos>", "das", "Haus", "<eos>"])


def test_text_that_is_mostly_unknown_gets_one_warning_with_its_share():
    bilm = make_bilm()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bilm.encode([["das", "Haus", "xyz"]])
    with pytest.warns(UserWarning, match=r"86% of the characters read so far .*unknown to the model") as caught:
        bilm.encode([[f"{number}ijk" for number in range(10)]])
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bilm.encode([["щщщщщщщ", "ььььььь", "ююююююю"]])


def test_of_words_alone_only_a_larger_share_is_worth_a_warning():
    bilm = make_bilm(char_dim=0)
    with pytest.warns(UserWarning, match="of the words read so far"):
        bilm.encode([[f"x{number}" for number in range(30)]])


def test_copies_and_pickles_give_the_same_vectors():
    bilm = make_bilm()
    expected = bilm.encode([TEXT])[0]
    for other in (copy.deepcopy(bilm), pickle.loads(pickle.dumps(bilm))):
        np.testing.assert_array_equal(other.encode([TEXT])[0], expected)
        assert other.lexicons == bilm.lexicons
