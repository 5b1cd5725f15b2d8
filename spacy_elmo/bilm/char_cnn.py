"""Computes context-insensitive vectors of words: with a character CNN, highways and a projection, or from a table of
word vectors if the biLM reads whole words."""

from collections.abc import Container, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from spacy_elmo.bilm import characters, training_kernels
from spacy_elmo.bilm.characters import Alphabet
from spacy_elmo.bilm.options import CharCNNOptions
from spacy_elmo.bilm.packed import PackedModule
from spacy_elmo.bilm.parameters import empty_parameter
from spacy_elmo.bilm.products import Product, product_dtype
from spacy_elmo.bilm.transfer import to_device
from spacy_elmo.errors import ElmoError

# Character positions of the words that share one convolution. On a CPU a product should stay in cache. On a GPU the
# number is large, because each chunk launches its kernels again.
_CHUNK_POSITIONS = 2048
_CHUNK_POSITIONS_GPU = 2**18

# Shorter words are padded: products of fewer than four rows (the windows of a word) may differ in the last bit.
_SHORTEST = 3

_ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh}


class CharacterCNN(nn.Module):
    """Character CNN over words: convolutions, maximum over positions, highways, projection (Kim et al. 2016).

    It matches bilm-tf's `_build_word_char_embeddings`. As there, it has no projection if the number of filters equals
    the output width.

    alphabet: what it reads of a token; bytes by default.
    """

    borders = (characters.BOS, characters.EOS)
    alphabet: Alphabet = characters.Bytes()  # for modules that an earlier version pickled

    def __init__(self, options: CharCNNOptions, width: int, alphabet: Alphabet | None = None) -> None:
        super().__init__()
        self.options = options
        self.alphabet = alphabet or characters.Bytes()
        self.embedding = empty_parameter(len(self.alphabet), options.embedding_dim)
        self.filters = nn.ParameterList(
            empty_parameter(size * options.embedding_dim, number) for size, number in options.filters
        )
        self.biases = nn.ParameterList(empty_parameter(number) for _, number in options.filters)
        self.highways = nn.ModuleList(Highway(options.n_filters) for _ in range(options.n_highway))
        self.projection = Projection(options.n_filters, width) if options.n_filters != width else None

    def forward(self, words: Sequence[str]) -> Tensor:
        """Return the vectors of `words` as `[len(words), width]`. A vector does not depend on the other words."""
        full = self.options.max_characters_per_token
        ids = [self.alphabet.token_ids(word, full) for word in words]
        width = min(full, max([_SHORTEST, *map(len, ids)]) + self._widest)
        return self.embed_ids(characters.pad(ids, width, self.alphabet.padding))

    def embed_ids(self, ids: npt.NDArray[np.integer[Any]]) -> Tensor:
        """Return vectors `[n_words, width]` of words. ids: their character ids, padded to `max_characters`, or to the
        sum of the longest word and the widest filter."""
        if not len(ids):
            return self.embedding.new_zeros(0, self.width)
        lengths = (ids != self.alphabet.padding).sum(axis=1)
        order = np.argsort(-lengths, kind="stable")
        sorted_ids, lengths = ids[order].astype(np.int64), lengths[order]
        device = self.embedding.device
        positions = _CHUNK_POSITIONS if device.type == "cpu" else _CHUNK_POSITIONS_GPU
        x = torch.cat(
            [self._convolve(sorted_ids[chunk], int(lengths[chunk][0])) for chunk in _chunks(lengths, positions)]
        )
        for highway in self.highways:
            x = highway(x)
        if self.projection is not None:
            x = self.projection(x)
        return x[to_device(torch.from_numpy(order).argsort(), device)]

    @property
    def width(self) -> int:
        """Width of the vectors."""
        return self.projection.bias.shape[0] if self.projection is not None else self.options.n_filters

    @property
    def _widest(self) -> int:
        return max(size for size, _ in self.options.filters)

    def _convolve(self, ids: npt.NDArray[np.int64], longest: int) -> Tensor:
        """Return `[len(ids), n_filters]` for padded character ids of words of at most `longest` characters.

        Only the windows that overlap the longest word are computed, and one window of padding only, if the full width
        has one. The others equal that window, so the maximum is the same.
        """
        options, longest = self.options, max(longest, _SHORTEST)
        full = min(options.max_characters_per_token, ids.shape[1])
        needed = torch.from_numpy(ids[:, : min(full, longest + self._widest)])
        x = self.embedding[to_device(needed, self.embedding.device)]  # [words, positions, embedding_dim]
        if torch.is_grad_enabled() and training_kernels.can_compute(x):
            largest = _LargestProducts.apply(x, longest + 1, *self.filters)  # type: ignore[no-untyped-call]
            return _ACTIVATIONS[options.activation](largest + torch.cat(list(self.biases)))
        pooled = []
        for (size, number), weight, bias in zip(options.filters, self.filters, self.biases, strict=True):
            starts = min(longest + 1, full - size + 1)
            products = _windows(x, size, starts) @ weight
            pooled.append(products.view(len(ids), starts, number).amax(1) + bias)
        return _ACTIVATIONS[options.activation](torch.cat(pooled, dim=1))

    def initialize(self, generator: torch.Generator) -> None:
        """Draw random weights as in bilm-tf's training."""
        options = self.options
        nn.init.uniform_(self.embedding, -1.0, 1.0, generator=generator)
        for weight, bias in zip(self.filters, self.biases, strict=True):
            if options.activation == "relu":
                nn.init.uniform_(weight, -0.05, 0.05, generator=generator)
            else:
                nn.init.normal_(weight, std=weight.shape[0] ** -0.5, generator=generator)
            nn.init.zeros_(bias)
        for module in (*self.highways, *filter(None, [self.projection])):
            module.initialize(generator)


