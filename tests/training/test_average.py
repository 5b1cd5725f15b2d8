import pytest
import torch

from helpers.models import CHAR_CNN, LSTM, write_predictor
from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.pretraining.evaluation import Evaluator


@pytest.fixture
def states(tmp_path):
    """Write three models of one shape."""
    folders = [tmp_path / str(seed) for seed in range(3)]
    for seed, folder in enumerate(folders):
        bilm = BiLM(BiLMOptions.from_dict({"lstm": LSTM, "char_cnn": CHAR_CNN}, "test"), seed=seed)
        bilm.card = {"tokens_seen": 1000 * seed}
        write_predictor(bilm, ["<S>", "</S>", "<UNK>", "a", "b"], folder, Softmax(5, 6, seed=seed))
    return folders


def test_weights_are_the_mean_and_the_card_is_the_last_one(states, import_training, tmp_path):
    import_training("average").average(states, tmp_path / "mean")
    *models, mean = (Evaluator.load(folder, "cpu") for folder in (*states, tmp_path / "mean"))
    for name, tensor in mean.bilm.state_dict().items():
        wanted = torch.stack([model.bilm.state_dict()[name] for model in models]).mean(0)
        torch.testing.assert_close(tensor, wanted, rtol=2e-3, atol=1e-6)
    wanted = torch.stack([model.softmax.weight for model in models]).mean(0)
    torch.testing.assert_close(mean.softmax.weight, wanted, rtol=2e-3, atol=1e-6)
    assert mean.bilm.card["tokens_seen"] == 2000
