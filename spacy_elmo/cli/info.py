"""`python -m spacy elmo info`: what a model is, and what runs it here."""

import json

from typer import Argument, Option

from spacy_elmo.cli.output import Quiet, failing_clearly


@failing_clearly
def info(
    model: str = Argument("en_elmo_sm", help="Name, directory, archive, .hdf5 file or checkpoint"),
    machine: bool = Option(False, "--machine", help="Show what runs the model on this machine, and why"),
    as_json: bool = Option(False, "--json", help="Print one JSON object"),
    quiet: bool = Quiet,
) -> None:
    """Show architecture, sizes, digest and licence of a model. With --machine, show processor, compiled part, torch and
    threads instead, and which engine runs the model in which precision.

    Example: python -m spacy elmo info en_elmo_sm
    """
    if machine:
        from spacy_elmo.tools.machine import describe_all as describe
        from spacy_elmo.tools.machine import table
    else:
        from spacy_elmo.tools.describe import describe, table

    facts = describe(model)
    print(json.dumps(facts) if as_json else table(facts))
