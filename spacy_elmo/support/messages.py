"""What a file holds in, short text on one line out: how an error shows it, whoever made the file."""

from collections.abc import Iterable

_MOST_VALUE, _MOST_LIST = 100, 200  # characters shown


def quoted(value: object) -> str:
    """A value as Python writes it, cut where it is long."""
    try:
        return _cut(repr(value), _MOST_VALUE)
    except (ValueError, RecursionError):  # a number of more than 4,300 digits; lists within lists
        return f"{type(value).__name__} that cannot be shown"


def listed(names: Iterable[str]) -> str:
    """Names with commas between them, cut where they are many or long."""
    return _cut(", ".join(names), _MOST_LIST)


def reason(error: BaseException) -> str:
    """What an error of another package says, which may repeat what it read."""
    return _cut(" ".join(str(error).split()), _MOST_LIST)


def _cut(text: str, most: int) -> str:
    shown = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text[: most + 1])
    return shown if len(shown) <= most else f"{shown[:most]}…"
