"""Small honest models, and everything that users do with a model."""

import io
import zipfile
from pathlib import Path

from spacy_elmo import formats
from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.bilm.lexicons import Lexicons
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.errors import ElmoError
from spacy_elmo.formats import softmax_hdf5
from spacy_elmo.pipeline.shim import BiLMShim
from spacy_elmo.pipeline.weights import WeightsSource
from spacy_elmo.tools.convert import convert

Files = dict[str, bytes]

LSTM = {"dim": 3, "projection_dim": 2, "n_layers": 1, "cell_clip": 3.0, "proj_clip": 3, "use_skip_connections": True}
CNN = {"activation": "relu", "filters": [[2, 3]], "n_highway": 1, "max_characters_per_token": 9}
CHARACTERS = {
    "lstm": LSTM,
    "char_cnn": {**CNN, "embedding": {"dim": 2}, "n_characters": 262},
    "bidirectional": True,
    "dropout": 0.1,
    "n_train_tokens": 7,
    "own": {"x": ["y", 1.5, None, True]},
}
WORDS = {"lstm": {**LSTM, "n_layers": 2}, "batch_size": 128}
MANYLANGS = {
    "encoder": {"name": "elmo", "dim": 3, "projection_dim": 2, "n_layers": 1, "cell_clip": 3, "proj_clip": 3},
    "token_embedder": {**CNN, "name": "cnn", "word_dim": 2, "char_dim": 3},
    "classifier": {"name": "softmax"},
}
CARD = {"name": "tiny", "license": "CC0", "language": "en", "measured": {"perplexity": 12.5, "of": ["a", "b", 3]}}
VOCABULARY = ["<S>", "</S>", "<UNK>", "the", "bank", "wörd", "a"]
LEXICONS = Lexicons(
    ["<oov>", "<pad>", "<bos>", "<eos>", "the", "wörd"], ["<bos>", "<eos>", "<oov>", "<pad>", "<bow>", "<eow>", *"abcé"]
)


def characters(folder: Path) -> Files:
    """Write a model that reads characters, with all optional files."""
    return _written(BiLM(BiLMOptions.from_dict(CHARACTERS), card=CARD, seed=1), folder)


def words(folder: Path) -> Files:
    """Write a model that reads words, with all optional files."""
    return _written(BiLM(BiLMOptions.from_dict(WORDS), VOCABULARY, CARD, seed=1), folder)


def manylangs(folder: Path) -> Files:
    """Write an ELMoForManyLangs model in our own layout."""
    return _written(manylangs_bilm(), folder)


def manylangs_bilm() -> BiLM:
    """Return the same model, not written."""
    return BiLM(BiLMOptions.from_dict(MANYLANGS), card=CARD, seed=1, lexicons=LEXICONS)


def _written(bilm: BiLM, folder: Path) -> Files:
    """Write a model into a folder; return the content of its files by name."""
    formats.write(bilm, folder)
    if bilm.lexicons is None:
        (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in VOCABULARY))
        softmax_hdf5.write(Softmax(len(VOCABULARY), bilm.options.lstm.projection_dim, seed=1), folder / "softmax.hdf5")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def zipped(files: Files, method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive of files by name."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return target.getvalue()


def use(path: Path, out: Path, digest: str | None = None) -> None:
    """Read every part of a model, use it, save it in both ways, and check that it is the same afterwards.

    out: a path that may be written to.
    digest: the digest that the model must have if it can be read.

    Raises:
        ElmoError: a part is refused; the other parts were tried as well.
    """
    model, errors = formats.open_model(path), list[ElmoError]()
    parts = (
        lambda: model.options,
        lambda: model.card,
        lambda: model.vocabulary,
        lambda: model.mixes,
        lambda: model.weights_bytes,
        lambda: model.has_softmax and model.softmax(),
    )
    for read in parts:
        try:
            read()
        except ElmoError as error:
            errors.append(error)
    bilm = model.bilm()
    assert digest is None or model.digest == digest, "the weights differ from those that were written"
    assert all(parameter.isfinite().all() for parameter in bilm.parameters()), "weights that are not finite were read"
    bilm.encode([["the", "wörd", ""], ["a" * 60]])
    _save_as_bytes(bilm, model.digest)
    if errors:
        raise errors[0]
    convert(str(path), out)  # this compares the weights
    again = formats.open_model(out)
    assert (again.options, again.options.training) == (model.options, model.options.training), "other options"
    assert repr(again.card) == repr(bilm.card), "another card"  # by text: NaN is not NaN
    assert again.vocabulary == model.vocabulary, "another vocabulary"


def _save_as_bytes(bilm: BiLM, digest: str) -> None:
    source = WeightsSource(None, "cpu")
    shim = BiLMShim(source)
    shim.set(bilm)
    again = BiLMShim(source).from_bytes(shim.to_bytes())
    assert again.digest == digest, "its bytes hold another model"
    assert repr(again.bilm.card) == repr(bilm.card), "its bytes hold another card"
