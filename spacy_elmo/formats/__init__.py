"""Weights in and out, one module a format; `load` finds the right one."""

from spacy_elmo.formats.bilm_hdf5 import digest, write
from spacy_elmo.formats.locate import ModelFiles, load, locate

__all__ = ["ModelFiles", "digest", "load", "locate", "write"]
