"""A folder in, what lies beside the weights out, whatever their format: the model card and the vocabulary."""

import json
import zlib
from typing import Any

from spacy_elmo.errors import WeightsError
from spacy_elmo.formats.archive import File, Folder

CARD = "model_card.json"
VOCABULARY, PACKED_VOCABULARY = "vocab.txt", "vocab.txt.gz"

_MOST_TEXT = 2**28  # bytes of a vocabulary, unpacked


def read_card(folder: Folder) -> dict[str, Any]:
    """Content of the model card; empty where there is none.

    Raises:
        WeightsError: it is not a JSON object.
    """
    file = folder / CARD
    if not file.is_file():
        return {}
    content = file.read_bytes()
    try:
        card = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{file}: the model card is not valid JSON ({error})") from None
    if not isinstance(card, dict):
        raise WeightsError(f"{file}: the model card is not a JSON object")
    return card


def read_vocabulary(folder: Folder) -> list[str] | None:
    """Words of the `vocab.txt` or `vocab.txt.gz`, one a line; None where there is none.

    Raises:
        WeightsError: it is damaged, too long or not UTF-8.
    """
    plain, packed = folder / VOCABULARY, folder / PACKED_VOCABULARY
    if plain.is_file():
        file, content = plain, plain.read_bytes()
    elif packed.is_file():
        file, content = packed, _gunzip(packed)
    else:
        return None
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise WeightsError(f"{file}: the vocabulary is not UTF-8 ({error})") from None
    return [line.strip() for line in (lines if lines[-1] else lines[:-1])]  # stripped, as bilm-tf does


def _gunzip(file: File) -> bytes:
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        content = unpacker.decompress(file.read_bytes(), _MOST_TEXT)
    except zlib.error as error:
        raise WeightsError(f"{file}: not gzip, or damaged ({error})") from None
    if not unpacker.eof:
        raise WeightsError(f"{file}: cut off, or more than {_MOST_TEXT:,} bytes unpacked")
    return content
