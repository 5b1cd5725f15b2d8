import pytest
import torch

from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.formats import softmax_hdf5, write
from spacy_elmo.pretraining.evaluation import Evaluator

LSTM = {"dim": 8, "projection_dim": 6, "n_layers": 2, "cell_clip": 3, "proj_clip": 3, "use_skip_connections": True}
CNN = {
    "filters": [[1, 4], [2, 6]],
    "embedding": {"dim": 4},
    "max_characters_per_token": 12,
    "activation": "relu",
    "n_highway": 1,
}


@pytest.fixture
def states(tmp_path):
    """Three models of one shape."""
    folders = [tmp_path / str(seed) for seed in range(3)]
    for seed, folder in enumerate(folders):
        bilm = BiLM(BiLMOptions.from_dict({"lstm": LSTM, "char_cnn": CNN}, "test"), seed=seed)
        bilm.card = {"tokens_seen": 1000 * seed}
        write(bilm, folder)
        softmax_hdf5.write(Softmax(5, 6, seed=seed), folder / softmax_hdf5.NAME)
        (folder / "vocab.txt").write_text("<S>\n</S>\n<UNK>\na\nb\n", encoding="utf-8")
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
