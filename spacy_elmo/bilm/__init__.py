"""The bidirectional language model, with torch and numpy but without spaCy.

`Elmo` and `batch_to_ids` are in `spacy_elmo.compat.allennlp`. You can still import them from here, their first place.
"""

import importlib
from typing import Any

from spacy_elmo.bilm.lexicons import Lexicons
from spacy_elmo.bilm.model import BiLM, CarriedState, EncodedBatch
from spacy_elmo.bilm.options import BiLMOptions, CharCNNOptions, LSTMOptions, TokenEmbedderOptions
from spacy_elmo.bilm.scalar_mix import ScalarMix, scalar_mix

__all__ = [
    "BiLM",
    "BiLMOptions",
    "CarriedState",
    "CharCNNOptions",
    "Elmo",
    "EncodedBatch",
    "LSTMOptions",
    "Lexicons",
    "ScalarMix",
    "TokenEmbedderOptions",
    "batch_to_ids",
    "scalar_mix",
]


def __getattr__(name: str) -> Any:
    # Import only when asked: `compat` imports the formats, and these import this package.
    if name in ("Elmo", "batch_to_ids"):
        return getattr(importlib.import_module("spacy_elmo.compat.allennlp"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
