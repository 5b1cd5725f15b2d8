"""Models that can predict words, on disk."""

from spacy_elmo import formats
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.formats import softmax_hdf5
from spacy_elmo.support.words import text_of


def write_predictor(bilm, words, directory, softmax=None):
    """Write a biLM with this vocabulary and softmax (None: a random one); return the directory."""
    formats.write(bilm, directory)
    (directory / "vocab.txt").write_text(text_of(words), encoding="utf8")
    softmax = softmax or Softmax(len(words), bilm.options.lstm.projection_dim, seed=1)
    softmax_hdf5.write(softmax, directory / "softmax.hdf5")
    return directory
