import pytest
import torch

from helpers.models import CHAR_CNN, LSTM, write_predictor
from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.pretraining.evaluation import Evaluator

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dogs", "ran", "to", "trees"]
SENTENCES = [(WORDS * 3)[start : start + 22] for start in range(len(WORDS))]


@pytest.fixture(scope="module")
def grow(import_training):
    return import_training("grow").grow


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """Write text, and a model in which the last four cells of a layer do nothing."""
    folder = tmp_path_factory.mktemp("state")
    bilm = BiLM(BiLMOptions.from_dict({"lstm": {**LSTM, "dim": 16}, "char_cnn": CHAR_CNN}, "test"), seed=1)
    with torch.no_grad():
        for layer in bilm.layers:
            layer.projection.mul_(4)[:, 12:] = 0
    write_predictor(bilm, ["<S>", "</S>", "<UNK>", *WORDS], folder, Softmax(len(WORDS) + 3, 6, seed=2))
    (folder / "text.txt").write_text("\n".join(map(" ".join, SENTENCES)) + "\n", encoding="utf-8")
    return folder


def losses(model):
    return Evaluator.load(model, "cpu").zero_state_losses(SENTENCES)


def test_a_wider_model_says_the_same(state, grow, tmp_path):
    grow(state, state / "text.txt", tmp_path, 9, 16)
    torch.testing.assert_close(losses(tmp_path), losses(state))
    assert Evaluator.load(tmp_path, "cpu").bilm.options.lstm.projection_dim == 9


def test_what_is_added_is_as_large_as_what_there_is_and_can_be_learned_from(state, grow, tmp_path):
    grow(state, state / "text.txt", tmp_path, 9, 16)
    kept = Evaluator.load(tmp_path, "cpu")
    layers = kept.bilm.encode(SENTENCES)[0]
    for layer in layers:
        old, added = (layer.reshape(-1, 2, 9)[:, :, part].std() for part in (slice(0, 6), slice(6, 9)))
        assert 0.2 < added / old < 5
    assert not kept.softmax.weight[:, 6:].any()


def test_cells_without_effect_go_first(state, grow, tmp_path):
    grow(state, state / "text.txt", tmp_path, 6, 12)
    torch.testing.assert_close(losses(tmp_path), losses(state), rtol=2e-3, atol=1e-3)


def test_with_fewer_cells_it_stays_near(state, grow, tmp_path):
    grow(state, state / "text.txt", tmp_path, 9, 10)
    apart = (losses(tmp_path) - losses(state)).abs().mean()
    assert 0 < apart < 0.1 * losses(state).std() + 0.5
