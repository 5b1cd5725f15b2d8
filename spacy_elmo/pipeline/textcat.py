"""Docs in, a score for each label out: the text classifier of `init-config`. It adds up two linear classifiers.

    tok2vec -> mean and maximum over the tokens -> linear ---+
                                                             +-> sum -> softmax or logistic
    n-grams of characters, pairs of words -> sparse linear --+

Each of the two learns as if it were alone. If both learn from the error of the sum, the one that fits the training data
first keeps the other from learning.
"""

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from spacy.strings import get_string_id
from spacy.tokens import Doc
from thinc.api import Dropout, Linear, Model, SparseLinear_v2, chain, with_cpu, zero_init

from spacy_elmo.pipeline.rows import Array

SIZES = (2, 3, 4, 5)  # of the n-grams, in characters
REMEMBERED = 30  # characters of the longest words whose n-grams are kept
LENGTH = 5.0  # of the vector of a Doc's values; with 1, the n-grams learn too slowly at spaCy's learning rate of 0.001

TextClassifier = Model[list[Doc], Array]
Features = tuple[Any, Array, Any]  # hashes and values of the features of all Docs, and how many each Doc has


def build_textcat_ngrams(
    tok2vec: Model[list[Doc], list[Array]],
    exclusive_classes: bool,
    length: int = 65536,
    nO: int | None = None,  # noqa: N803 (thinc's name)
) -> TextClassifier:
    """Registered as `spacy-elmo.TextCatNgrams.v1`: a text classifier that adds up two linear classifiers. One reads the
    mean and the maximum of the tokens' vectors, whitespace included. The other reads which n-grams of two to five
    characters and which pairs of words are in the text, in lower case. N-grams do not cross the ends of words. A Doc
    may be without tokens.

    tok2vec: such as `spacy-elmo.ConcatTok2Vec.v1`.
    exclusive_classes: True: the scores of all labels sum to 1 (textcat); False: each label has its own score
        (textcat_multilabel).
    length: how many weights a label has for n-grams and pairs of words. Each of these has two of them, chosen by hash.
    nO: number of labels; None: from the data.
    """
    of_vectors: TextClassifier = chain(tok2vec, mean_and_maximum(), Dropout(0.0), Linear(nO=nO, init_W=zero_init))
    of_ngrams: TextClassifier = chain(ngrams(), SparseLinear_v2(nO=nO, length=length))
    model: TextClassifier = Model(
        "textcat_ngrams",
        _forward,
        init=_init,
        dims={"nO": nO},
        layers=[of_vectors, with_cpu(of_ngrams, of_vectors.ops)],
        refs={"tok2vec": tok2vec},
        attrs={"multi_label": not exclusive_classes},
    )
    return model


def _init(model: TextClassifier, X: list[Doc] | None = None, Y: Array | None = None) -> None:  # noqa: N803 (thinc's names)
    if Y is not None:
        model.set_dim("nO", Y.shape[1])
    for layer in model.layers:
        layer.initialize(X, Y)


def _forward(model: TextClassifier, docs: list[Doc], is_train: bool) -> tuple[Array, Callable[[Array], list[Doc]]]:
    ops: Any = model.ops
    to_scores = ops.sigmoid if model.attrs["multi_label"] else ops.softmax
    logits, backprops = zip(*(layer(docs, is_train) for layer in model.layers), strict=True)
    scores: Array = to_scores(sum(logits))

    def backprop(d_scores: Array) -> list[Doc]:
        # spaCy's gradient is score minus truth, which is that of the cross entropy by the logits. It is 0 where the
        # truth is missing.
        is_known = d_scores != 0
        for own, backprop_own in zip(logits, backprops, strict=True):
            backprop_own((to_scores(own) - scores + d_scores) * is_known)
        return docs

    return scores, backprop


# Vectors


def mean_and_maximum() -> Model[list[Array], Array]:
    """Make the layer that turns `[n_tokens, width]` of each Doc into `[n_docs, 2 * width]`; zeros without tokens."""
    return Model("mean_and_maximum", _pool)


def _pool(
    model: Model[list[Array], Array], rows: list[Array], is_train: bool
) -> tuple[Array, Callable[[Array], list[Array]]]:
    # thinc's reduce_max stops with an error if a Doc has no tokens
    ops: Any = model.ops
    all_lengths = [len(doc_rows) for doc_rows in rows]
    filled = [number for number, length in enumerate(all_lengths) if length]
    lengths = ops.asarray1i([all_lengths[number] for number in filled])
    width = rows[0].shape[1]
    pooled = ops.alloc2f(len(rows), 2 * width)
    if not filled:
        return pooled, lambda d_pooled: rows
    joined = ops.xp.concatenate(rows)
    maximum, where = ops.reduce_max(joined, lengths)
    pooled[filled] = ops.xp.concatenate([ops.reduce_mean(joined, lengths), maximum], axis=1)

    def backprop(d_pooled: Array) -> list[Array]:
        d_mean, d_maximum = (ops.as_contig(part) for part in ops.xp.split(d_pooled[filled], 2, axis=1))
        d_joined = ops.backprop_reduce_mean(d_mean, lengths) + ops.backprop_reduce_max(d_maximum, where, lengths)
        d_rows: list[Array] = ops.unflatten(d_joined, ops.asarray1i(all_lengths))
        return d_rows

    return pooled, backprop


# N-grams


def ngrams() -> Model[list[Doc], Features]:
    """Make the layer that finds the n-grams and pairs of words of each Doc.

    The values of a Doc are equal, and a vector of the same length for each Doc. So a long text weighs as much as a
    short one.
    """
    return Model("ngrams", _find)


def _find(
    model: Model[list[Doc], Features], docs: list[Doc], is_train: bool
) -> tuple[Features, Callable[[Features], list[Doc]]]:
    found = [_features(doc) for doc in docs]
    lengths = [len(hashes) for hashes in found]
    hashes = np.fromiter((one for some in found for one in some), dtype=np.uint64, count=sum(lengths))
    values = np.repeat(LENGTH * np.maximum(lengths, 1) ** -0.5, lengths).astype(np.float32)
    return (hashes, values, np.asarray(lengths, dtype=np.int32)), lambda d_features: []


def _features(doc: Doc) -> set[int]:
    words = [token.lower_ for token in doc if not token.is_space]
    pairs = {get_string_id(f"{one} {other}") for one, other in pairwise(words)}
    return pairs.union(*(_remembered(word) if len(word) <= REMEMBERED else _of_word(word) for word in words))


def _of_word(word: str) -> frozenset[int]:
    """Return the hashes of the n-grams of a word; its ends count as characters."""
    marked = f"<{word}>"
    return frozenset(
        get_string_id(marked[start : start + size]) for size in SIZES for start in range(len(marked) - size + 1)
    )


_remembered = lru_cache(maxsize=10_000)(_of_word)  # some tens of megabytes
