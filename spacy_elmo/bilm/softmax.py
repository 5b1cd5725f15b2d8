"""The softmax over the vocabulary, which both directions share: computes losses of target words."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spacy_elmo.bilm import training_kernels
from spacy_elmo.bilm.packed import PackedModule
from spacy_elmo.bilm.parameters import empty_parameter
from spacy_elmo.bilm.products import Product, product_dtype
from spacy_elmo.bilm.transfer import to_device

# Size of a chunk of logits: it should fit into a CPU's cache, and all logits of a batch would take gigabytes. But a
# chunk has at least this many targets: each chunk reads the rows of a large vocabulary from memory again.
_CHUNK_BYTES, _CHUNK_TARGETS, _PACKED_TARGETS = 8 * 2**20, 32, 64

# Chunks whose logits are kept until one product computes the gradients of the rows. It reads and writes all of these.
_CHUNKS_OF_GROUP = 4


@dataclass(frozen=True)
class Candidates:
    """Words drawn for a sampled softmax, without repetition, and the number of draws that it took.

    words: `[n_samples]` int64.
    """

    words: Tensor
    n_draws: int
    n_words: int

    @classmethod
    def draw(cls, n_samples: int, n_words: int, rng: np.random.Generator) -> "Candidates":
        """Draw `n_samples` distinct words, fewer than `n_words`, log-uniformly from a vocabulary in descending order of
        frequency, like TensorFlow's `log_uniform_candidate_sampler`."""
        drawn = np.empty(0, dtype=np.int64)
        while True:
            more = np.exp(rng.random(2 * n_samples) * np.log(n_words + 1)).astype(np.int64) - 1
            drawn = np.concatenate([drawn, np.minimum(more, n_words - 1)])
            words, first = np.unique(drawn, return_index=True)
            if len(words) >= n_samples:
                order = np.argsort(first)[:n_samples]
                return cls(torch.from_numpy(words[order]), int(first[order[-1]]) + 1, n_words)

    def log_expected(self, words: Tensor) -> Tensor:
        """Return the logarithm of the expected count of each of `words` among the candidates, float32 of the same
        shape. If `words` are on a Mac's GPU, the result is on the CPU."""
        words = words.cpu() if words.device.type == "mps" else words  # mps has no float64
        rank = words.double() + 1.0
        probability = torch.log1p(1.0 / rank) / np.log(self.n_words + 1)
        return torch.log(-torch.expm1(self.n_draws * torch.log1p(-probability))).float()


