"""JSON in, its value out, if both JSON and the msgpack of saved spaCy pipelines can write that again."""

import json
from collections.abc import Iterator
from itertools import chain
from typing import Any

_DEEPEST = 100  # Python's json writes some 300 levels, msgpack reads 511
_LEAST_INTEGER, _MOST_INTEGER = -(2**63), 2**64 - 1  # of msgpack


def loads(content: bytes) -> Any:
    """Parse JSON, and `check` it.

    Raises:
        ValueError: it is not JSON, or has values that cannot be written again.
    """
    value = parse(content)
    check(value)
    return value


def parse(content: bytes) -> Any:
    """Parse JSON without `check`.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def check(value: Any) -> None:
    """Raise an error for values that JSON and msgpack cannot both write.

    Raises:
        ValueError: lists and objects are nested too deeply, a number is too large, a text or key has a lone surrogate,
            or there is a type that JSON does not have.
    """
    open_nodes: list[Iterator[Any]] = [iter([value])]
    while open_nodes:
        for node in open_nodes[-1]:
            if isinstance(node, dict | list | tuple):
                if len(open_nodes) > _DEEPEST:
                    raise ValueError(f"nested more than {_DEEPEST} deep")
                open_nodes.append(_children(node))
                break
            _check_leaf(node)
        else:
            open_nodes.pop()


def _children(node: dict[Any, Any] | list[Any] | tuple[Any, ...]) -> Iterator[Any]:
    if not isinstance(node, dict):
        return iter(node)
    if not all(isinstance(key, str) for key in node):
        raise ValueError("a key is not text")
    return chain(node, node.values())


def _check_leaf(leaf: Any) -> None:
    if isinstance(leaf, str):
        try:
            leaf.encode()
        except UnicodeEncodeError:
            raise ValueError("a text has half a character (a lone surrogate)") from None
    elif isinstance(leaf, int):
        if not _LEAST_INTEGER <= leaf <= _MOST_INTEGER:
            raise ValueError("a whole number needs more than 64 bits")
    elif leaf is not None and not isinstance(leaf, float):
        raise ValueError(f"has a value of type {type(leaf).__name__}, which JSON does not have")
