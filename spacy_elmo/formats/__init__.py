"""Weights in and out, one module a format; `open_model` finds the right one."""

from spacy_elmo.formats.bilm_hdf5 import arrays, digest
from spacy_elmo.formats.bilm_tf import write, write_texts
from spacy_elmo.formats.known import KNOWN
from spacy_elmo.formats.opening import BUNDLED, ModelFiles, OpenedModel, load, locate, open_model

__all__ = [
    "BUNDLED",
    "KNOWN",
    "ModelFiles",
    "OpenedModel",
    "arrays",
    "digest",
    "load",
    "locate",
    "open_model",
    "write",
    "write_texts",
]
