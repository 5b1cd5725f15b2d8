"""Weights in and out, one module a format; `open_model` finds the right one."""

from spacy_elmo.formats.bilm_hdf5 import arrays, digest
from spacy_elmo.formats.known import KNOWN
from spacy_elmo.formats.opening import BUNDLED, MODELS, ModelFiles, OpenedModel, load, locate, open_model, read_softmax
from spacy_elmo.formats.writing import LAYOUT, write, write_files, write_texts

__all__ = [
    "BUNDLED",
    "KNOWN",
    "LAYOUT",
    "MODELS",
    "ModelFiles",
    "OpenedModel",
    "arrays",
    "digest",
    "load",
    "locate",
    "open_model",
    "read_softmax",
    "write",
    "write_files",
    "write_texts",
]