class _LargestProducts(torch.autograd.Function):
    """The largest product of each filter over the windows of a word, in training on a CPU.

    The gradient only comes from the window that has it, so this is a small part of the work that autograd would do.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, n_windows: int, *filters: Tensor) -> Tensor:
        """Return `[n_words, n]` float32, for all filters.

        x: `[n_words, n_positions, dim]`; n_windows: windows of a filter, if there are as many; filters: as in
        `CharacterCNN`.
        """
        n_words, n_positions, dim = x.shape
        pooled = x.new_empty(n_words, sum(weight.shape[1] for weight in filters))
        windows, first = torch.empty_like(pooled, dtype=torch.int32), 0
        read = x.to(product_dtype(x))
        for weight in filters:
            size, n_filters = weight.shape[0] // dim, weight.shape[1]
            count = min(n_windows, n_positions - size + 1)
            products = torch.mm(_windows(read, size, count), weight.to(read))
            training_kernels.pool(products.view(n_words, count, n_filters), pooled, windows, first)
            first += n_filters
        ctx.save_for_backward(x, windows, *filters)
        return pooled

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of `x` and of the filters."""
        x, windows, *filters = ctx.saved_tensors
        d_pooled, d_x, d_filters, first = grads[0].contiguous(), torch.zeros_like(x), [], 0
        for weight in filters:
            rows = weight.t().contiguous()
            d_filters.append(training_kernels.unpool(d_pooled, windows, first, x, rows, d_x).t())
            first += len(rows)
        return d_x, None, *d_filters


class Highway(PackedModule[tuple[Product, Product]]):
    """`carry * relu(transform(x)) + (1 - carry) * x` (Srivastava et al. 2015, signs as in bilm-tf)."""

    matrices = ("carry_weight", "transform_weight")
    compiles = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.carry_weight = empty_parameter(width, width)
        self.carry_bias = empty_parameter(width)
        self.transform_weight = empty_parameter(width, width)
        self.transform_bias = empty_parameter(width)

    def forward(self, x: Tensor) -> Tensor:
        """x: `[rows, width]`. Returns the same shape."""
        if packed := self.packed(x):
            packed_carry, packed_transform = packed
            return torch.lerp(x, packed_transform(x), packed_carry(x))
        carry = torch.sigmoid(_multiply(self.carry_weight, x, self.carry_bias))
        transform = torch.relu(_multiply(self.transform_weight, x, self.transform_bias))
        return torch.lerp(x, transform.to(x), carry.to(x))  # under autocast the products have another dtype

    def pack(self, make: type[Product]) -> tuple[Product, Product]:
        """Return the products of the carry and of the transform."""
        return (
            make(self.carry_weight, self.carry_bias, "sigmoid"),
            make(self.transform_weight, self.transform_bias, "relu"),
        )

    def initialize(self, generator: torch.Generator) -> None:
        """Draw random weights as in bilm-tf's training: at first, most of the input is kept."""
        std = self.carry_bias.shape[0] ** -0.5
        nn.init.normal_(self.carry_weight, std=std, generator=generator)
        nn.init.normal_(self.transform_weight, std=std, generator=generator)
        nn.init.constant_(self.carry_bias, -2.0)
        nn.init.zeros_(self.transform_bias)


