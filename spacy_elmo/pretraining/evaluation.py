"""Perplexities of a language model on a text: with carried state and from zero state."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spacy_elmo import formats
from spacy_elmo.bilm import BiLM
from spacy_elmo.bilm.characters import BOS, EOS
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.bilm.time_steps import State
from spacy_elmo.errors import CorpusError, WeightsError
from spacy_elmo.pretraining.vocabulary import Vocabulary
from spacy_elmo.support.device import choose_device
from spacy_elmo.support.progress import progress_bar

Sentences = Sequence[Sequence[str]]

_BLOCK_TOKENS = 20_000  # about the number of words of a block of sentences, which keeps memory constant
# A larger ratio between zero and carried state gives a warning, in either direction and whichever is worse. A good
# model, such as the bundled one, is a quarter better with carried state on whole documents: it uses the text before.
_DISAGREEMENT = 1.5


@dataclass(frozen=True)
class Perplexities:
    """Perplexity of each direction and of both, which is the exponential of the mean of the two losses."""

    forward_perplexity: float
    backward_perplexity: float
    perplexity: float

    @classmethod
    def of(cls, losses: Tensor, tokens: int) -> "Perplexities":
        """Compute them from losses: `[2]`, summed over `tokens` predictions of each direction."""
        forward, backward = (losses / tokens).tolist()
        return cls(_exp(forward), _exp(backward), _exp((forward + backward) / 2))


def _exp(loss: float) -> float:
    return math.exp(min(loss, 700.0))  # a larger result is not a number in JSON


@dataclass(frozen=True)
class Evaluation:
    """Perplexities of a text over the full vocabulary.

    tokens: predictions of one direction; unknown_share: share of the words that are not in the vocabulary, which count
        as `<UNK>`.
    """

    tokens: int
    carried: Perplexities
    zero_state: Perplexities
    unknown_share: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object that `evaluate --json` prints."""
        return {
            "tokens": self.tokens,
            **asdict(self.carried),
            "zero_state": asdict(self.zero_state),
            "unknown_share": self.unknown_share,
        }

    @property
    def is_bad_from_zero(self) -> bool:
        """Whether any direction is much worse from zero state, as the model is used."""
        return any(zero > _DISAGREEMENT * carried for zero, carried in self._directions.values())

    @property
    def warning(self) -> str | None:
        """The warning if zero and carried state disagree; a direction that is bad from zero state comes first."""
        for direction, (zero, carried) in sorted(self._directions.items(), key=lambda item: item[1][1] / item[1][0]):
            figures = (
                f"{direction} perplexity is {zero:.4g} from zero state, as the model is used, but {carried:.4g} with "
                "carried state"
            )
            if zero > _DISAGREEMENT * carried:
                return f"{figures}; train with a (higher) reset_probability"
            if carried > _DISAGREEMENT * zero:
                return f"{figures}: it has hardly learned to read on from one sentence of such text to the next"
        return None

    @property
    def _directions(self) -> dict[str, tuple[float, float]]:
        """Perplexity from zero and with carried state, by direction."""
        zero, carried = self.zero_state, self.carried
        return {
            "forward": (zero.forward_perplexity, carried.forward_perplexity),
            "backward": (zero.backward_perplexity, carried.backward_perplexity),
        }


@dataclass(frozen=True)
class Predictions:
    """Predictions of some sentences in their order: `n + 1` per direction for a sentence with `n` words.

    Forward predicts `w1 ... wn </S>`, each from the state before it. Backward predicts `<S> w1 ... wn`, each from the
    state after it.

    sentences: `[m]` int64, the number of the sentence; hidden: `[2, m, projection_dim]`, forward and backward, input
    of the softmax; targets: `[2, m]` int64, ids of the correct words.
    """

    sentences: Tensor
    hidden: Tensor
    targets: Tensor


