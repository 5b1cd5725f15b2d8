"""Models on disk that can predict words."""

from spacy_elmo import formats
from spacy_elmo.bilm.softmax import Softmax

LSTM = {"dim": 8, "projection_dim": 6, "n_layers": 2, "cell_clip": 3, "proj_clip": 3, "use_skip_connections": True}
CHAR_CNN = {
    "filters": [[1, 4], [2, 6]],
    "embedding": {"dim": 4},
    "max_characters_per_token": 12,
    "activation": "relu",
    "n_highway": 1,
}


def write_predictor(bilm, words, directory, softmax=None):
    """Write a biLM with this vocabulary and softmax (None: a random one). Returns the directory."""
    softmax = softmax or Softmax(len(words), bilm.options.lstm.projection_dim, seed=1)
    formats.write(bilm, directory, vocabulary=words, softmax=softmax)
    return directory
