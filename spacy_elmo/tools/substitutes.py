"""Lists the words that a biLM expects in place of each word (behind `python -m spacy elmo substitutes`).

It also has the pipeline component `elmo_substitutes`, which puts them on `token._.elmo_substitutes`.
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

_CHUNK_BYTES = 16 * 2**20  # of log-probabilities at once: those of a whole text would take gigabytes
_MAX_LENGTH = 1000  # longer sentences are cut, as in the component `elmo`
_KEY: Any = ("._.", "elmo_substitutes", None, None)  # in doc.user_data, with spaCy's key of an extension attribute


@dataclass(frozen=True)
class Ranking:
    """What one LM expects at one position.

    probability: of the word in the text, or of `<UNK>` if the vocabulary lacks it.
    words: the most likely words with their probabilities, most likely first.
    """

    probability: float
    words: list[tuple[str, float]]


@dataclass(frozen=True)
class Substitutes:
    """What the biLM expects in place of a word, whether its vocabulary has that word or not.

    forward: from the LM that reads what comes before; backward: from the LM that reads what comes after; combined: the
        product of both probabilities, normalized over the vocabulary.
    """

    word: str
    known: bool
    forward: Ranking
    backward: Ranking
    combined: Ranking


def substitutes(evaluator: Evaluator, sentences: Iterable[Sequence[str]], top: int = 10) -> Iterator[list[Substitutes]]:
    """Yield the substitutes for each word of each sentence, read as a stream. Every sentence starts from zero state.

    Probabilities are over the whole vocabulary, but its entries `<S>`, `</S>` and `<UNK>` are not listed: they are not
    words. `Evaluator.zero_state_losses` adds up the logarithms of the same probabilities.

    top: number of words to list.

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
    """Yield the results of `substitutes` for tokenized text, one sentence per line; skip blank lines.

    device: see `choose_device`; softmax: see `Evaluator.load`.

    Raises:
        ElmoError: the model lacks a part, there is no such device, or the text cannot be read or has no sentence.
    """
    evaluator = Evaluator.load(model, device, softmax)
    yield from of_each(text, lambda sentences: substitutes(evaluator, sentences, top))


def table(words: Sequence[Substitutes]) -> str:
    """Return the substitutes for the words of one sentence as readable lines."""
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
    """Yield the sentence number and substitutes of each word, in order. The work is done in chunks."""
    vocabulary = evaluator.vocabulary
    special = torch.tensor([vocabulary.ids[word] for word in SPECIAL])
    top = min(top, len(vocabulary) - len(SPECIAL))
    seen = [0] * len(sentences)
    # Forward predicts a word at one row, and backward predicts it at the next row of the same sentence.
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
    """Return log-probabilities over the vocabulary, `[n, n_words]`. hidden: `[n, projection_dim]`."""
    softmax = evaluator.softmax
    return torch.log_softmax(torch.addmm(softmax.bias, hidden, softmax.weight.T), dim=1)


def _rank(log_probabilities: Tensor, targets: Tensor, special: Tensor, words: Sequence[str], top: int) -> list[Ranking]:
    """Return the ranking at each position. log_probabilities: `[n, n_words]`, overwritten; targets: `[n]` ids of the
    words in the text; special: ids not to list."""
    own = log_probabilities.gather(1, targets[:, None]).squeeze(1).exp().tolist()
    log_probabilities[:, special] = -torch.inf
    values, ids = log_probabilities.topk(top, dim=1)
    return [
        Ranking(probability, [(words[number], value) for number, value in zip(numbers, row, strict=True)])
        for probability, numbers, row in zip(own, ids.tolist(), values.exp().tolist(), strict=True)
    ]


class SubstitutesComponent:
    """Puts substitutes on `token._.elmo_substitutes`, as the mapping that `substitutes --json` prints; None for
    white space."""

    def __init__(self, model: str, top: int, device: str = "auto", softmax: str | None = None) -> None:
        """The arguments are those of the factory, `make_substitutes`."""
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
    """Make a component `elmo_substitutes`. The biLM reads the sentences if they are set, otherwise the whole Doc.

    model: a model with its `vocab.txt` and `softmax.hdf5`, read when first needed. A saved pipeline keeps this path,
        not the model.
    top: number of words to list for each token.
    device: "auto" (a GPU if torch sees one), "cpu", "cuda", "cuda:1" or "mps".
    softmax: the folder with `vocab.txt` and `softmax.hdf5`, if they are not next to the weights.
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
            f"there are substitutes for {len(found)} tokens, but the Doc now has {len(token.doc)}: it was retokenized "
            "after elmo_substitutes; put the component that retokenizes before it"
        )
    return found[token.i]  # type: ignore[no-any-return]


if not Token.has_extension("elmo_substitutes"):
    Token.set_extension("elmo_substitutes", getter=_get)
