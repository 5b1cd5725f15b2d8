"""`lexicons.json` next to the weights: the words and characters that an ELMoForManyLangs model knows."""

import json
from typing import Any

from spacy_elmo.bilm import BiLMOptions
from spacy_elmo.bilm.lexicons import Lexicons
from spacy_elmo.errors import ElmoError, WeightsError
from spacy_elmo.formats.archive import File, read_whole
from spacy_elmo.support import strict_json
from spacy_elmo.support.messages import reason

NAME = "lexicons.json"
MOST_BYTES = 2**25  # about ten times as large as the largest model's


def read(file: File) -> Lexicons:
    """Read the lexicons, without checking them against options.

    Raises:
        WeightsError: the file is missing, damaged or in another form.
    """
    try:
        return from_dict(strict_json.loads(read_whole(file, MOST_BYTES)), str(file))
    except ValueError as error:
        if isinstance(error, ElmoError):
            raise
        raise WeightsError(f"{file}: not valid JSON ({reason(error)})") from None


def from_dict(data: Any, source: str) -> Lexicons:
    """Build lexicons from what `to_dict` returned. source: their name in errors.

    Raises:
        WeightsError: the data is in another form.
    """
    parts = [data.get("words"), data.get("characters")] if isinstance(data, dict) else [0, 0]
    for part in parts:
        if part is not None and not (isinstance(part, list) and all(isinstance(entry, str) for entry in part)):
            raise WeightsError(
                f"{source}: expected an object with words and characters, each a list of strings or null"
            )
    return Lexicons(*parts)


def text_of(lexicons: Lexicons) -> str:
    """Return the content of the file."""
    return json.dumps(to_dict(lexicons), ensure_ascii=False) + "\n"


def to_dict(lexicons: Lexicons) -> dict[str, Any]:
    """Return `words` and `characters`: lists in the order of their ids, or None."""
    words, characters = lexicons.words, lexicons.characters
    return {
        "words": None if words is None else list(words),
        "characters": None if characters is None else list(characters),
    }


def checked(options: BiLMOptions, lexicons: Lexicons | None, source: str) -> Lexicons | None:
    """Return the lexicons that a model with these options reads; None if it reads none.

    Raises:
        WeightsError: a lexicon is missing, lacks an entry that every model has, or has an entry twice.
    """
    if options.token_embedder is None:
        return None
    try:
        used = (lexicons or Lexicons(None, None)).for_options(options.token_embedder)
        used.check()
    except ElmoError as error:
        raise WeightsError(f"{source}: {reason(error)}") from None
    return used
