import json
import math

import h5py
import numpy as np
import pytest
import torch

from spacy_elmo import formats
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.errors import CorpusError, ElmoError
from spacy_elmo.pretraining import evaluation as module
from spacy_elmo.pretraining.evaluation import Evaluation, Evaluator, Perplexities
from spacy_elmo.pretraining.vocabulary import Vocabulary

WORDS = ["<S>", "</S>", "<UNK>", "a", "b", "c", "d"]
SENTENCES = [["a", "b", "c"], ["d"], ["unseen", "a", "東京", "b"], ["c", "c"], ["a"] * 9]


@pytest.fixture
def evaluator(make_model):
    lm = make_model(vocabulary_size=len(WORDS))
    return Evaluator(lm.bilm.double(), lm.softmax, Vocabulary(WORDS))


def slow_sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Slow:
    """Log-likelihoods from the file's arrays, one step after the other. Embeddings are the biLM's layer 0."""

    def __init__(self, evaluator):
        self.bilm, self.vocabulary = evaluator.bilm, evaluator.vocabulary
        self.arrays = {name: array.astype(np.float64) for name, array in formats.bilm_hdf5.arrays(evaluator.bilm)}
        self.weight, self.bias = (part.detach().numpy() for part in evaluator.softmax.parameters())

    def direction(self, sentences, direction, carried):
        """Return the losses, summed over each sentence."""
        options, sums, state = self.bilm.options.lstm, [], None
        width = options.projection_dim
        for sentence in sentences:
            words = ["<S>", *sentence, "</S>"]
            embedded = self.bilm.encode([sentence], keep_boundaries=True)[0][0, :, :width].astype(np.float64)
            if direction:
                words, embedded = words[::-1], embedded[::-1]
            if state is None or not carried:
                state = [(np.zeros(width), np.zeros(options.dim)) for _ in range(options.n_layers)]
            top = []
            for x in embedded[:-1]:
                for layer in range(options.n_layers):
                    state[layer] = self.step(direction, layer, x, *state[layer])
                    skip = layer and options.use_skip_connections
                    x = state[layer][0] + x if skip else state[layer][0]
                top.append(x)
            logits = np.array(top, dtype=self.weight.dtype) @ self.weight.T + self.bias
            most = logits.max(axis=1)
            targets = [self.vocabulary.ids.get(word, self.vocabulary.ids["<UNK>"]) for word in words[1:]]
            normalizer = most + np.log(np.exp(logits - most[:, None]).sum(axis=1, dtype=np.float64))
            sums.append((normalizer - logits[np.arange(len(top)), targets]).sum())
        return np.array(sums)

    def step(self, direction, layer, x, hidden, cell):
        options, name = self.bilm.options.lstm, f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell/"
        i, j, f, o = np.split(np.concatenate([x, hidden]) @ self.arrays[name + "W_0"] + self.arrays[name + "B"], 4)
        cell = slow_sigmoid(f + 1) * cell + slow_sigmoid(i) * np.tanh(j)
        cell = np.clip(cell, -options.cell_clip, options.cell_clip)
        hidden = (slow_sigmoid(o) * np.tanh(cell)) @ self.arrays[name + "W_P_0"]
        return np.clip(hidden, -options.proj_clip, options.proj_clip), cell


def test_losses_are_those_of_the_direct_computation(evaluator):
    slow = Slow(evaluator)
    zero = evaluator.zero_state_losses(SENTENCES).numpy()
    carried, _ = evaluator.carried_losses(SENTENCES)
    for direction in (0, 1):
        np.testing.assert_allclose(zero[:, direction], slow.direction(SENTENCES, direction, False), rtol=1e-5)
        expected = slow.direction(SENTENCES, direction, True).sum()
        assert carried[direction].item() == pytest.approx(expected, rel=1e-5)


def test_carried_states_go_on_from_call_to_call_and_from_block_to_block(evaluator, monkeypatch):
    whole, _ = evaluator.carried_losses(SENTENCES)
    first, states = evaluator.carried_losses(SENTENCES[:2])
    second, _ = evaluator.carried_losses(SENTENCES[2:], states)
    torch.testing.assert_close(first + second, whole)
    expected = evaluator.perplexity(SENTENCES)
    monkeypatch.setattr(module, "_BLOCK_TOKENS", 3)
    found = evaluator.perplexity(iter(SENTENCES))
    assert found.to_dict()["zero_state"] == pytest.approx(expected.to_dict()["zero_state"])
    assert found.carried.perplexity == pytest.approx(expected.carried.perplexity)
    assert found.tokens == expected.tokens == sum(len(sentence) + 1 for sentence in SENTENCES)


