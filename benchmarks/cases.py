"""Size of a model, case and engine in, what the engine is to encode out, and how many operations that takes.

Ours gets all of a text, the others a sample where they are slow; how large, stands in the tables here: so large that
`make bench` takes less than 20 minutes a level on two processors.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers import Sentences, batches_of

from spacy_elmo import formats
from spacy_elmo.bilm import BiLM, BiLMOptions, CharCNNOptions, LSTMOptions

SENTENCES = Path(__file__).with_name("sentences.txt")
SIZES = ("original", "small", "bundled")
CASES = ("stream", "single", "long", "pieces")
STREAM_SENTENCES = {"original": 640}  # of ours; all at the other sizes
STREAM_TOKENS = {"original": 800, "small": 2_400, "bundled": 4_800}  # of engines other than ours
LONG_TOKENS = {"original": 250, "small": 2_000, "bundled": 4_000}  # likewise; of pieces, a tenth of it in each
SINGLE_SENTENCES = {"original": 8, "small": 20, "bundled": 20}
DOCUMENT_TOKENS, PIECE_TOKENS = 20_000, 1_000
FILTERS = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))


def read_sentences(count: int | None = None) -> list[list[str]]:
    """Return the first `count` sentences of sentences.txt, each a list of tokens; None for all."""
    return [line.split(" ") for line in read_texts(count)]


def read_texts(count: int | None = None) -> list[str]:
    """Return the first `count` lines of sentences.txt; None for all."""
    return SENTENCES.read_text(encoding="utf-8").splitlines()[:count]


def load(size: str) -> BiLM:
    """Return the model of this name; all but the bundled one have random weights."""
    if size == "bundled":
        return formats.load(formats.BUNDLED)
    dim, projection_dim, n_highway = {"original": (4096, 512, 2), "small": (1024, 128, 1)}[size]
    lstm = LSTMOptions(dim, projection_dim, n_layers=2, cell_clip=3.0, proj_clip=3.0, use_skip_connections=True)
    return BiLM(BiLMOptions(lstm, CharCNNOptions(FILTERS, n_highway=n_highway)), seed=0).requires_grad_(False)


@contextmanager
def model_directory(size: str) -> Iterator[tuple[str, BiLMOptions]]:
    """Write a model for all engines to load; also give out its options."""
    with tempfile.TemporaryDirectory() as directory:
        bilm = load(size)
        formats.write(bilm, directory)
        options = bilm.options
        del bilm
        yield directory, options


# Work


@dataclass(frozen=True)
class Work:
    """What an engine does in a repetition.

    calls: sentences handed over together; tokens: of the text in them; operations: that the text needs.
    """

    calls: list[Sentences]
    tokens: int
    operations: int

    @classmethod
    def make(cls, size: str, case: str, is_ours: bool, sentences: Sentences, options: BiLMOptions) -> "Work":
        """The work of an engine with a model of these options."""
        calls = calls_of(size, case, is_ours, sentences)
        # A single sentence stands for itself; in what is one text, a word that comes twice is needed once.
        tasks = calls if case == "single" else [[sentence for call in calls for sentence in call]]
        operations = sum(needed_operations(options, task) for task in tasks)
        return cls(calls, sum(n_tokens(task) for task in tasks), operations)


def calls_of(size: str, case: str, is_ours: bool, sentences: Sentences) -> list[Sentences]:
    """Sentences of each call: for ours all at once, for the others an evenly spaced sample of batches, or the beginning
    of a document or of its pieces."""
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
    """Items from the middle of `count` equal parts; all where there are not more."""
    count = min(count, len(items))
    return [items[(2 * number + 1) * len(items) // (2 * count)] for number in range(count)]


# Operations: those of the matrix products (a multiplication and an addition each); biases, activations and gates are
# free. The character CNN counts once for each distinct word, BOS and EOS among them, and in its windows only the
# positions that hold a character or a border of the word; the highways and the projection once for each distinct word;
# the LSTMs for every token, BOS and EOS included.


def n_tokens(sentences: Sentences) -> int:
    """Tokens of the text, without BOS and EOS."""
    return sum(len(sentence) for sentence in sentences)


def needed_operations(options: BiLMOptions, sentences: Sentences) -> int:
    """Operations the text requires."""
    cnn, lstm = options.char_cnn, options.lstm
    assert cnn is not None
    words = {word for sentence in sentences for word in sentence}
    lengths = [3, 3, *(min(len(word.encode()), cnn.max_characters_per_token - 2) + 2 for word in words)]  # BOS, EOS
    convolutions = sum(
        2 * number * cnn.embedding_dim * positions_in_windows(length, size, cnn.max_characters_per_token)
        for length in lengths
        for size, number in cnn.filters
    )
    projected = cnn.n_filters * lstm.projection_dim if cnn.n_filters != lstm.projection_dim else 0
    per_word = 2 * (cnn.n_highway * 2 * cnn.n_filters**2 + projected)
    projection = lstm.dim * lstm.projection_dim if lstm.dim != lstm.projection_dim else 0
    per_token = 2 * lstm.n_layers * 2 * (2 * lstm.projection_dim * 4 * lstm.dim + projection)
    return convolutions + len(lengths) * per_word + (n_tokens(sentences) + 2 * len(sentences)) * per_token


def positions_in_windows(length: int, size: int, full: int) -> int:
    """Positions of a word that fall into the windows starting in it, counted once for each window."""
    return sum(min(size, length - start) for start in range(min(length, full - size + 1)))
