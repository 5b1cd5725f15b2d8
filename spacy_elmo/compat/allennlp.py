"""Learned mixes of the biLM's layers from character ids: the module that AllenNLP calls `Elmo`."""

import math
import os
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from spacy_elmo.bilm import characters
from spacy_elmo.bilm.batching import Packing, WordTable
from spacy_elmo.bilm.char_cnn import CharacterCNN
from spacy_elmo.bilm.eager import runs_eagerly
from spacy_elmo.bilm.model import BiLM, CarriedState
from spacy_elmo.bilm.scalar_mix import ScalarMix
from spacy_elmo.bilm.threads import keep_to_one_thread_after_fork
from spacy_elmo.errors import ElmoError
from spacy_elmo.formats import load

PathLike = str | os.PathLike[str]
Ids = npt.NDArray[np.integer[Any]]


class ElmoOutput(TypedDict):
    """What `Elmo` returns: a tensor `[batch, timesteps, width]` per mix, and a bool mask `[batch, timesteps]`."""

    elmo_representations: list[Tensor]
    mask: Tensor


def batch_to_ids(batch: Iterable[characters.Tokens], max_characters: int = 50) -> Tensor:
    """Return the character ids of tokenized sentences, `[batch, timesteps, max_characters]` int64.

    Like AllenNLP's function of this name: 0 means no token. There are no sentence borders; `Elmo` adds them.

    max_characters: `max_characters_per_token` in the biLM's options. AllenNLP always uses 50.

    Raises:
        ElmoError: a sentence is a string instead of a list of tokens, or a token is not a string.
    """
    sentences = characters.sentences_of(batch)
    ids = np.zeros((len(sentences), max(map(len, sentences), default=0), max_characters), dtype=np.int64)
    for row, sentence in zip(ids, sentences, strict=True):
        for number, token in enumerate(sentence):
            row[number] = characters.pad([characters.token_ids(token, max_characters)], max_characters)
    return torch.from_numpy(ids)