def test_perplexity_is_the_exponential_of_the_mean_loss(evaluator):
    found = evaluator.perplexity(SENTENCES)
    zero = evaluator.zero_state_losses(SENTENCES).sum(0) / found.tokens
    assert found.zero_state.forward_perplexity == pytest.approx(zero[0].exp().item())
    assert found.zero_state.backward_perplexity == pytest.approx(zero[1].exp().item())
    assert found.zero_state.perplexity == pytest.approx(zero.mean().exp().item())


def test_uniform_softmax_has_the_perplexity_of_the_vocabulary_size(evaluator):
    evaluator.softmax = Softmax(len(WORDS), 6).double()
    with torch.no_grad():
        evaluator.softmax.weight.zero_()
    found = evaluator.perplexity(SENTENCES)
    for one in (found.carried, found.zero_state):
        assert (one.forward_perplexity, one.backward_perplexity, one.perplexity) == pytest.approx((7, 7, 7))


def test_order_of_sentences_matters_with_carried_state_only(evaluator):
    first, other = evaluator.perplexity(SENTENCES), evaluator.perplexity(SENTENCES[::-1])
    assert other.zero_state.perplexity == pytest.approx(first.zero_state.perplexity, rel=1e-9)
    assert other.carried.perplexity != pytest.approx(first.carried.perplexity, rel=1e-6)
    mixed = evaluator.zero_state_losses(SENTENCES[::-1]).flip(0)
    torch.testing.assert_close(mixed, evaluator.zero_state_losses(SENTENCES))


@pytest.mark.parametrize("sentence", SENTENCES[:3])
def test_single_sentence_is_as_likely_from_zero_as_with_carried_state(evaluator, sentence):
    found = evaluator.perplexity([sentence])
    assert found.carried.perplexity == pytest.approx(found.zero_state.perplexity)
    assert found.carried.forward_perplexity == pytest.approx(found.zero_state.forward_perplexity)


def test_words_outside_the_vocabulary_count_as_unknown(evaluator):
    evaluator.softmax = Softmax(len(WORDS), 6).double()
    with torch.no_grad():
        evaluator.softmax.weight.zero_()
        evaluator.softmax.bias[2] = math.log(93)  # 93 out of 93 + 6
    losses = evaluator.zero_state_losses([["unseen"], ["a"]])
    known = math.log(99)
    assert losses[0].tolist() == pytest.approx([known - math.log(93) + known] * 2)
    assert losses[1].tolist() == pytest.approx([2 * known] * 2)


def test_evaluation_stops_behind_the_sentence_that_reaches_the_limit(evaluator):
    expected = evaluator.perplexity(SENTENCES[:2])
    assert evaluator.perplexity(SENTENCES, max_tokens=4) == expected
    assert evaluator.perplexity(SENTENCES, max_tokens=1).tokens == 4
    assert evaluator.perplexity(SENTENCES, max_tokens=10**6) == evaluator.perplexity(SENTENCES)


def test_text_without_a_sentence_is_an_error(evaluator):
    with pytest.raises(CorpusError, match="no sentence"):
        evaluator.perplexity([])


def test_evaluation_leaves_the_model_as_it_was(evaluator):
    evaluator.bilm.train()
    before = {name: parameter.clone() for name, parameter in evaluator.bilm.named_parameters()}
    evaluator.perplexity(SENTENCES)
    assert evaluator.bilm.training
    assert all(parameter.requires_grad for parameter in evaluator.bilm.parameters())
    for name, parameter in evaluator.bilm.named_parameters():
        assert torch.equal(parameter, before[name])


@pytest.mark.parametrize(
    ("zero", "told"),
    [
        (60, "has hardly learned to read on"),
        (75, None),
        (140, None),
        (160, "(higher) reset_probability"),
        (1e300, "(higher) reset_probability"),
    ],
)
def test_warning_when_zero_and_carried_state_disagree(zero, told):
    evaluation = Evaluation(9, Perplexities(100, 100, 100), Perplexities(zero, zero, zero))
    assert evaluation.warning is None if told is None else told in evaluation.warning


