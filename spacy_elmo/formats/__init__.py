"""Weights in and out, one module a format; `load` finds the right one."""

from spacy_elmo.formats.bilm_hdf5 import arrays, digest, write, write_texts
from spacy_elmo.formats.known import KNOWN
from spacy_elmo.formats.locate import BUNDLED, ModelFiles, load, locate

__all__ = ["BUNDLED", "KNOWN", "ModelFiles", "arrays", "digest", "load", "locate", "write", "write_texts"]
