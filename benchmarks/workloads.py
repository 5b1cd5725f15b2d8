"""Size, shape and engine in, what the engine is given to encode out: the work of inference.py.

Ours gets all of a text, the others a sample where they are slow; how large, stands in the tables here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engines import BATCH, OURS, Sentences, batches_of
from operations import n_tokens, needed_operations, nominal_operations

from spacy_elmo import formats
from spacy_elmo.bilm import BiLM, BiLMOptions, CharCNNOptions, LSTMOptions

SIZES = ("original", "small", "bundled")
SHAPES = ("stream", "single", "long", "pieces")
STREAM_TOKENS = {"original": 1_600, "small": 3_200, "bundled": 6_400}  # of engines other than ours
LONG_TOKENS = {"original": 250, "small": 2_000, "bundled": 4_000}  # likewise; of pieces, a tenth of it in each
SINGLE_SENTENCES = 20
DOCUMENT_TOKENS, PIECE_TOKENS = 20_000, 1_000
FILTERS = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))


def load(size: str) -> BiLM:
    """Return the model of this name; all but the bundled one have random weights."""
    if size == "bundled":
        return formats.load(formats.BUNDLED)
    dim, projection_dim, n_highway = {"original": (4096, 512, 2), "small": (1024, 128, 1)}[size]
    lstm = LSTMOptions(dim, projection_dim, n_layers=2, cell_clip=3.0, proj_clip=3.0, use_skip_connections=True)
    return BiLM(BiLMOptions(lstm, CharCNNOptions(FILTERS, n_highway=n_highway)), seed=0).requires_grad_(False)


@dataclass(frozen=True)
class Work:
    """What an engine does in a repetition.

    calls: sentences handed over together; tokens: of the text in them.
    needed, nominal: operations that they take, as operations.py counts them.
    """

    calls: list[Sentences]
    tokens: int
    needed: int
    nominal: int

    @classmethod
    def make(cls, size: str, shape: str, engine: str, sentences: Sentences, options: BiLMOptions) -> "Work":
        """The work of an engine with a model of these options."""
        calls = CALLS[shape](size, engine, sentences)
        # A single sentence stands for itself; in what is one text, a word that comes twice is needed once.
        tasks = calls if shape == "single" else [[sentence for call in calls for sentence in call]]
        return cls(
            calls,
            sum(n_tokens(task) for task in tasks),
            sum(needed_operations(options, task) for task in tasks),
            sum(nominal_operations(options, task) for task in tasks),
        )


def stream_calls(size: str, engine: str, sentences: Sentences) -> list[Sentences]:
    """All at once, or an evenly spaced sample of batches."""
    if engine == OURS:
        return [sentences]
    batches = list(batches_of(sentences, BATCH))
    share = STREAM_TOKENS[size] / n_tokens(sentences)
    return evenly_spaced(batches, max(1, round(share * len(batches))))


def single_calls(size: str, engine: str, sentences: Sentences) -> list[Sentences]:
    """An evenly spaced sample of sentences, the same for all engines and sizes."""
    return [[sentence] for sentence in evenly_spaced(sentences, SINGLE_SENTENCES)]


def long_calls(size: str, engine: str, sentences: Sentences) -> list[Sentences]:
    """A document cut into pieces, or the beginning of it as one piece."""
    document = [word for sentence in sentences for word in sentence][:DOCUMENT_TOKENS]
    if engine != OURS:
        return [[document[: LONG_TOKENS[size]]]]
    return [[document[start : start + PIECE_TOKENS] for start in range(0, len(document), PIECE_TOKENS)]]


def pieces_calls(size: str, engine: str, sentences: Sentences) -> list[Sentences]:
    """The document in the same pieces for all engines as a batch, or the beginning of each piece."""
    (pieces,) = long_calls(size, OURS, sentences)
    return [pieces if engine == OURS else [piece[: LONG_TOKENS[size] // 10] for piece in pieces]]


CALLS = {"stream": stream_calls, "single": single_calls, "long": long_calls, "pieces": pieces_calls}


def evenly_spaced(items: Sequence[Any], count: int) -> list[Any]:
    """Items from the middle of `count` equal parts; all where there are not more."""
    count = min(count, len(items))
    return [items[(2 * number + 1) * len(items) // (2 * count)] for number in range(count)]
