"""`python -m spacy elmo embed`: write the vectors of a text file."""

import json
from dataclasses import asdict

from typer import Argument, Option

from spacy_elmo.cli.options import with_options
from spacy_elmo.cli.output import Quiet, failing_clearly, telling_how_to_go_on
from spacy_elmo.tools.embedding.settings import EmbedSettings


@failing_clearly
@with_options
def embed(
    settings: EmbedSettings,
    text: str = Argument(help="One tokenized sentence per line, plain or .gz, .bz2, .xz, .zst; - for standard input"),
    out: str = Argument(help="File to write: .hdf5 or .h5 (as `allennlp elmo`), .npz, .parquet, .arrow or .spacy"),
    as_json: bool = Option(False, "--json", help="Print one JSON object"),
    quiet: bool = Quiet,
) -> None:
    """Write the vectors of each token of a text, one dataset per line.

    Example: python -m spacy elmo embed sentences.txt vectors.hdf5 --model en_elmo_sm --layers all
    """
    from spacy_elmo.tools import embed as tool

    with telling_how_to_go_on(lambda: tool.interrupted(out)):
        report = tool.embed_file(text, out, settings, progress=not quiet)
    if as_json:
        print(json.dumps(asdict(report)))
    elif not quiet:
        print(tool.summary(out, report))
