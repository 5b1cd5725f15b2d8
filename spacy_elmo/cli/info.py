"""`python -m spacy elmo info`: what a model is."""

import json

from typer import Argument, Option

from spacy_elmo.cli.output import Quiet, failing_clearly


@failing_clearly
def info(
    model: str = Argument("en_elmo_sm", help="Name, directory, zip archive or .hdf5 file"),
    as_json: bool = Option(False, "--json", help="Print one JSON object"),
    quiet: bool = Quiet,
) -> None:
    """Show architecture, sizes, digest and licence of a model.

    Example: python -m spacy elmo info en_elmo_sm
    """
    from spacy_elmo.tools.describe import describe, table

    facts = describe(model)
    print(json.dumps(facts) if as_json else table(facts))