class Softmax(PackedModule[Product]):
    """The output layer of the language model: a row of `weight` and a bias for each word of the vocabulary.

    weight: `[n_words, projection_dim]`; bias: `[n_words]`.
    """

    matrices = ("weight",)

    def __init__(self, n_words: int, projection_dim: int, seed: int | None = 0) -> None:
        super().__init__()
        self.weight = empty_parameter(n_words, projection_dim)
        self.bias = empty_parameter(n_words)
        if seed is not None:
            self.initialize(torch.Generator().manual_seed(seed))

    def forward(self, hidden: Tensor, targets: Tensor, candidates: Candidates | None = None) -> Tensor:
        """Return the mean cross-entropy in nats, a scalar.

        hidden: `[n, projection_dim]`; targets: `[n]` int64.
        candidates: only score against these. The logarithm of the expected count is subtracted from each logit, and a
            candidate that equals the target is left out (TensorFlow's `sampled_softmax_loss`). None: the full softmax.
        """
        return _MeanCrossEntropy.apply(hidden, self.weight, self.bias, targets, candidates)  # type: ignore[no-any-return, no-untyped-call]

    @torch.no_grad()
    def losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy of each target over the whole vocabulary, `[n]` in nats; see `forward`."""
        if packed := self.packed(hidden):
            chunks = zip(hidden.split(_PACKED_TARGETS), targets.split(_PACKED_TARGETS), strict=True)
            return torch.cat([_losses(packed(chunk), wanted) for chunk, wanted in chunks])
        return _cross_entropy(hidden, self.weight, self.bias, targets, None, with_gradients=False)[0]

    def pack(self, make: type[Product]) -> Product:
        """Return the product that computes the logits."""
        return make(self.weight.t(), self.bias)

    def initialize(self, generator: torch.Generator) -> None:
        """Draw random weights as in bilm-tf's training."""
        with torch.no_grad():
            nn.init.normal_(self.weight, std=self.weight.shape[1] ** -0.5, generator=generator)
            nn.init.zeros_(self.bias)


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy `[n]` of targets `[n]` with logits `[n, n_words]`."""
    return _log_total(logits, torch.softmax(logits, dim=1)) - logits.gather(1, targets[:, None]).squeeze(1)


def _log_total(logits: Tensor, probability: Tensor) -> Tensor:
    """Return the logarithm of the sum of `exp(logits)` of each row. It follows from their softmax and largest value,
    without another pass over the logits."""
    return logits.amax(1) - probability.amax(1).log()


class _MeanCrossEntropy(torch.autograd.Function):
    """Computes the gradients together with the losses, chunk by chunk. So no logits are kept or computed twice."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, candidates: Candidates | None
    ) -> Tensor:
        """Return the mean loss."""
        losses, gradients = _cross_entropy(
            hidden, weight, bias, targets, candidates, with_gradients=any(ctx.needs_input_grad)
        )
        if gradients is not None:
            ctx.save_for_backward(hidden, weight, targets, *gradients)
            ctx.words = None if candidates is None else to_device(candidates.words, weight.device)
        return losses.mean()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Put the gradients of the scored rows into their places in the vocabulary."""
        hidden, weight, targets, d_hidden, d_rows, d_biases, d_truth = ctx.saved_tensors
        scale = grads[0] / len(targets)
        if ctx.words is None:
            d_weight, d_bias = d_rows, d_biases
        else:
            d_weight = torch.zeros_like(weight).index_add_(0, ctx.words, d_rows)
            d_bias = weight.new_zeros(len(weight)).index_add_(0, ctx.words, d_biases)
        d_weight.index_add_(0, targets, d_truth[:, None] * hidden)
        d_bias.index_add_(0, targets, d_truth)
        return d_hidden * scale, d_weight.mul_(scale), d_bias.mul_(scale), None, None


@dataclass(frozen=True)
class _Scored:
    """The words that targets are scored against.

    rows, biases: of these words, `[n_words, projection_dim]` and `[n_words]`.
    truth: the logit of each target, `[n]`.
    hits: for targets that are scored separately: the place of the target among these words, where it is left out, or
        -1, `[n]`. None if all words are scored, including the target.
    """

    rows: Tensor
    biases: Tensor
    truth: Tensor
    hits: Tensor | None

    @classmethod
    def of(
        cls, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, candidates: Candidates | None
    ) -> "_Scored":
        truth = (hidden * weight[targets]).sum(1) + bias[targets]
        if candidates is None:
            return cls(weight, bias, truth, None)
        words = to_device(candidates.words, weight.device)
        column = torch.full((len(weight),), -1, device=weight.device)
        column[words] = torch.arange(len(words), device=weight.device)
        biases = bias[words] - candidates.log_expected(words).to(bias)
        return cls(weight[words], biases, truth - candidates.log_expected(targets).to(truth), column[targets])


def _cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, candidates: Candidates | None, with_gradients: bool
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor] | None]:
    """Return losses `[n]`, and the gradients of their sum: for `hidden`, for the scored rows of `weight` and `bias`,
    and for the logit of each target (which the rows do not include)."""
    scored = _Scored.of(hidden, weight, bias, targets, candidates)
    dtype = product_dtype(hidden)
    rows, inputs = scored.rows.to(dtype), hidden.to(dtype)
    losses, d_truth = torch.empty_like(scored.truth), torch.full_like(scored.truth, -1.0)
    d_hidden, d_rows, d_biases = (torch.zeros_like(part) for part in (hidden, scored.rows, scored.biases))
    softmax_rows = training_kernels.softmax_rows if training_kernels.can_compute(rows) else _softmax_rows
    size = max(_CHUNK_TARGETS, _CHUNK_BYTES // (4 * len(rows)))
    for group in _slices(len(hidden), _CHUNKS_OF_GROUP * size):
        probabilities = rows.new_empty(len(inputs[group]), len(rows))
        for part in _slices(group.stop, size, group.start):
            logits = probabilities[part.start - group.start : part.stop - group.start]
            torch.mm(inputs[part], rows.T, out=logits)
            hits = None if scored.hits is None else scored.hits[part]
            totals, shares = softmax_rows(
                logits, scored.biases, scored.truth[part], hits, d_biases if with_gradients else None
            )
            losses[part] = totals - scored.truth[part]
            d_truth[part] += shares
            if with_gradients:
                d_hidden[part] = torch.mm(logits, rows)
        if with_gradients:
            d_rows += torch.mm(probabilities.T, inputs[group])
    if not with_gradients:
        return losses, None
    d_hidden.addcmul_(d_truth[:, None], weight[targets])
    return losses, (d_hidden, d_rows, d_biases, d_truth)


def _slices(stop: int, size: int, start: int = 0) -> list[slice]:
    return [slice(first, min(first + size, stop)) for first in range(start, stop, size)]


def _softmax_rows(
    logits: Tensor, biases: Tensor, truth: Tensor, hits: Tensor | None, d_biases: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Do what `training_kernels.softmax_rows` does, with torch's operators."""
    exact = logits.to(truth).add(biases)  # only the products have autocast's dtype
    if hits is not None:
        _leave_out(exact, hits)
    probability = torch.softmax(exact, dim=1)
    total, shares = _log_total(exact, probability), torch.zeros_like(truth)
    if hits is not None:
        among_words, total = total, torch.logaddexp(total, truth)
        probability.mul_((among_words - total).exp()[:, None])
        shares = (truth - total).exp()
    if d_biases is not None:
        d_biases += probability.sum(0)
        logits.copy_(probability)
    return total, shares


def _leave_out(logits: Tensor, hits: Tensor) -> None:
    """Set one logit of each row, if there is one, to the smallest value. This does not wait for a GPU to count them.

    logits: `[n, n_words]`; hits: `[n]`, the column of the logit, or -1.
    """
    columns = hits.clamp(min=0)[:, None]
    least = torch.full_like(columns, torch.finfo(logits.dtype).min, dtype=logits.dtype)
    logits.scatter_(1, columns, torch.where(hits[:, None] >= 0, least, logits.gather(1, columns)))
