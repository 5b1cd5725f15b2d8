"""Write a model as a folder in our layout. All files appear at once. `bilm_tf.py` reads it."""

import json
from collections.abc import Sequence
from pathlib import Path

from spacy_elmo.bilm import BiLM
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.formats import beside, bilm_hdf5, lexicons_json, softmax_hdf5
from spacy_elmo.formats.hdf5_file import StoredDtype
from spacy_elmo.support.files import replacing, write_text, write_whole
from spacy_elmo.support.paths import place_of
from spacy_elmo.support.words import text_of

# What a folder of ours may hold. The compressed vocabulary is listed so that another model's is removed.
WEIGHTS = "weights.hdf5"
LAYOUT = (
    WEIGHTS,
    "options.json",
    beside.VOCABULARY,
    f"{beside.VOCABULARY}.gz",
    beside.CARD,
    beside.ATTRIBUTION,
    softmax_hdf5.NAME,
    lexicons_json.NAME,
)


def write(
    bilm: BiLM,
    directory: str | Path,
    dtype: StoredDtype = "float32",
    vocabulary: Sequence[str] | None = None,
    softmax: Softmax | None = None,
) -> None:
    """Write `options.json` and `weights.hdf5`, and the other files that the model has.

    These are `model_card.json`, `ATTRIBUTION.md`, `vocab.txt`, `softmax.hdf5` and `lexicons.json`.

    dtype: "float32" is what bilm-tf and AllenNLP read; "float16" halves the file; "lossless" uses float16 if that keeps
        every value, otherwise float32.
    vocabulary: the words that the softmax predicts, if there is one. A biLM with word input has its own vocabulary.
    softmax: the layer that predicts these words.

    The files appear all at once and replace all files of a model that is already there. Other files stay.

    Raises:
        OSError: they cannot be written; the old files are still there.
        WeightsError: a value is too large for float16.
    """
    with replacing(place_of(directory, "directory"), LAYOUT) as new:
        write_files(bilm, new, dtype, vocabulary, softmax)


def write_files(
    bilm: BiLM,
    directory: Path,
    dtype: StoredDtype = "float32",
    vocabulary: Sequence[str] | None = None,
    softmax: Softmax | None = None,
) -> None:
    """Write the same files one by one into a folder that nobody reads yet (see `replacing`)."""
    write_whole(directory / WEIGHTS, lambda file: bilm_hdf5.write_weights(bilm, file, dtype))
    write_texts(bilm, directory)
    if vocabulary is not None:
        write_text(directory / beside.VOCABULARY, text_of(vocabulary))
    if softmax is not None:
        softmax_hdf5.write(softmax, directory / softmax_hdf5.NAME, dtype)


def write_texts(bilm: BiLM, directory: Path) -> None:
    """Write only the files next to the weights."""
    write_text(directory / "options.json", json.dumps(bilm.options.to_dict(), indent=1) + "\n")
    facts, attribution = beside.split_card(bilm.card)
    card = json.dumps(facts, indent=1, ensure_ascii=False) + "\n" if facts else None
    words = text_of(bilm.vocabulary) if bilm.vocabulary else None
    lexicons = lexicons_json.text_of(bilm.lexicons) if bilm.lexicons else None
    texts = {beside.CARD: card, beside.ATTRIBUTION: attribution, beside.VOCABULARY: words, lexicons_json.NAME: lexicons}
    for name, text in texts.items():
        if text is None:
            (directory / name).unlink(missing_ok=True)  # it belongs to another model
        else:
            write_text(directory / name, text)
