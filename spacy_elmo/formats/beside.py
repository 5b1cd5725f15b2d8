"""A folder in, what lies beside the weights out, whatever their format: the model card, the attribution and the
vocabulary."""

import warnings
from typing import Any

from spacy_elmo.bilm.char_cnn import WordEmbedding
from spacy_elmo.errors import WeightsError
from spacy_elmo.formats.archive import File, Folder, read_whole
from spacy_elmo.support import strict_json
from spacy_elmo.support.messages import reason
from spacy_elmo.support.words import read_words

CARD = "model_card.json"
ATTRIBUTION = "ATTRIBUTION.md"
ATTRIBUTION_TEXT = "attribution_text"  # its text, in a card in memory
VOCABULARY = "vocab.txt"
_MOST_CARD = 2**22  # bytes; of an attribution, too
_OTHER_VOCABULARIES = ("vocab.txt.gz", "vocab-train.txt")  # packed, and as T-Systems has published it (German)


def read_card(folder: Folder) -> dict[str, Any]:
    """Content of the model card, and as `attribution_text` that of the `ATTRIBUTION.md`, which names at length whom the
    licence of the weights asks to name. Empty where there is neither; an attribution that is too long to be one is left
    where it is, with a warning.

    Raises:
        WeightsError: the card is not a JSON object, or one that could not be saved again with the model.
    """
    card, attribution = _read_json(folder), folder / ATTRIBUTION
    if attribution.is_file():
        try:
            card[ATTRIBUTION_TEXT] = read_whole(attribution, _MOST_CARD).decode(errors="replace")
        except (OSError, WeightsError) as error:
            warnings.warn(f"{attribution}: does not go along with the weights ({error})", stacklevel=2)
    return card


def split_card(card: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """What goes into `model_card.json`, and what into `ATTRIBUTION.md`, if anything."""
    text = card.get(ATTRIBUTION_TEXT)
    if not isinstance(text, str):
        return card, None
    return {key: value for key, value in card.items() if key != ATTRIBUTION_TEXT}, text


def _read_json(folder: Folder) -> dict[str, Any]:
    file = folder / CARD
    if not file.is_file():
        return {}
    content = read_whole(file, _MOST_CARD)
    try:
        card = strict_json.loads(content)
    except ValueError as error:
        raise WeightsError(
            f"{file}: the model card is not valid JSON ({reason(error)}); mend it, or remove it: a model needs none"
        ) from None
    if not isinstance(card, dict):
        raise WeightsError(f"{file}: the model card is not a JSON object")
    return card


def read_vocabulary(folder: Folder) -> list[str] | None:
    """Words of the `vocab.txt`, `vocab.txt.gz` or `vocab-train.txt`, one a line; None where there is none.

    Raises:
        WeightsError: it is damaged, too long or not UTF-8.
    """
    file = _find_vocabulary(folder)
    return None if file is None else read_words(file, WeightsError)


def input_words(vocabulary: list[str] | None, folder: Folder, weights: File) -> list[str]:
    """The vocabulary, as a biLM that reads whole words needs it.

    vocabulary: what was read from the folder; weights: which need it.

    Raises:
        WeightsError: there is none, or it lacks the borders or `<UNK>`.
    """
    if vocabulary is None:
        raise WeightsError(f"{weights}: a biLM without char_cnn reads words and needs a vocab.txt beside it")
    if missing := WordEmbedding.find_missing(vocabulary):
        raise WeightsError(
            f"{_find_vocabulary(folder)}: {', '.join(missing)} missing; the biLM beside it reads words; "
            "put the vocab.txt of its training there, which has them"
        )
    return vocabulary


def _find_vocabulary(folder: Folder) -> File | None:
    files = (folder / name for name in (VOCABULARY, *_OTHER_VOCABULARIES))
    return next((file for file in files if file.is_file()), None)
