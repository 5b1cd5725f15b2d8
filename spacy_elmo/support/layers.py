"""The user's choice of layers in, the parsed choice out. A word means the same wherever layers are chosen."""

import math
from collections.abc import Iterable
from numbers import Integral, Real

from spacy_elmo.errors import ElmoError

Choice = str | int
Mix = Choice | list[float]

_SYNONYMS = {"average": "mean"}
_MEANING = {
    "mean": "the mean of all layers",
    "concat": "all layers side by side",
    "all": "each layer by itself",
    "learned": "a mix that the task learns",
}
# Words that are valid elsewhere, and what the user may want instead.
_INSTEAD = {"all": ("concat", "learned", "mean"), "concat": ("all", "mean"), "learned": ("mean",)}


def parse_layers(
    asked: object, words: Iterable[str], n_outputs: int | None = None, *, setting: str = "layers", also: str = ""
) -> Choice:
    """Return the layers that are meant: one of `words`, or the number of a layer.

    asked: one of `words` ("average" is another word for "mean"), or the number of a layer, also as text: 0 is the token
        embedding, and a negative number counts from the top.
    n_outputs: number of layers, counting the token embedding; None: not known yet.
    setting: its name in errors; also: another valid choice, for errors.

    Raises:
        ElmoError: it is none of these, or there is no such layer. The error says what the user may want instead.
    """
    words = tuple(words)
    if isinstance(asked, str) and (word := _SYNONYMS.get(asked, asked)) in words:
        return word
    number = _number(asked)
    if number is not None and (n_outputs is None or -n_outputs <= number < n_outputs):
        return number
    which = "the number of a layer" if n_outputs is None else f"a layer from 0 to {n_outputs - 1}"
    right = [*(f'"{word}"' for word in words), which, *([also] if also else [])]
    expected = f"{', '.join(right[:-1])} or {right[-1]}"
    raise ElmoError(f"{setting} is {asked!r}, expected {expected}{_hint(asked, words)}")


def parse_mix(asked: object, words: Iterable[str], n_outputs: int | None = None, *, setting: str = "layers") -> Mix:
    """Return what `parse_layers` returns. For a list, tuple or array of finite numbers, return one weight per layer.

    Raises:
        ElmoError: as `parse_layers`, or there are more or fewer weights than layers.
    """
    weights = _weights(asked)
    if weights is None:
        return parse_layers(asked, words, n_outputs, setting=setting, also="a list of weights")
    if n_outputs not in (None, len(weights)):
        raise ElmoError(
            f"{setting} lists {len(weights)} weights, but the biLM has {n_outputs} layers, counting the token embedding"
        )
    return weights


def _number(asked: object) -> int | None:
    if isinstance(asked, str):
        return int(asked) if asked.isdecimal() and len(asked) < 10 else None
    if isinstance(asked, bool) or not isinstance(asked, Integral):
        return None
    return int(asked)


def _weights(asked: object) -> list[float] | None:
    plain = asked.tolist() if hasattr(asked, "tolist") else asked  # an array of numpy or torch
    if not isinstance(plain, list | tuple) or not plain:
        return None
    return list(plain) if all(isinstance(weight, Real) and math.isfinite(weight) for weight in plain) else None


def _hint(asked: object, words: tuple[str, ...]) -> str:
    if not isinstance(asked, str):
        return ""
    wanted = [f'"{word}" ({_MEANING[word]})' for word in _INSTEAD.get(asked, ()) if word in words]
    return f"; perhaps you want {' or '.join(wanted)}" if wanted else ""