def test_direction_that_is_bad_from_zero_state_is_told_of_first():
    evaluation = Evaluation(9, Perplexities(100, 100, 100), Perplexities(10, 300, 50))
    assert evaluation.is_bad_from_zero
    assert evaluation.warning.startswith("backward perplexity is 300 from zero state")
    assert not Evaluation(9, Perplexities(100, 100, 100), Perplexities(10, 100, 50)).is_bad_from_zero


def test_hopeless_losses_are_perplexities_that_json_can_hold():
    assert Perplexities.of(torch.tensor([1e6, 1.0]), 1) == Perplexities(math.exp(700), math.exp(1.0), math.exp(700))


@pytest.fixture(scope="module")
def reference(shared):
    return shared / "references" / "bilm-tf-trained"


@pytest.fixture(scope="module")
def trained(reference):
    return Evaluator.load(reference)


def heldout(reference, n=None):
    lines = (reference / "heldout.txt").read_text(encoding="utf-8").splitlines()
    return [line.split() for line in lines[:n]]


def test_reference_model_scores_sentences_as_the_direct_computation(reference, trained):
    sentences, slow = heldout(reference, 40), Slow(trained)
    zero = trained.zero_state_losses(sentences).numpy()
    carried, _ = trained.carried_losses(sentences)
    for direction in (0, 1):
        np.testing.assert_allclose(zero[:, direction], slow.direction(sentences, direction, False), rtol=1e-4)
        assert carried[direction].item() == pytest.approx(slow.direction(sentences, direction, True).sum(), rel=1e-4)


def test_share_of_words_outside_the_vocabulary_is_that_of_the_words_read(make_model):
    words = ["<S>", "</S>", "<UNK>", "a", "b"]
    lm = make_model(vocabulary_size=len(words)).float()
    evaluator = Evaluator(lm.bilm, lm.softmax, Vocabulary(words))
    assert evaluator.perplexity([["a", "B", "b"], ["new", "<UNK>"]]).to_dict()["unknown_share"] == 3 / 5
    assert evaluator.perplexity([["a", "B", "b"], ["new", "<UNK>"]], max_tokens=3).unknown_share == 1 / 3
    assert evaluator.perplexity([["a"]]).unknown_share == 0


@pytest.mark.slow
def test_reference_model_has_the_perplexities_that_the_original_reported(reference, trained):
    reported = json.loads((reference / "reported.json").read_text())
    found = trained.perplexity(heldout(reference)).to_dict()
    assert found["tokens"] == reported["predictions_each_direction"]
    for name in ("forward_perplexity", "backward_perplexity", "perplexity"):
        assert found[name] == pytest.approx(reported[name], rel=0.005)
        assert found["zero_state"][name] == pytest.approx(reported["zero_state_per_sentence"][name], rel=0.005)


@pytest.mark.parametrize("missing", ["vocab.txt", "softmax.hdf5"])
def test_model_without_vocabulary_or_softmax_is_an_error_naming_the_file(tmp_path, reference, missing):
    for name in ("vocab.txt", "softmax.hdf5", "options.json", "weights.hdf5"):
        if name != missing:
            (tmp_path / name).symlink_to(reference / name)
    with pytest.raises(ElmoError, match=missing):
        Evaluator.load(tmp_path)


def write_softmax(path, weight, bias):
    with h5py.File(path, "w") as file:
        file["softmax/W"], file["softmax/b"] = weight, bias


@pytest.mark.parametrize(
    ("weight", "bias", "words"),
    [
        (np.zeros((8, 6)), np.zeros(8), "shape"),
        (np.zeros((7, 5)), np.zeros(7), "shape"),
        (np.zeros((7, 6)), np.zeros(6), "shape"),
        (np.full((7, 6), np.nan), np.zeros(7), "NaN"),
        (np.zeros((7, 6), int), np.zeros(7), "int64"),
        (None, None, "cannot be read"),
    ],
)
def test_softmax_that_does_not_fit_is_an_error_naming_the_file(tmp_path, make_model, weight, bias, words):
    formats.write(make_model().float().bilm, tmp_path)
    (tmp_path / "vocab.txt").write_text("".join(word + "\n" for word in WORDS))
    if weight is None:
        (tmp_path / "softmax.hdf5").write_bytes(b"no HDF5 at all")
    else:
        write_softmax(tmp_path / "softmax.hdf5", weight, bias)
    with pytest.raises(ElmoError, match=rf"softmax\.hdf5.*{words}"):
        Evaluator.load(tmp_path)
