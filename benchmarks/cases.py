"""What each engine encodes for a model and case, and how many operations and bytes that needs.

Our engine gets the whole text. Others get a sample if they are slow. The tables here have the size of the samples. With
these, `make bench` takes less than 20 minutes per level on two processors.
"""

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from peers import Sentences, batches_of

from spacy_elmo import formats
from spacy_elmo.bilm import BiLM, BiLMOptions, CharCNNOptions, LSTMOptions
from spacy_elmo.bilm.lexicons import Lexicons
from spacy_elmo.formats.elmoformanylangs import PUBLIC_CONFIG

SENTENCES = Path(__file__).with_name("sentences.txt")
SIZES = ("original", "small", "bundled")
OURS_ALONE = ("manylangs",)  # no peer loads it
CASES = ("stream", "single", "long", "pieces")
STREAM_SENTENCES = {"original": 640, "manylangs": 640}  # for our engine; all sentences at the other sizes
STREAM_TOKENS = {"original": 800, "small": 2_400, "bundled": 4_800}  # for other engines
LONG_TOKENS = {"original": 250, "small": 2_000, "bundled": 4_000}  # for other engines; a tenth of it in each piece
SINGLE_SENTENCES = {"original": 8, "manylangs": 8, "small": 20, "bundled": 20}
DOCUMENT_TOKENS, PIECE_TOKENS = 20_000, 1_000
_FILES = tempfile.TemporaryDirectory()  # removed when the process ends
FILTERS = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))
MARKERS = ("<bos>", "<eos>", "<oov>", "<pad>", "<bow>", "<eow>")
# 150,000 words and 15,000 characters.
LEXICONS = Lexicons([*MARKERS, *map(str, range(149_994))], [*MARKERS, *map(chr, range(33, 33 + 14_994))])


def read_sentences(count: int) -> list[list[str]]:
    """Return the first `count` sentences of sentences.txt, each a list of tokens."""
    return [line.split(" ") for line in SENTENCES.read_text(encoding="utf-8").splitlines()[:count]]


def load(size: str) -> BiLM:
    """Return the model of this name. All except the bundled one have random weights."""
    if size == "bundled":
        return formats.load(formats.BUNDLED)
    if size == "manylangs":
        return BiLM(BiLMOptions.from_dict(PUBLIC_CONFIG), seed=0, lexicons=LEXICONS).requires_grad_(False)
    dim, projection_dim, n_highway = {"original": (4096, 512, 2), "small": (1024, 128, 1)}[size]
    lstm = LSTMOptions(dim, projection_dim, n_layers=2, cell_clip=3.0, proj_clip=3.0, use_skip_connections=True)
    return BiLM(BiLMOptions(lstm, CharCNNOptions(FILTERS, n_highway=n_highway)), seed=0).requires_grad_(False)


@cache
def write_model(size: str) -> tuple[str, BiLMOptions]:
    """Write a model to a directory for all engines to load. Return the directory and the options."""
    bilm, directory = load(size), f"{_FILES.name}/{size}"
    formats.write(bilm, directory)
    return directory, bilm.options


def calls_of(size: str, case: str, is_ours: bool, sentences: Sentences) -> list[Sentences]:
    """Return the input of each call of an engine. Ours gets all sentences at once. The others get an evenly spaced
    sample of batches, or the beginning of a document or of its pieces."""
    if case == "single":
        return [[sentence] for sentence in evenly_spaced(sentences, SINGLE_SENTENCES[size])]
    if case == "stream" and is_ours:
        return [evenly_spaced(sentences, STREAM_SENTENCES.get(size, len(sentences)))]
    if case == "stream":
        batches = list(batches_of(sentences))
        share = STREAM_TOKENS[size] / n_tokens(sentences)
        return evenly_spaced(batches, max(1, round(share * len(batches))))
    document = [word for sentence in sentences for word in sentence][:DOCUMENT_TOKENS]
    if case == "long" and not is_ours:
        return [[document[: LONG_TOKENS[size]]]]
    pieces = [document[start : start + PIECE_TOKENS] for start in range(0, len(document), PIECE_TOKENS)]
    return [pieces if is_ours else [piece[: LONG_TOKENS[size] // 10] for piece in pieces]]


def evenly_spaced(items: Sequence[Any], count: int) -> list[Any]:
    """Return items from the middle of `count` equal parts; return all if there are not more."""
    count = min(count, len(items))
    return [items[(2 * number + 1) * len(items) // (2 * count)] for number in range(count)]


def n_tokens(sentences: Sentences) -> int:
    """Return the number of tokens of the text, without BOS and EOS."""
    return sum(map(len, sentences))


def needed_operations(options: BiLMOptions, sentences: Sentences) -> int:
    """Return the operations of matrix products (multiplications and additions) that a text needs. The rest is free.

    The character CNN counts once for each distinct word, including BOS and EOS. In its windows, only positions with a
    character or a border of the word count. The LSTMs count for every token, including BOS and EOS.
    """
    cnn = char_cnn_of(options)
    words, full = {word for sentence in sentences for word in sentence}, cnn.max_characters_per_token
    lengths = [3, 3, *(min(len(word.encode()), full - 2) + 2 for word in words)]  # BOS, EOS
    windows = sum(
        number * sum(min(size, length - start) for start in range(min(length, full - size + 1)))
        for length in lengths
        for size, number in cnn.filters
    )
    of_words, of_inputs, of_states = n_weights(options)
    n_steps = n_tokens(sentences) + 2 * len(sentences)
    return 2 * (windows * cnn.embedding_dim + len(lengths) * of_words + n_steps * (of_inputs + of_states))


def needed_bytes(options: BiLMOptions, sentence: Sequence[str]) -> int:
    """Return the bytes of weights that a sentence reads: the recurrent weights in every step, the rest once (without
    the filters)."""
    of_words, of_inputs, of_states = n_weights(options)
    return 4 * (of_words + of_inputs + (len(sentence) + 2) * of_states)


def n_weights(options: BiLMOptions) -> tuple[int, int, int]:
    """Return the number of weights of the highways and the projection, of all input matrices of the LSTMs, and of all
    their state matrices."""
    cnn, lstm = char_cnn_of(options), options.lstm
    n_features = cnn.n_filters + (options.token_embedder.word_dim if options.token_embedder else 0)
    projected = n_features * lstm.projection_dim if n_features != lstm.projection_dim else 0
    inputs = 4 * lstm.dim * lstm.projection_dim
    states = inputs + (lstm.dim * lstm.projection_dim if lstm.dim != lstm.projection_dim else 0)
    return cnn.n_highway * 2 * cnn.n_filters**2 + projected, 2 * lstm.n_layers * inputs, 2 * lstm.n_layers * states


def char_cnn_of(options: BiLMOptions) -> CharCNNOptions:
    """Return the options of the character CNN, in both families of models."""
    cnn = options.token_embedder.char_cnn if options.token_embedder else options.char_cnn
    assert cnn is not None
    return cnn
