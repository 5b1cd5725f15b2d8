"""What all commands share: how they fail, and the option that keeps them quiet."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

from typer import Exit, Option

from spacy_elmo.errors import ElmoError

P = ParamSpec("P")

Quiet = Option(False, "--quiet", "-q", help="Print nothing but the result")


def failing_clearly(command: Callable[P, None]) -> Callable[P, None]:
    """Turn an ElmoError into one line on stderr and exit status 1."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except ElmoError as error:
            print(f"✘ {error}", file=sys.stderr)
            raise Exit(1) from None

    return run
