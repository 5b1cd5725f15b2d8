"""Values from files or other packages in, short text on one line out, for error messages."""

from collections.abc import Iterable

from spacy_elmo.errors import one_line

_MOST_VALUE, _MOST_TEXT = 100, 200  # characters shown


def quoted(value: object) -> str:
    """Return a value as Python writes it, cut if it is long."""
    try:
        return _cut(repr(value), _MOST_VALUE)
    except (ValueError, RecursionError):  # a number of more than 4,300 digits; deeply nested lists
        return f"{type(value).__name__} that cannot be shown"


def shown(text: str) -> str:
    """Return a text unchanged, cut if it is long."""
    return _cut(text, _MOST_TEXT)


def listed(names: Iterable[str]) -> str:
    """Return names with commas between them, cut if there are many or if they are long."""
    return shown(", ".join(names))


def reason(error: BaseException) -> str:
    """Return the text of another package's error, which may repeat what it read."""
    return shown(" ".join(str(error).split()))


def named(error: BaseException) -> str:
    """Return another package's error with its type, if the type says more than the text."""
    return f"{type(error).__name__}: {reason(error)}"


def _cut(text: str, most: int) -> str:
    line = one_line(text[: most + 1])
    return line if len(line) <= most else f"{line[:most]}…"
