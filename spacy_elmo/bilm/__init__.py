"""The bidirectional language model: torch and numpy, no spaCy."""

from spacy_elmo.bilm.elmo import Elmo, batch_to_ids
from spacy_elmo.bilm.model import BiLM, CarriedState, EncodedBatch
from spacy_elmo.bilm.options import BiLMOptions, CharCNNOptions, LSTMOptions
from spacy_elmo.bilm.scalar_mix import ScalarMix, scalar_mix

__all__ = [
    "BiLM",
    "BiLMOptions",
    "CarriedState",
    "CharCNNOptions",
    "Elmo",
    "EncodedBatch",
    "LSTMOptions",
    "ScalarMix",
    "batch_to_ids",
    "scalar_mix",
]
