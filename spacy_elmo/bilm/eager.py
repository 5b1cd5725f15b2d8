"""A function in, the same one out, at which torch.compile ends its graph: it runs as it is, and the next graph begins
behind it."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def runs_eagerly(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate what works on strings, NumPy arrays and sizes that differ from batch to batch, and no graph can hold."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if torch.compiler.is_dynamo_compiling():
            # Not once for all, above: that imports torch._dynamo, which takes a second and most callers never need.
            result: T = torch.compiler.disable(function)(*args, **kwargs)
            return result
        return function(*args, **kwargs)

    return call
