"""What commands share: error handling and common options."""

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

Device = Option("auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1 or mps")
Force = Option(False, "--force", "-f", help="Overwrite existing files")
Softmax = Option(None, metavar="DIR", help="Folder with vocab.txt and softmax.hdf5, if not next to the weights")
Quiet = Option(False, "--quiet", "-q", help="Only print the result")


def failing_clearly(command: Callable[P, None]) -> Callable[P, None]:
    """Turn errors of a command into one line on stderr and an exit status.

    This covers ElmoError, any remaining OSError, and Ctrl-C, which gets the exit status that shells use.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        _accept_any_text()
        try:
            with _warnings_as_lines(bool(kwargs.get("quiet"))):
                command(*args, **kwargs)
            if sys.stdout is not None:  # None if the parent process closed it
                sys.stdout.flush()
        except ElmoError as error:
            print(f"✘ {error}", file=sys.stderr)
            raise Exit(error.exit_status) from None
        except KeyboardInterrupt:
            print("✘ stopped", file=sys.stderr)
            raise Exit(INTERRUPTED) from None
        except OSError as error:
            if error.errno == errno.EPIPE:  # such as `| head`: typer exits quietly
                raise
            _drop_output()
            print(f"✘ {error}", file=sys.stderr)
            raise Exit(1) from None

    return run


@contextmanager
def telling_how_to_go_on(message: Callable[[], str]) -> Iterator[None]:
    """Context in which Ctrl-C and SIGTERM print a message on stderr and exit with the status that shells use."""
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
    """Print a JSON object with one non-empty list, item by item, so that the list need not fit into memory."""
    for number, item in enumerate(items):
        print(", " if number else f'{{"{name}": [', json.dumps(item), sep="", end="")
    print("]}")


@contextmanager
def _warnings_as_lines(quiet: bool) -> Iterator[None]:
    """Print each UserWarning, ours or not, as one line on stderr; print none if `quiet`."""
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
    """Let standard output escape characters that its encoding lacks, as stderr does, instead of failing.

    On Windows, the encoding of a file or a pipe lacks our symbols and the letters of most languages.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Drop buffered output: if standard output failed, it must not fail again when the interpreter exits."""
    with suppress(OSError, ValueError, AttributeError):  # stdout is no real file, or is None
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
