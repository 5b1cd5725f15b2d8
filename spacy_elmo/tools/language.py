"""Blank spaCy pipelines by language code, and the language of a model."""

import spacy
from spacy.language import Language

from spacy_elmo import formats
from spacy_elmo.errors import CorpusError


def blank(lang: str) -> Language:
    """Return `spacy.blank(lang)`.

    Raises:
        CorpusError: spaCy has no such language, or its tokenizer needs a package that is not installed.
    """
    try:
        return spacy.blank(lang)
    except ImportError as error:
        reason = str(error).strip().splitlines()[0]
        raise CorpusError(f"lang: spaCy cannot make a tokenizer for {lang!r} ({reason})") from None


def of_model(opened: formats.OpenedModel, nlp: Language | None = None) -> str:
    """Return the language of the pipeline that reads text for a model, otherwise of the model; "xx" if it is unknown,
    or not a language of spaCy."""
    lang = nlp.lang if nlp is not None else opened.card.get("language")
    try:
        return str(spacy.util.get_lang_class(str(lang)).lang)
    except ImportError:
        return "xx"
