"""A folder in, what lies beside the weights out, whatever their format: the model card and the vocabulary."""

from typing import Any

from spacy_elmo.errors import WeightsError
from spacy_elmo.formats.archive import Folder, read_whole
from spacy_elmo.support import strict_json
from spacy_elmo.support.messages import reason
from spacy_elmo.support.words import read_words

CARD = "model_card.json"
VOCABULARY = "vocab.txt"
_MOST_CARD = 2**22  # bytes
_OTHER_VOCABULARIES = ("vocab.txt.gz", "vocab-train.txt")  # packed, and as T-Systems has published it (German)


def read_card(folder: Folder) -> dict[str, Any]:
    """Content of the model card; empty where there is none.

    Raises:
        WeightsError: it is not a JSON object, or one that could not be saved again with the model.
    """
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
    for name in (VOCABULARY, *_OTHER_VOCABULARIES):
        if (folder / name).is_file():
            return read_words(folder / name, WeightsError)
    return None