class Elmo(nn.Module):
    """A biLM and one or more learned mixes of its layers, with the interface of `allennlp.modules.elmo.Elmo`.

    Its results equal AllenNLP's from zero state, including the padding.
    """

    def __init__(
        self,
        options_file: PathLike | None,
        weight_file: PathLike | None,
        num_output_representations: int,
        requires_grad: bool = False,
        do_layer_norm: bool = False,
        dropout: float = 0.5,
        vocab_to_cache: Sequence[str] | None = None,
        keep_sentence_boundaries: bool = False,
        scalar_mix_parameters: Sequence[float] | None = None,
        module: BiLM | None = None,
        *,
        carry_state: bool = False,
    ) -> None:
        """Make the mixes, and load the biLM if it is not passed.

        options_file: options.json; None if it is next to the weights.
        weight_file: anything that `spacy_elmo.formats.load` reads; None if you pass a `module`.
        num_output_representations: number of mixes.
        requires_grad: also train the biLM. It does not apply to a `module`.
        do_layer_norm: normalize each layer by its mean and variance over the batch, including BOS and EOS. The vectors
            of a sentence then depend on its batch.
        dropout: of the mixes, only in training.
        vocab_to_cache: words that `word_inputs` can name by number. Number 0 is padding, whatever the word.
        keep_sentence_boundaries: also return the positions of BOS and EOS.
        scalar_mix_parameters: weights of all mixes before the softmax, one per layer. They and gamma are then not
            trained.
        module: a biLM that you already have. It may be shared, like AllenNLP's `_elmo_lstm`.
        carry_state: row i of a batch continues from row i of earlier batches, as always in AllenNLP. The same sentence
            then gets different vectors each time. `elmo.state = CarriedState()` resets it.

        Raises:
            ElmoError: a setting is out of range, the biLM reads words instead of characters, it cannot be loaded, or
                you pass both files and a `module`, or neither.
        """
        super().__init__()
        if num_output_representations < 1:
            raise ElmoError(f"Elmo: num_output_representations is {num_output_representations}, expected at least 1")
        if not 0 <= dropout <= 1:
            raise ElmoError(f"Elmo: dropout is {dropout}, expected 0 to 1")
        self.bilm = _bilm_of(options_file, weight_file, requires_grad, module)
        if not isinstance(self.bilm.embedder, CharacterCNN):
            what = "has its own character ids" if self.bilm.lexicons else "reads words"
            raise ElmoError(
                f"{weight_file or 'module'}: this biLM {what}, not the ids that batch_to_ids makes; use BiLM.encode"
            )
        self.scalar_mixes = nn.ModuleList(
            ScalarMix(
                self.bilm.options.n_outputs,
                do_layer_norm,
                scalar_mix_parameters,
                trainable=scalar_mix_parameters is None,
            )
            for _ in range(num_output_representations)
        )
        self.dropout = nn.Dropout(dropout)
        self.keep_sentence_boundaries = keep_sentence_boundaries
        self.state = CarriedState() if carry_state else None
        self._max_characters = self.bilm.embedder.options.max_characters_per_token
        self._vocabulary = _vocabulary_ids(vocab_to_cache, self._max_characters) if vocab_to_cache else None
        self._table = WordTable()

    @runs_eagerly
    def forward(self, inputs: Tensor, word_inputs: Tensor | None = None) -> ElmoOutput:
        """Run the biLM once and mix its layers.

        inputs: `[batch, ..., timesteps, max_characters]` character ids from `batch_to_ids`; tokens first, then padding.
        word_inputs: `[batch, ..., timesteps]` numbers of words in `vocab_to_cache`. If all of them are in it, they are
            read instead of `inputs`.

        Returns `elmo_representations`, for each mix `[batch, ..., timesteps, width]`, and `mask`
        `[batch, ..., timesteps]` bool, true for tokens. With `keep_sentence_boundaries` there are two more timesteps.
        Padding is zero. The exception is layer normalization with kept boundaries, as in AllenNLP.

        Raises:
            ElmoError: ids have the wrong type, shape or range; there is padding before a token; there are `word_inputs`
                but no `vocab_to_cache`; or the module is being exported or traced.
        """
        if torch.compiler.is_compiling():
            raise _cannot_be("exported")
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            raise _cannot_be("traced")
        ids = self._read(inputs, word_inputs)
        shape = ids.shape[:-2]
        ids = ids.reshape(math.prod(shape), *ids.shape[-2:])
        is_token = _find_tokens(ids)
        with_borders = functional.pad(is_token, (2, 0), value=True)  # two more positions, wherever the tokens are
        layers = self._run_bilm(_add_borders(ids, is_token)[with_borders.numpy()], (is_token.sum(1) + 2).tolist())
        mask, with_borders = is_token.to(layers.device), with_borders.to(layers.device)
        padded = layers.new_zeros(len(layers), *with_borders.shape, layers.shape[-1])
        padded[:, with_borders] = layers
        mixes = [mix(padded, with_borders) for mix in self.scalar_mixes]
        if self.keep_sentence_boundaries:
            mask = with_borders
        else:
            mixes = [mixed[:, 1:-1] * mask[..., None] for mixed in mixes]
        return {
            "elmo_representations": [self.dropout(mixed).reshape(*shape, *mixed.shape[1:]) for mixed in mixes],
            "mask": mask.reshape(*shape, mask.shape[1]),
        }

    def get_output_dim(self) -> int:
        """Width of a representation."""
        return self.bilm.options.width

    def __prepare_scriptable__(self) -> NoReturn:  # torch.jit.script calls it on every module (torch/jit/_script.py)
        raise _cannot_be("scripted")

    def _read(self, inputs: Tensor, word_inputs: Tensor | None) -> Ids:
        """Return the character ids as an array, including those of words given by number."""
        if word_inputs is not None:
            if self._vocabulary is None:
                raise ElmoError("Elmo: word_inputs need vocab_to_cache, which was not given; leave word_inputs out")
            words = word_inputs.cpu().numpy()
            if ((words >= 0) & (words < len(self._vocabulary))).all():
                named: Ids = self._vocabulary[words]
                return named
        if not isinstance(inputs, Tensor):
            raise ElmoError(
                f"Elmo: inputs are {type(inputs).__name__}, expected a tensor of character ids; make it with "
                f"batch_to_ids(sentences, {self._max_characters}), where each sentence is a list of tokens"
            )
        if inputs.dim() < 3 or inputs.shape[-1] != self._max_characters or inputs.dtype.is_floating_point:
            raise ElmoError(
                f"Elmo: inputs are {inputs.dtype} {list(inputs.shape)}, expected integers [batch, timesteps, "
                f"{self._max_characters}]; make them with batch_to_ids(sentences, {self._max_characters})"
            )
        ids: Ids = inputs.cpu().numpy()
        if ids.size and not 0 <= ids.min() <= ids.max() < characters.N_CHARACTERS:
            raise ElmoError(
                f"Elmo: inputs contain ids from {ids.min()} to {ids.max()}, expected 0 to {characters.N_CHARACTERS - 1}"
            )
        return ids

    def _run_bilm(self, ids: Ids, lengths: list[int]) -> Tensor:
        """Return the layers `[n_layers + 1, n_tokens, width]` of concatenated sequences.

        ids: `[n_tokens, max_characters]`, including BOS and EOS; lengths: of the sequences.
        """
        keep_to_one_thread_after_fork()
        bilm = self.bilm
        if not lengths:
            return next(bilm.parameters()).new_zeros(bilm.options.n_outputs, 0, bilm.options.width)
        is_trained = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in bilm.parameters())
        # Without gradients, frozen weights run packed. Autocast would round them, or fail.
        with torch.set_grad_enabled(is_trained), torch.autocast(bilm.device.type, enabled=False):
            layers: Tensor = bilm(self._embed(ids), Packing.of(lengths), self.state)
        if self.state is not None:
            self.state.layers = [(hidden.detach(), cell.detach()) for hidden, cell in self.state.layers]
        return layers

    def _embed(self, ids: Ids) -> Tensor:
        """Return context-insensitive vectors `[n_tokens, projection_dim]`.

        Each distinct word is computed once, and cached while the weights are frozen. The key of a word is a string in
        which each of its ids is a code point.
        """
        embedder: Any = self.bilm.embedder
        words = np.ascontiguousarray(ids, dtype=np.uint32).view((np.str_, ids.shape[1]))[:, 0].tolist()

        def embed(words: Sequence[str]) -> Tensor:
            strings = np.array(words, dtype=(np.str_, ids.shape[1]))
            vectors: Tensor = embedder.embed_ids(strings.view(np.uint32).reshape(len(words), -1))
            return vectors

        return self._table.embed(words, embed, self.bilm.embedder_version)


