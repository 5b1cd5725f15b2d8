"""Read what is next to the weights in any format: the model card, the attribution and the vocabulary."""

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
ATTRIBUTION_TEXT = "attribution_text"  # key of its text in a card in memory
VOCABULARY = "vocab.txt"
_MOST_CARD = 2**22  # bytes; also for an attribution
_OTHER_VOCABULARIES = ("vocab.txt.gz", "vocab-train.txt")  # compressed; T-Systems' name for it (German)


def read_card(folder: Folder) -> dict[str, Any]:
    """Return the content of the model card, with the text of `ATTRIBUTION.md` as `attribution_text`.

    `ATTRIBUTION.md` names everyone whom the weights' licence requires to be named. The result is empty if neither file
    is there. An attribution that is too long is left out, with a warning.

    Raises:
        WeightsError: the card is not a JSON object, or could not be saved again with the model.
    """
    card, attribution = _read_json(folder), folder / ATTRIBUTION
    if attribution.is_file():
        try:
            card[ATTRIBUTION_TEXT] = read_whole(attribution, _MOST_CARD).decode(errors="replace")
        except (OSError, WeightsError) as error:
            warnings.warn(f"{attribution}: is left out of the model's card ({error})", stacklevel=2)
    return card


def split_card(card: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Split a card into the content of `model_card.json` and the text of `ATTRIBUTION.md`, if any."""
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
            f"{file}: the model card is not valid JSON ({reason(error)}); correct it, or remove it: it is optional"
        ) from None
    if not isinstance(card, dict):
        raise WeightsError(f"{file}: the model card is not a JSON object")
    return card


def read_vocabulary(folder: Folder) -> list[str] | None:
    """Read the words of `vocab.txt`, `vocab.txt.gz` or `vocab-train.txt`, one per line; None if there is none.

    Raises:
        WeightsError: it is damaged, too long or not UTF-8.
    """
    file = _find_vocabulary(folder)
    return None if file is None else read_words(file, WeightsError)


def input_words(vocabulary: list[str] | None, folder: Folder, weights: File) -> list[str]:
    """Return the vocabulary if it is fit for a biLM with word input.

    vocabulary: what was read from the folder.
    weights: the file that needs it.

    Raises:
        WeightsError: there is none, or it lacks the sentence borders or `<UNK>`.
    """
    if vocabulary is None:
        raise WeightsError(f"{weights}: a biLM without char_cnn reads words and needs a vocab.txt next to it")
    if missing := WordEmbedding.find_missing(vocabulary):
        raise WeightsError(
            f"{_find_vocabulary(folder)}: {', '.join(missing)} missing; the biLM next to it reads words; "
            "replace it with the vocab.txt of the biLM's training, which has them"
        )
    return vocabulary


def _find_vocabulary(folder: Folder) -> File | None:
    files = (folder / name for name in (VOCABULARY, *_OTHER_VOCABULARIES))
    return next((file for file in files if file.is_file()), None)
