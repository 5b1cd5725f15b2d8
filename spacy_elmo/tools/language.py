"""The code of a language in, its blank spaCy pipeline out."""

import spacy
from spacy.language import Language

from spacy_elmo.errors import CorpusError


def blank(lang: str) -> Language:
    """`spacy.blank`.

    Raises:
        CorpusError: spaCy has no such language, or its tokenizer needs a package that is not installed.
    """
    try:
        return spacy.blank(lang)
    except ImportError as error:
        reason = str(error).strip().splitlines()[0]
        raise CorpusError(f"lang: spaCy cannot make a tokenizer for {lang!r} ({reason})") from None
