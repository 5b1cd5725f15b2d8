"""`python -m spacy elmo embed`: the vectors of a text file."""

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType

from typer import Argument, Exit, Option

from spacy_elmo.cli.options import with_options
from spacy_elmo.cli.output import Quiet, failing_clearly
from spacy_elmo.tools.embedding.settings import EmbedSettings


@contextmanager
def _telling_how_to_go_on(message: Callable[[], str]) -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM end the command with a line on stderr and the exit status that shells give them."""
    status = 128 + signal.SIGINT

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


@failing_clearly
@with_options
def embed(
    settings: EmbedSettings,
    text: str = Argument(help="One tokenized sentence a line, UTF-8, plain or .gz, .bz2, .xz, .zst"),
    out: str = Argument(help="File to write: .hdf5 or .h5 (as `allennlp elmo`), .npz, .parquet, .arrow or .spacy"),
    as_json: bool = Option(False, "--json", help="Print one JSON object"),
    quiet: bool = Quiet,
) -> None:
    """Write the vectors of each token of a text, a dataset a line.

    Example: python -m spacy elmo embed sentences.txt vectors.hdf5 --model en_elmo_sm --layers all
    """
    from spacy_elmo.tools import embed as tool

    with _telling_how_to_go_on(lambda: tool.interrupted(out)):
        report = tool.embed_file(text, out, settings, progress=not quiet)
    if as_json:
        print(json.dumps(asdict(report)))
    elif not quiet:
        print(tool.summary(out, report))
