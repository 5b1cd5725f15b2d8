"""Perplexity and log-probability of sentences: `spacy_elmo.score`, and `evaluate --per-sentence`."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from spacy.tokens import Token

from spacy_elmo.errors import ElmoError
from spacy_elmo.pretraining.evaluation import Evaluator, Perplexities, blocks
from spacy_elmo.tools import language
from spacy_elmo.tools.tokenized import of_each


@dataclass(frozen=True)
class Score:
    """How likely a sentence is for a biLM that reads it from zero state.

    The forward LM predicts each word and the end of the sentence from what comes before. The backward LM predicts each
    word and the beginning of the sentence from what comes after.

    words: the words of the sentence.
    unknown: how many of them are not in the vocabulary and count as `<UNK>`.
    forward_log_probability: natural logarithm of the sentence's probability for the forward LM.
    backward_log_probability: the same for the backward LM.
    log_probability: the mean of the two.
    forward_perplexity: `exp(-forward_log_probability / n)`, for n predictions, which are `len(words) + 1`.
    backward_perplexity: `exp(-backward_log_probability / n)`.
    perplexity: `exp(-log_probability / n)`.
    """

    words: list[str]
    unknown: int
    forward_log_probability: float
    backward_log_probability: float
    log_probability: float
    forward_perplexity: float
    backward_perplexity: float
    perplexity: float


def score(
    texts: Iterable[str | Iterable[str | Token]],
    model: str,
    *,
    softmax: str | None = None,
    lang: str = "en",
    device: str = "auto",
) -> list[Score]:
    """Score sentences. Each is a text or a list of words; spaCy's Docs and Spans are such lists, too.

    model: name or path of a model with a softmax, see `open_model`; or any model, with `softmax`.
    softmax: folder with the model's `softmax.hdf5` and `vocab.txt`, if they are not next to its weights.
    lang: language of the spaCy tokenizer that splits texts into words.
    device: see `choose_device`.

    Raises:
        ElmoError: `texts` is one text, or an item is neither a text nor words; the model lacks a part; or there is no
            such device or language.
    """
    if isinstance(texts, str):
        raise ElmoError("texts is one text, expected a list of texts: score([text], model)")
    tokenizer = language.blank(lang).tokenizer
    split = [
        [token.text for token in tokenizer(text) if not token.is_space] if isinstance(text, str) else _words(text, n)
        for n, text in enumerate(texts)
    ]
    return list(_scores(Evaluator.load(model, device, softmax), split)) if split else []


def of_text(model: str, text: str, device: str = "auto", softmax: str | None = None) -> Iterator[Score]:
    """Yield the score of each sentence of a tokenized text, one per line, read as a stream.

    Raises:
        ElmoError: the model lacks a part, there is no such device, or the text cannot be read or has no sentence.
    """
    evaluator = Evaluator.load(model, device, softmax)
    yield from of_each(text, lambda sentences: _scores(evaluator, sentences))


def row(one: Score) -> str:
    """Return a score as a readable line, to print below `HEADING`."""
    return f"{one.perplexity:>10.2f}{one.log_probability:>10.2f}{one.unknown:>9}  {' '.join(one.words)}"


HEADING = f"{'perplexity':>10}{'log p':>10}{'unknown':>9}  sentence"


def _scores(evaluator: Evaluator, sentences: Iterable[Sequence[str]]) -> Iterator[Score]:
    for block in blocks(sentences):
        for words, losses in zip(block, evaluator.zero_state_losses(block), strict=True):
            forward, backward = (-losses).tolist()
            perplexities = Perplexities.of(losses, len(words) + 1)
            yield Score(
                list(words),
                evaluator.count_unknown(words),
                forward,
                backward,
                (forward + backward) / 2,
                perplexities.forward_perplexity,
                perplexities.backward_perplexity,
                perplexities.perplexity,
            )


def _words(item: object, number: int) -> list[str]:
    words = list(item) if isinstance(item, Iterable) else [None]
    if not all(isinstance(word, str | Token) for word in words):
        raise ElmoError(f"texts[{number}] is {item!r}, expected a text, or its words as strings or tokens")
    return [str(word) for word in words]