class Evaluator:
    """Scores sentences with a biLM, its softmax and its vocabulary.

    It works like bilm-tf's evaluation: forward reads `<S> w1 ... wn` and predicts `w1 ... wn </S>`, backward reads
    `</S> wn ... w1` and predicts `wn ... w1 <S>`; a target outside the vocabulary counts as `<UNK>`.
    """

    def __init__(self, bilm: BiLM, softmax: Softmax, vocabulary: Vocabulary) -> None:
        self.bilm, self.softmax, self.vocabulary = bilm, softmax, vocabulary

    @classmethod
    def load(cls, model: str | Path, device: str = "auto", softmax: str | Path | None = None) -> "Evaluator":
        """Load a model with its softmax and vocabulary.

        device: see `choose_device`; softmax: the folder with both, if they are not next to the weights.

        Raises:
            ElmoError: a part is missing or does not fit, or there is no such device.
        """
        chosen, opened = choose_device(device), formats.open_model(model)
        if softmax is None:
            if model == formats.BUNDLED and not opened.has_softmax:
                raise WeightsError(
                    f"{model} ships without its softmax, so it can embed words but not predict them; use the softmax "
                    "in the repository of spacy-elmo: --softmax training/en_elmo_sm/state (in Python: softmax=...)"
                )
            layer, words, source = opened.softmax(), opened.vocabulary or [], f"vocabulary of {opened.name}"
        else:
            words, layer = formats.read_softmax(softmax, opened.options.lstm.projection_dim)
            source = f"vocabulary in {softmax}"
        return cls(opened.bilm().to(chosen), layer.to(chosen), Vocabulary(words, source))

    def perplexity(
        self, sentences: Iterable[Sequence[str]], max_tokens: int | None = None, show_progress: bool = False
    ) -> Evaluation:
        """Compute the perplexities of a text, read as a stream.

        max_tokens: stop after the sentence that reaches this many words.

        Raises:
            CorpusError: the text has no sentence.
        """
        carried, zero_state = torch.zeros(2).double(), torch.zeros(2).double()
        tokens = words = unknown = 0
        states: list[State] | None = None
        with progress_bar(show_progress, "evaluating", unit=" words") as bar:
            for block in blocks(sentences, max_tokens):
                losses, states = self.carried_losses(block, states)
                carried += losses
                zero_state += self.zero_state_losses(block).sum(0)
                n = sum(len(sentence) + 1 for sentence in block)
                tokens += n
                words += n - len(block)
                unknown += sum(self.count_unknown(sentence) for sentence in block)
                bar.update(n)
        if not tokens:
            raise CorpusError("the text has no sentence to evaluate on; expected one per line")
        perplexities = Perplexities.of(carried, tokens), Perplexities.of(zero_state, tokens)
        return Evaluation(tokens, *perplexities, unknown / words if words else 0.0)

    @torch.inference_mode()
    def zero_state_losses(self, sentences: Sentences) -> Tensor:
        """Return each sentence's negative log-likelihood from zero state, by direction: `[n_sentences, 2]` float64."""
        totals = torch.zeros(len(sentences), 2, dtype=torch.float64)
        for batch in self.predictions(sentences):
            for direction in (0, 1):
                losses = self.softmax.losses(batch.hidden[direction], batch.targets[direction]).cpu().double()
                totals[:, direction].index_add_(0, batch.sentences, losses)
        return totals

    @torch.inference_mode()
    def predictions(self, sentences: Sentences) -> Iterator[Predictions]:
        """Yield, batch by batch, the softmax's input and targets for each sentence from zero state."""
        width = self.bilm.options.lstm.projection_dim
        for batch in self.bilm.stream(sentences):
            ids = self._ids([word for n in batch.numbers for word in (BOS, *sentences[n], EOS)])
            sequence = torch.tensor(batch.numbers).repeat_interleave(torch.tensor(batch.lengths))
            # Positions whose right neighbour is in the same sentence.
            left = (sequence[1:] == sequence[:-1]).nonzero().squeeze(1)
            top = batch.layers[-1]
            yield Predictions(
                sequence[left],
                torch.stack([top[left, :width], top[left + 1, width:]]),
                torch.stack([ids[left + 1], ids[left]]),
            )

    @torch.inference_mode()
    def carried_losses(self, sentences: Sentences, states: Sequence[State] | None = None) -> tuple[Tensor, list[State]]:
        """Return the negative log-likelihood of a text, `[2]` float64, and the states at its end.

        Each direction carries its state from sentence to sentence.
        """
        read = [word for sentence in sentences for word in (BOS, *sentence)]
        read += [word for sentence in sentences for word in (EOS, *reversed(sentence))]
        predicted = [word for sentence in sentences for word in (*sentence, EOS)]
        predicted += [word for sentence in sentences for word in (*reversed(sentence), BOS)]
        x = self.bilm.embed(read).unflatten(0, (2, -1))
        layers = list(self.bilm.run_layers(x, [1] * x.shape[1], states or [None] * len(self.bilm.layers)))
        losses = self.softmax.losses(layers[-1][0].flatten(0, 1), self._ids(predicted))
        return losses.cpu().double().view(2, -1).sum(1), [state for _, state in layers]

    def count_unknown(self, words: Sequence[str]) -> int:
        """Count the words that count as `<UNK>`."""
        ids, unknown = self.vocabulary.ids, self.vocabulary.unknown
        return sum(ids.get(word, unknown) == unknown for word in words)

    def _ids(self, words: Sequence[str]) -> Tensor:
        ids, unknown = self.vocabulary.ids, self.vocabulary.unknown
        return torch.tensor([ids.get(word, unknown) for word in words], device=self.bilm.device)


def blocks(sentences: Iterable[Sequence[str]], max_tokens: int | None = None) -> Iterator[list[Sequence[str]]]:
    """Yield the sentences in blocks of about `_BLOCK_TOKENS` words, up to `max_tokens` in all."""
    block: list[Sequence[str]] = []
    in_block = total = 0
    for sentence in sentences:
        block.append(sentence)
        in_block += len(sentence)
        total += len(sentence)
        if in_block >= _BLOCK_TOKENS:
            yield block
            block, in_block = [], 0
        if max_tokens is not None and total >= max_tokens:
            break
    if block:
        yield block
