"""The exceptions that spacy-elmo raises. They are one family: one `except ElmoError` catches them all."""


class ElmoError(ValueError):
    """An argument, setting or file is wrong. The message names it and says what to do, in one line.

    exit_status: the exit status of a command that ends with this error.
    """

    exit_status = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(str(message)))  # it may name a file with a line break in its name


def one_line(text: str) -> str:
    """Return a text with escapes instead of line breaks and of other characters that cannot be printed."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


class OptionsError(ElmoError):
    """An options.json (or a dict in its form) is missing, unreadable or inconsistent."""


class WeightsError(ElmoError):
    """A weights file is missing, damaged, hostile, or does not fit its options."""


class CorpusError(ElmoError):
    """A text or vocabulary for training or evaluation is missing, unreadable or unsuitable."""


class PretrainingError(ElmoError):
    """Pretraining cannot start or continue: a wrong setting, an unsuitable checkpoint, a loss that is not a number."""
