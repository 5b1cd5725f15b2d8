"""What commands share: how they fail, and their common options."""

import errno
import functools
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import ParamSpec

from typer import Exit, Option

from spacy_elmo.errors import ElmoError

P = ParamSpec("P")

Device = Option("auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1 or mps")
Quiet = Option(False, "--quiet", "-q", help="Print nothing but the result")


def failing_clearly(command: Callable[P, None]) -> Callable[P, None]:
    """Turn an ElmoError, and an OSError that nobody has explained, into one line on stderr and exit status 1."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
            if sys.stdout is not None:  # closed by who started this
                sys.stdout.flush()
        except ElmoError as error:
            print(f"✘ {error}", file=sys.stderr)
            raise Exit(1) from None
        except OSError as error:
            if error.errno == errno.EPIPE:  # of `| head`, say: typer ends quietly
                raise
            _drop_output()
            print(f"✘ {error}", file=sys.stderr)
            raise Exit(1) from None

    return run


def _drop_output() -> None:
    """Standard output may be what failed: what is left of it must not fail again when the interpreter ends."""
    with suppress(OSError, ValueError, AttributeError):  # it is no real file, or none at all
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