def _bilm_of(
    options_file: PathLike | None, weight_file: PathLike | None, requires_grad: bool, module: BiLM | None
) -> BiLM:
    if module is None:
        if weight_file is None:
            raise ElmoError("Elmo: weight_file is None; name the weights, or pass a biLM as module")
        return load(weight_file, options_file).requires_grad_(requires_grad)
    if weight_file is not None or options_file is not None:
        raise ElmoError("Elmo: a module was given, so options_file and weight_file must be None")
    if not isinstance(module, BiLM):
        raise ElmoError(f"Elmo: module is a {type(module).__name__}, expected a BiLM, for example from formats.load")
    return module


def _vocabulary_ids(words: Sequence[str], max_characters: int) -> Ids:
    """Return the character ids of each word, `[n_words, max_characters]`. Word 0 is padding."""
    ids = batch_to_ids([words], max_characters)[0].numpy()
    ids[0] = 0
    return ids


def _cannot_be(made: str) -> ElmoError:
    return ElmoError(
        f"Elmo cannot be {made}, because what it computes depends on the words of each batch; call it first, and "
        "export the layers that take its representations"
    )


def _find_tokens(ids: Ids) -> Tensor:
    """Return where there are tokens, `[batch, timesteps]` bool."""
    is_token = np.asarray((ids != 0).any(axis=2))
    if (is_token[:, 1:] & ~is_token[:, :-1]).any():
        raise ElmoError("Elmo: a sentence has padding (ids that are all 0) before a token; tokens come first")
    return torch.from_numpy(is_token)


def _add_borders(ids: Ids, is_token: Tensor) -> Ids:
    """Put BOS before and EOS after the tokens of each sentence, `[batch, timesteps + 2, max_characters]`."""
    borders = [characters.token_ids(border, ids.shape[2]) for border in (characters.BOS, characters.EOS)]
    begin, end = characters.pad(borders, ids.shape[2])
    bordered = np.zeros((ids.shape[0], ids.shape[1] + 2, ids.shape[2]), dtype=ids.dtype)
    bordered[:, 0], bordered[:, 1:-1] = begin, ids
    bordered[np.arange(len(ids)), is_token.sum(1).numpy() + 1] = end
    return bordered
