"""What commands share: how they fail, and their common options."""

import errno
import functools
import io
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, ParamSpec

from typer import Exit, Option

from spacy_elmo.errors import ElmoError

P = ParamSpec("P")

INTERRUPTED = 128 + signal.SIGINT  # exit status

Device = Option("auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1 or mps")
Force = Option(False, "--force", "-f", help="Write over what is there")
Softmax = Option(
    None, metavar="DIR", help="Folder with vocab.txt and softmax.hdf5, where they do not lie beside the weights"
)
Quiet = Option(False, "--quiet", "-q", help="Print nothing but the result")


def failing_clearly(command: Callable[P, None]) -> Callable[P, None]:
    """Turn an ElmoError, and an OSError that nobody has explained, into one line on stderr and an exit status, and
    Ctrl-C into one line and the status that shells give it."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        _accept_any_text()
        try:
            with _warnings_as_lines(bool(kwargs.get("quiet"))):
                command(*args, **kwargs)
            if sys.stdout is not None:  # closed by who started this
                sys.stdout.flush()
        except ElmoError as error:
            print(f"✘ {error}", file=sys.stderr)
            raise Exit(error.exit_status) from None
        except KeyboardInterrupt:
            print("✘ stopped", file=sys.stderr)
            raise Exit(INTERRUPTED) from None
        except OSError as error:
            if error.errno == errno.EPIPE:  # of `| head`, say: typer ends quietly
                raise
            _drop_output()
            print(f"✘ {error}", file=sys.stderr)
            raise Exit(1) from None

    return run


@contextmanager
def telling_how_to_go_on(message: Callable[[], str]) -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM end the command with a line on stderr and the exit status that shells give them."""
    status = INTERRUPTED

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal status
        status = 128 + number
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        print(f"✘ {message()}", file=sys.stderr)
        raise Exit(status) from None
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def print_list(name: str, items: Iterable[object]) -> None:
    """Print a JSON object with one list, which is not empty, piece by piece: the whole would fill the memory."""
    for number, item in enumerate(items):
        print(", " if number else f'{{"{name}": [', json.dumps(item), sep="", end="")
    print("]}")


@contextmanager
def _warnings_as_lines(quiet: bool) -> Iterator[None]:
    """Our own warnings, and others that are for the user, are a line each on stderr; none where it is to be quiet."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def line(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if category is not UserWarning:
                show(message, category, *where, **more)
            elif not quiet:
                print(f"⚠ {message}", file=sys.stderr)

        warnings.showwarning = line
        yield


def _accept_any_text() -> None:
    """Have standard output write an escape, as stderr does, where its encoding lacks a character, rather than fail: on
    Windows, that of a file or a pipe lacks our signs, and most languages."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Standard output may be what failed: what is left of it must not fail again when the interpreter ends."""
    with suppress(OSError, ValueError, AttributeError):  # it is no real file, or none at all
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
