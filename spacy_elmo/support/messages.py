"""What a file holds in, short text on one line out: how an error shows it, whoever made the file."""

from collections.abc import Iterable

_MOST_VALUE, _MOST_TEXT = 100, 200  # characters shown


def quoted(value: object) -> str:
    """A value as Python writes it, cut where it is long."""
    try:
        return _cut(repr(value), _MOST_VALUE)
    except (ValueError, RecursionError):  # a number of more than 4,300 digits; lists within lists
        return f"{type(value).__name__} that cannot be shown"


def shown(text: str) -> str:
    """A text as it is, cut where it is long."""
    return _cut(text, _MOST_TEXT)


def listed(names: Iterable[str]) -> str:
    """Names with commas between them, cut where they are many or long."""
    return shown(", ".join(names))


def reason(error: BaseException) -> str:
    """What an error of another package says, which may repeat what it read."""
    return shown(" ".join(str(error).split()))


def named(error: BaseException) -> str:
    """An error of another package with its kind, where that says more than its text."""
    return f"{type(error).__name__}: {reason(error)}"


def _cut(text: str, most: int) -> str:
    line = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text[: most + 1])
    return line if len(line) <= most else f"{line[:most]}…"
