"""The bidirectional language model: torch and numpy, no spaCy.

`Elmo` and `batch_to_ids`, whose home is `spacy_elmo.compat.allennlp`, are found here too, where they always were.
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
    # By name, since an import would make a circle: they are built upon the formats, and those upon this package.
    if name in ("Elmo", "batch_to_ids"):
        return getattr(importlib.import_module("spacy_elmo.compat.allennlp"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
