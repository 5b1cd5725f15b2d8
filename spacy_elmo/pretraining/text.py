"""Sentences of pre-tokenized text: the place where readers of the docs look for them."""

from spacy_elmo.support.text import PathLike, find_files, read_lines, read_sentences

__all__ = ["PathLike", "find_files", "read_lines", "read_sentences"]
