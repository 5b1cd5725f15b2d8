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
    disabled: Callable[P, T] | None = None

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        nonlocal disabled
        if not torch.compiler.is_dynamo_compiling():
            return function(*args, **kwargs)
        if disabled is None:  # only now: it imports torch._dynamo, which takes a second and most callers never need
            disabled = torch.compiler.disable(function)
        return disabled(*args, **kwargs)

    return call