class Projection(PackedModule[Product]):
    """Linear map from the filters to the width of the LSTM."""

    matrices = ("weight",)
    compiles = True

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = empty_parameter(n_in, n_out)
        self.bias = empty_parameter(n_out)

    def forward(self, x: Tensor) -> Tensor:
        """x: `[rows, n_in]`. Returns `[rows, n_out]`."""
        if packed := self.packed(x):
            return packed(x)
        return _multiply(self.weight, x, self.bias)

    def pack(self, make: type[Product]) -> Product:
        """Return the product."""
        return make(self.weight, self.bias)

    def initialize(self, generator: torch.Generator) -> None:
        """Draw random weights as in bilm-tf's training."""
        nn.init.normal_(self.weight, std=self.weight.shape[0] ** -0.5, generator=generator)
        nn.init.zeros_(self.bias)


class WordEmbedding(nn.Module):
    """A table of word vectors, for a biLM without character CNN (bilm-tf's token input).

    Words outside the vocabulary get the vector of `<UNK>`. As in bilm-tf, row 0 is zero and means "no token", so word
    `i` of the vocabulary has row `i + 1`.
    """

    borders = (characters.BOS, characters.EOS)
    UNKNOWN = "<UNK>"

    def __init__(self, vocabulary: Sequence[str], width: int) -> None:
        super().__init__()
        self.vocabulary = list(vocabulary)
        self.rows = {word: row for row, word in enumerate(self.vocabulary, start=1)}
        if missing := self.find_missing(self.rows):
            raise ElmoError(f"vocabulary of a word-input biLM: {', '.join(missing)} missing; use bilm-tf's vocab.txt")
        self.weight = empty_parameter(len(self.vocabulary) + 1, width)

    @classmethod
    def find_missing(cls, vocabulary: Container[str]) -> list[str]:
        """Return which needed words a vocabulary lacks: the borders and `<UNK>`."""
        return [word for word in (*cls.borders, cls.UNKNOWN) if word not in vocabulary]

    def forward(self, words: Sequence[str]) -> Tensor:
        """Return the vectors of `words` as `[len(words), width]`."""
        unknown = self.rows[self.UNKNOWN]
        rows = torch.tensor([self.rows.get(word, unknown) for word in words], dtype=torch.long)
        return self.weight[to_device(rows, self.weight.device)]

    def initialize(self, generator: torch.Generator) -> None:
        """Draw random vectors, except for row 0."""
        nn.init.normal_(self.weight, std=self.weight.shape[1] ** -0.5, generator=generator)
        nn.init.zeros_(self.weight[0])


def _multiply(weight: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    """Return `x @ weight + bias` in the dtype of `x`, whatever the dtype of the weight."""
    if weight.dtype != x.dtype:
        return (x.to(weight) @ weight).to(x) + bias
    return torch.addmm(bias, x, weight)


def _windows(x: Tensor, size: int, number: int) -> Tensor:
    """Return the first windows of each word, `[n_words * number, size * dim]`. x: `[n_words, n_positions, dim]`."""
    return x[:, : number + size - 1].unfold(1, size, 1).transpose(2, 3).reshape(-1, size * x.shape[2])


def _chunks(lengths: npt.NDArray[np.integer[Any]], positions: int) -> list[slice]:
    """Cut words, longest first, into chunks of about `positions` characters."""
    chunks, start = [], 0
    while start < len(lengths):
        size = max(1, positions // int(lengths[start]))
        chunks.append(slice(start, start + size))
        start += size
    return chunks
