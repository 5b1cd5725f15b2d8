"""The exceptions spacy-elmo raises: one family, so that one `except ElmoError` catches them all."""


class ElmoError(ValueError):
    """Something spacy-elmo was given is wrong; the message names it and says what to do.

    exit_status: of a command that this ends.
    """

    exit_status = 1


class OptionsError(ElmoError):
    """An options.json (or a dict in its form) is missing, unreadable or inconsistent."""


class WeightsError(ElmoError):
    """A weights file is missing, damaged, hostile, or does not fit its options."""


class CorpusError(ElmoError):
    """A text or vocabulary to train or evaluate on is missing, unreadable or unfit."""


class PretrainingError(ElmoError):
    """Pretraining cannot start or go on: a wrong setting, an unfit checkpoint, a loss that is no number."""
