"""Maps tokens to ids of words and characters, for models of ELMoForManyLangs (bilm-tf reads bytes instead)."""

from collections.abc import Sequence
from dataclasses import dataclass

from spacy_elmo.bilm.options import TokenEmbedderOptions
from spacy_elmo.errors import ElmoError

BOS, EOS = "<bos>", "<eos>"
UNKNOWN, PADDING = "<oov>", "<pad>"
BEGIN_WORD, END_WORD = "<bow>", "<eow>"

_ALPHABET = 20  # letters, more than the markers have


@dataclass(frozen=True)
class Lexicons:
    """The words and characters that a model knows, in the order of their ids; None if it does not read them."""

    words: Sequence[str] | None
    characters: Sequence[str] | None

    def for_options(self, options: TokenEmbedderOptions) -> "Lexicons":
        """Return the lexicons that a model with these options reads.

        Raises:
            ElmoError: the model reads words or characters, but their lexicon is missing.
        """
        reads_characters = options.char_cnn is not None
        for lexicon, is_read, what in (
            (self.words, options.word_dim, "words"),
            (self.characters, reads_characters, "characters"),
        ):
            if is_read and lexicon is None:
                raise ElmoError(f"the options need a lexicon of {what}, but it is missing")
        return Lexicons(self.words if options.word_dim else None, self.characters if reads_characters else None)

    def check(self) -> None:
        """Raise an ElmoError if an entry that every model needs is missing, or an entry is repeated."""
        if self.words is not None:
            WordLexicon(self.words)
        if self.characters is not None:
            CharacterLexicon(self.characters)

    def hints(self) -> list[str]:
        """Return sentences for users about text that the model does not know at all."""
        known = {character for entry in self.characters or self.words or () for character in entry}
        hints = []
        is_chinese = sum(map(_is_ideograph, known)) > len(known) / 2
        if is_chinese and not any("\uff00" <= character <= "\uffef" for character in known):
            hints.append(
                "it does not know full-width forms (U+FF00 to U+FFEF); use half-width letters, digits and marks"
            )
        if sum(map(str.islower, known)) >= _ALPHABET and not any(map(str.isupper, known)):
            hints.append("it does not know upper-case letters; use text in lower case")
        return hints


def _is_ideograph(character: str) -> bool:
    return "\u4e00" <= character <= "\u9fff"


class WordLexicon:
    """Ids of words, by their exact string.

    Raises:
        ElmoError: an entry that every model needs is missing, or an entry is repeated.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._ids = _numbered(words, (UNKNOWN, PADDING), "words")
        self.unknown = self._ids[UNKNOWN]

    def __len__(self) -> int:
        return len(self._ids)

    def knows(self, word: str) -> bool:
        """Whether the word has its own row."""
        return word in self._ids

    def id(self, word: str) -> int:
        """Return the id of the word, or that of `<oov>`."""
        return self._ids.get(word, self.unknown)


class CharacterLexicon:
    """An `Alphabet` of Unicode code points.

    Raises:
        ElmoError: an entry that every model needs is missing, or an entry is repeated.
    """

    def __init__(self, characters: Sequence[str]) -> None:
        markers = (BOS, EOS, UNKNOWN, PADDING, BEGIN_WORD, END_WORD)
        self._ids = _numbered(characters, markers, "characters")
        self.unknown, self.padding = self._ids[UNKNOWN], self._ids[PADDING]
        # In training and inference, the original begins a token with the marker of its end.
        self._begin, self._end = self._ids[END_WORD], self._ids[BEGIN_WORD]

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, character: str) -> bool:
        return character in self._ids

    def token_ids(self, token: str, max_characters: int) -> list[int]:
        """Return the ids of one token, without padding: a marker, at most `max_characters - 2` characters, a marker.

        `<bos>` and `<eos>` are the sentence borders, also if they occur in the text, as in the original.
        """
        token = token[: max_characters - 2]
        if token in (BOS, EOS):
            return [self._begin, self._ids[token], self._end]
        return [self._begin, *(self._ids.get(character, self.unknown) for character in token), self._end]


def _numbered(entries: Sequence[str], needed: Sequence[str], what: str) -> dict[str, int]:
    ids = {entry: number for number, entry in enumerate(entries)}
    if len(ids) < len(entries):
        twice = next(entry for number, entry in enumerate(entries) if ids[entry] != number)
        raise ElmoError(f"lexicon of {what}: {twice!r} is repeated")
    if missing := [entry for entry in needed if entry not in ids]:
        raise ElmoError(f"lexicon of {what}: {', '.join(missing)} missing, which every model of ELMoForManyLangs has")
    return ids
