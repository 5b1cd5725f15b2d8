"""Computes context-insensitive vectors of words for models of ELMoForManyLangs: word vectors and a character CNN over
code points side by side, then a projection."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spacy_elmo.bilm import lexicons
from spacy_elmo.bilm.char_cnn import CharacterCNN, Projection
from spacy_elmo.bilm.lexicons import CharacterLexicon, Lexicons, WordLexicon
from spacy_elmo.bilm.options import TokenEmbedderOptions
from spacy_elmo.bilm.parameters import empty_parameter
from spacy_elmo.bilm.transfer import to_device

# Warn if at least this many are unknown, and this share of all that were read.
_MANY_UNKNOWN, _LARGE_SHARE = 20, {"characters": 0.2, "words": 0.5}


class TokenEmbedder(nn.Module):
    """Matches ELMoForManyLangs' `ConvTokenEmbedder`, and its `LstmTokenEmbedder` without characters.

    It always has a projection, even if widths are equal. The rows of `<pad>` are as in the file.

    Raises:
        ElmoError: a lexicon that the options need is missing, or lacks an entry that every model needs.
    """

    borders = (lexicons.BOS, lexicons.EOS)

    def __init__(self, options: TokenEmbedderOptions, lexicons: Lexicons, width: int) -> None:
        super().__init__()
        self.options = options
        self.lexicons = lexicons = lexicons.for_options(options)
        self.words = self.char_cnn = None
        if lexicons.words is not None:
            self.words = WordVectors(lexicons.words, options.word_dim)
        if lexicons.characters is not None and options.char_cnn is not None:
            alphabet = CharacterLexicon(lexicons.characters)
            self.char_cnn = CharacterCNN(options.char_cnn, options.char_cnn.n_filters, alphabet)
        self.projection = Projection(options.n_features, width)
        self._unknown = UnknownShare()

    def forward(self, words: Sequence[str]) -> Tensor:
        """Return the vectors of `words` as `[len(words), width]`. A vector does not depend on the other words."""
        words = [self._cut(word) for word in words]
        self._notice_unknown(words)
        parts = [part(words) for part in (self.words, self.char_cnn) if part is not None]
        vectors: Tensor = self.projection(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0])
        return vectors

    def _cut(self, word: str) -> str:
        most = self.options.max_characters
        return word if most is None else word[: most - 2]

    def _notice_unknown(self, words: Sequence[str]) -> None:
        if self._unknown.has_warned:
            return
        text = [word for word in words if word not in self.borders]
        if self.char_cnn is not None:
            alphabet = self.char_cnn.alphabet
            assert isinstance(alphabet, CharacterLexicon)
            read = [character in alphabet for word in text for character in word]
            self._unknown.add(read, "characters", self.lexicons)
        elif self.words is not None:
            self._unknown.add([self.words.lexicon.knows(word) for word in text], "words", self.lexicons)

    def initialize(self, generator: torch.Generator) -> None:
        """Draw random weights."""
        for part in (self.words, self.char_cnn, self.projection):
            if part is not None:
                part.initialize(generator)


class WordVectors(nn.Module):
    """A table of word vectors, one per row. Words outside the lexicon have the row of `<oov>`."""

    def __init__(self, words: Sequence[str], dim: int) -> None:
        super().__init__()
        self.lexicon = WordLexicon(words)
        self.weight = empty_parameter(len(self.lexicon), dim)

    def forward(self, words: Sequence[str]) -> Tensor:
        """Return the vectors of `words` as `[len(words), dim]`."""
        rows = torch.tensor([self.lexicon.id(word) for word in words], dtype=torch.long)
        return self.weight[to_device(rows, self.weight.device)]

    def initialize(self, generator: torch.Generator) -> None:
        """Draw random vectors."""
        nn.init.normal_(self.weight, std=self.weight.shape[1] ** -0.5, generator=generator)


class UnknownShare:
    """Counts how much of what was read is unknown, and warns once if that is a lot.

    Cached words are not read again, so each word counts about once.
    """

    def __init__(self) -> None:
        self._n_read = self._n_unknown = 0
        self.has_warned = False

    def add(self, read: Sequence[bool], what: str, lexicons: Lexicons) -> None:
        """Count characters or words, each known or not."""
        self._n_read += len(read)
        self._n_unknown += len(read) - sum(read)
        if self._n_unknown >= _MANY_UNKNOWN and self._n_unknown > _LARGE_SHARE[what] * self._n_read:
            self.has_warned = True
            advice = "; ".join(lexicons.hints()) or "does the model fit the language and the form of the text?"
            warnings.warn(
                f"{self._n_unknown / self._n_read:.0%} of the {what} read so far are unknown to the model: {advice}",
                stacklevel=2,
            )
