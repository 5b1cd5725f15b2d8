"""`python -m spacy elmo evaluate`: how well a biLM predicts text."""

import json

import typer
from typer import Argument, Option

from spacy_elmo.cli.output import Device, Quiet, failing_clearly


@failing_clearly
def evaluate(
    model: str = Argument(help="Directory of a model with its vocab.txt and softmax.hdf5"),
    text: str | None = Argument(None, help="Pre-tokenized text, one sentence a line: file, directory or glob pattern"),
    blimp: str | None = Option(None, metavar="DIR", help="Also score BLiMP's minimal pairs, from its .jsonl files"),
    lang: str = Option("en", help="Language whose tokenizer splits the sentences of the minimal pairs"),
    device: str = Device,
    as_json: bool = Option(False, "--json", help="Print one JSON object"),
    quiet: bool = Quiet,
) -> None:
    """Show the perplexity of a text, forward, backward and mean, with carried state and from zero state.

    Example: python -m spacy elmo evaluate my_elmo/ corpus/heldout
    """
    if text is None and blimp is None:
        raise typer.BadParameter("give a TEXT, or --blimp DIR, or both")
    from spacy_elmo.tools.evaluate import evaluate_model, table

    figures = evaluate_model(model, text, blimp, lang, device, show_progress=not quiet)
    print(json.dumps(figures) if as_json else table(figures))
