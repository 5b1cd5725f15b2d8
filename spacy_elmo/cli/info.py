"""`python -m spacy elmo info`: describe a model or a pipeline, and what runs it on this machine."""

import json

from typer import Argument, Option

from spacy_elmo.cli.output import Quiet, failing_clearly


@failing_clearly
def info(
    model: str = Argument(
        "en_elmo_sm",
        metavar="MODEL|PIPELINE",
        help="Name, directory, archive, .hdf5 file or checkpoint of a model; or directory or package of a pipeline",
    ),
    machine: bool = Option(False, "--machine", help="Show what runs the model on this machine, and why"),
    as_json: bool = Option(False, "--json", help="Print one JSON object"),
    quiet: bool = Quiet,
) -> None:
    """Show architecture, sizes, digest and licence of a model. For a pipeline, show its elmo, the model in it, and how
    each component mixes the layers: its learned weights (token embedding first) and gamma. With --machine, show the
    processor, compiled part, torch and threads instead, and which engine runs the model in each precision.

    Example: python -m spacy elmo info en_elmo_sm
    """
    from spacy_elmo.tools import describe, describe_pipeline
    from spacy_elmo.tools import machine as describe_machine

    pipeline = describe_pipeline.find_pipeline(model)
    if machine:
        bilm = model if pipeline is None else str(describe_pipeline.find_bilm(model, pipeline))
        facts, table = describe_machine.describe_all(bilm), describe_machine.table
    elif pipeline is None:
        facts, table = describe.describe(model), describe.table
    else:
        facts, table = describe_pipeline.describe_pipeline(model), describe_pipeline.table
    print(json.dumps(facts) if as_json else table(facts))
