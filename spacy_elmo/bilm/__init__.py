"""The bidirectional language model: torch and numpy, no spaCy."""

from spacy_elmo.bilm.model import BiLM, CarriedState, EncodedBatch
from spacy_elmo.bilm.options import BiLMOptions, CharCNNOptions, LSTMOptions

__all__ = ["BiLM", "BiLMOptions", "CarriedState", "CharCNNOptions", "EncodedBatch", "LSTMOptions"]
