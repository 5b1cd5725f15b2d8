"""Sentences of pre-tokenized text, importable under the name that the docs use."""

from spacy_elmo.support.text import PathLike, find_files, read_lines, read_sentences

__all__ = ["PathLike", "find_files", "read_lines", "read_sentences"]
