"""Keeps functions out of torch.compile: it ends its graph before the call, and begins the next one after it."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def runs_eagerly(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that a graph cannot contain: it uses strings, NumPy arrays, or sizes that vary by batch."""
    disabled: Callable[P, T] | None = None

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        nonlocal disabled
        if not torch.compiler.is_dynamo_compiling():
            return function(*args, **kwargs)
        if disabled is None:  # only now: this imports torch._dynamo, which takes a second, and few callers need it
            disabled = torch.compiler.disable(function)
        return disabled(*args, **kwargs)

    return call
