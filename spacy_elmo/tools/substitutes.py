"""Sentences in, the words the biLM itself would put at each place out (behind `python -m spacy elmo substitutes`).

Also the pipeline component `elmo_substitutes`, which puts them on `token._.elmo_substitutes`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from spacy.language import Language
from spacy.tokens import Doc, Token
from torch import Tensor

from spacy_elmo.errors import ElmoError
from spacy_elmo.pipeline.reading import Reading
from spacy_elmo.pipeline.spans import sentence_spans
from spacy_elmo.pretraining.evaluation import Evaluator, Predictions, blocks
from spacy_elmo.pretraining.vocabulary import SPECIAL
from spacy_elmo.tools.tokenized import of_each

_CHUNK_BYTES = 16 * 2**20  # of log-probabilities at once: those of a whole text would fill gigabytes
_MAX_LENGTH = 1000  # longer sentences are cut, as the component `elmo` does
_KEY: Any = ("._.", "elmo_substitutes", None, None)  # of doc.user_data, as spaCy lays out extension attributes


@dataclass(frozen=True)
class Ranking:
    """What one model expects at one place.

    probability: of the word that stands there, or of `<UNK>` where the vocabulary lacks it.
    words: the likeliest words with their probabilities, likeliest first.
    """

    probability: float
    words: list[tuple[str, float]]


@dataclass(frozen=True)
class Substitutes:
    """What the biLM would put in place of a word, whether its vocabulary knows that word or not.

    forward: by the LM that has read what comes before; backward: by the one that has read what comes behind;
    combined: the product of both probabilities, brought to sum 1 over the vocabulary again.
    """

    word: str
    known: bool
    forward: Ranking
    backward: Ranking
    combined: Ranking


def substitutes(evaluator: Evaluator, sentences: Iterable[Sequence[str]], top: int = 10) -> Iterator[list[Substitutes]]:
    """Yield the substitutes for each word of each sentence, read as a stream; every sentence from zero state.

    Probabilities are over the whole vocabulary; its entries `<S>`, `</S>` and `<UNK>`, which are no words, are not
    listed. They are the ones whose logarithms `Evaluator.zero_state_losses` adds up.

    top: words to list.

    Raises:
        ElmoError: `top` is below 1.
    """
    if top < 1:
        raise ElmoError(f"top is {top}, expected at least 1 word to list")
    for block in blocks(sentences):
        found: list[list[Substitutes]] = [[] for _ in block]
        for batch in evaluator.predictions(block):
            for number, substitute in _of_batch(evaluator, batch, block, top):
                found[number].append(substitute)
        yield from found


def of_text(
    model: str, text: str, top: int, device: str = "auto", softmax: str | None = None
) -> Iterator[list[Substitutes]]:
    """Yield what `substitutes` does of pre-tokenized text, one sentence a line; blank lines are passed over.

    device: see `choose_device`; softmax: see `Evaluator.load`.

    Raises:
        ElmoError: the model lacks a part, there is no such device, or the text cannot be read or holds no sentence.
    """
    evaluator = Evaluator.load(model, device, softmax)
    yield from of_each(text, lambda sentences: substitutes(evaluator, sentences, top))


def table(words: Sequence[Substitutes]) -> str:
    """The substitutes for the words of one sentence as lines to read."""
    lines = [" ".join(one.word for one in words)]
    for one in words:
        lines.append(f"  {one.word}" + ("" if one.known else "  (not in the vocabulary)"))
        for name in ("forward", "backward", "combined"):
            ranking: Ranking = getattr(one, name)
            likely = "  ".join(f"{word} {probability:.3f}" for word, probability in ranking.words)
            lines.append(f"    {name:<9} {likely}")
    return "\n".join(lines)


@torch.inference_mode()
def _of_batch(
    evaluator: Evaluator, batch: Predictions, sentences: Sequence[Sequence[str]], top: int
) -> Iterator[tuple[int, Substitutes]]:
    """Number of the sentence and substitutes of each word, in order, worked on in chunks."""
    vocabulary = evaluator.vocabulary
    special = torch.tensor([vocabulary.ids[word] for word in SPECIAL])
    top = min(top, len(vocabulary) - len(SPECIAL))
    seen = [0] * len(sentences)
    # A word is what forward predicts at one row and backward at the next, of the same sentence.
    rows = (batch.sentences[1:] == batch.sentences[:-1]).nonzero().squeeze(1)
    for part in rows.split(max(1, _CHUNK_BYTES // (4 * 3 * len(vocabulary)))):
        forward = _log_probabilities(evaluator, batch.hidden[0, part])
        backward = _log_probabilities(evaluator, batch.hidden[1, part + 1])
        combined = torch.log_softmax(forward + backward, dim=1)
        targets = batch.targets[0, part]
        rankings = [_rank(one, targets, special, vocabulary.words, top) for one in (forward, backward, combined)]
        for number, *ranked in zip(batch.sentences[part].tolist(), *rankings, strict=True):
            word = sentences[number][seen[number]]
            seen[number] += 1
            yield number, Substitutes(word, word in vocabulary.ids, *ranked)


def _log_probabilities(evaluator: Evaluator, hidden: Tensor) -> Tensor:
    """Over the vocabulary, `[n, n_words]`; hidden: `[n, projection_dim]`."""
    softmax = evaluator.softmax
    return torch.log_softmax(torch.addmm(softmax.bias, hidden, softmax.weight.T), dim=1)


def _rank(log_probabilities: Tensor, targets: Tensor, special: Tensor, words: Sequence[str], top: int) -> list[Ranking]:
    """log_probabilities: `[n, n_words]`, overwritten; targets: `[n]` ids of the words that stand there; special: ids
    not to list."""
    own = log_probabilities.gather(1, targets[:, None]).squeeze(1).exp().tolist()
    log_probabilities[:, special] = -torch.inf
    values, ids = log_probabilities.topk(top, dim=1)
    return [
        Ranking(probability, [(words[number], value) for number, value in zip(numbers, row, strict=True)])
        for probability, numbers, row in zip(own, ids.tolist(), values.exp().tolist(), strict=True)
    ]


class SubstitutesComponent:
    """Puts substitutes on `token._.elmo_substitutes`, as the mapping that `substitutes --json` prints; None for
    whitespace."""

    def __init__(self, model: str, top: int, device: str = "auto", softmax: str | None = None) -> None:
        """Arguments as for the factory, `make_substitutes`."""
        self.model, self.top, self.device, self.softmax = model, top, device, softmax
        self._evaluator: Evaluator | None = None

    def __call__(self, doc: Doc) -> Doc:
        """Annotate a Doc."""
        if self._evaluator is None:
            self._evaluator = Evaluator.load(self.model, self.device, self.softmax)
        reading = Reading.of([doc], sentence_spans(), _MAX_LENGTH)
        found: list[dict[str, Any] | None] = [None] * len(doc)
        listed = substitutes(self._evaluator, reading.sentences, self.top)
        for (_, indices), words in zip(reading.places, listed, strict=True):
            for i, one in zip(indices, words, strict=True):
                found[i] = asdict(one)
        doc.user_data[_KEY] = found
        return doc


@Language.factory(
    "elmo_substitutes",
    assigns=["token._.elmo_substitutes"],
    default_config={"top": 10, "device": "auto", "softmax": None},
)
def make_substitutes(
    nlp: Language, name: str, model: str, top: int, device: str, softmax: str | None
) -> SubstitutesComponent:
    """Make a component `elmo_substitutes`; the biLM reads the sentences, where they are set, else the whole Doc.

    model: a model with its `vocab.txt` and `softmax.hdf5`, read when first needed. A saved pipeline keeps this path,
        not the model.
    top: words to list for each token.
    device: "auto" (a GPU where torch sees one), "cpu", "cuda" or "cuda:1".
    softmax: the folder with `vocab.txt` and `softmax.hdf5`, where they do not lie beside the weights.
    """
    if top < 1:
        raise ElmoError(f"{name}: top is {top}, expected at least 1 word to list")
    return SubstitutesComponent(model, top, device, softmax)


def _get(token: Token) -> dict[str, Any] | None:
    found = token.doc.user_data.get(_KEY)
    if found is None:
        return None
    if len(found) != len(token.doc):
        raise ElmoError(
            f"there are substitutes for {len(found)} tokens, the Doc now has {len(token.doc)}: it was retokenized "
            "behind elmo_substitutes. Put the retokenizing component before it"
        )
    return found[token.i]  # type: ignore[no-any-return]


if not Token.has_extension("elmo_substitutes"):
    Token.set_extension("elmo_substitutes", getter=_get)
