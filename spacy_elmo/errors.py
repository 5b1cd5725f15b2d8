"""The exceptions spacy-elmo raises: one family, so that one `except ElmoError` catches them all."""


class ElmoError(ValueError):
    """Something spacy-elmo was given is wrong; the message names it and says what to do."""


class OptionsError(ElmoError):
    """An options.json (or a dict in its form) is missing, unreadable or inconsistent."""


class WeightsError(ElmoError):
    """A weights file is missing, damaged, hostile, or does not fit its options."""
