"""`python -m spacy elmo evaluate`: show how well a biLM predicts text."""

import json
from dataclasses import asdict

import typer
from typer import Argument, Option

from spacy_elmo.cli.output import Device, Quiet, Softmax, failing_clearly, print_list


@failing_clearly
def evaluate(
    model: str = Argument(
        help="Name, directory, archive, .hdf5 file or checkpoint of a model with a softmax; or of any, with --softmax"
    ),
    text: str | None = Argument(
        None, help="Tokenized text, one sentence per line: file, directory, glob pattern, or - for standard input"
    ),
    softmax: str | None = Softmax,
    per_sentence: bool = Option(
        False, "--per-sentence", help="Show perplexity and log-probability per sentence instead, from zero state"
    ),
    blimp: str | None = Option(None, metavar="DIR", help="Also score BLiMP's minimal pairs, from its .jsonl files"),
    lang: str = Option("en", help="Language of the tokenizer for the minimal pairs"),
    device: str = Device,
    as_json: bool = Option(False, "--json", help="Print one JSON object"),
    quiet: bool = Quiet,
) -> None:
    """Show the perplexity of a text: forward, backward and mean, with carried state and from zero state.

    Example: python -m spacy elmo evaluate my_elmo/ corpus/heldout

    Example: python -m spacy elmo evaluate en_elmo_sm sentences.txt --softmax training/en_elmo_sm/state --per-sentence
    """
    if text is None and blimp is None:
        raise typer.BadParameter("give a TEXT, --blimp DIR, or both")
    if per_sentence and (text is None or blimp is not None):
        raise typer.BadParameter("--per-sentence needs a TEXT and no --blimp")
    if per_sentence and text is not None:
        _show_sentences(model, text, softmax, device, as_json)
        return
    from spacy_elmo.tools.evaluate import evaluate_model, table

    figures = evaluate_model(model, text, blimp, lang, device, show_progress=not quiet, softmax=softmax)
    print(json.dumps(figures) if as_json else table(figures))


def _show_sentences(model: str, text: str, softmax: str | None, device: str, as_json: bool) -> None:
    from spacy_elmo.tools import score

    scores = score.of_text(model, text, device, softmax)
    if as_json:
        print_list("sentences", map(asdict, scores))
        return
    for number, one in enumerate(scores):
        if not number:
            print(score.HEADING)
        print(score.row(one))
