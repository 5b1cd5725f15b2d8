"""`python -m spacy elmo prepare`: raw text to a corpus for pretraining."""

import json
import sys
from dataclasses import asdict

from typer import Argument, Option

from spacy_elmo.cli.output import Quiet, failing_clearly


@failing_clearly
def prepare(
    raw: str = Argument(
        help="File, directory or glob pattern of UTF-8 text, plain or .gz, .bz2, .xz, .zst: one paragraph a line, "
        "a blank line between documents; without one, a file is one document"
    ),
    out: str = Argument(help="Directory for train/, heldout/ and vocab.txt, none of which may be there yet"),
    lang: str = Option("en", help="Language whose spaCy tokenizer to use"),
    held_out: float = Option(
        0.01,
        min=0,
        max=0.5,
        help="Share of the documents of each file to hold out (0: none): with 0.01, number 50 of each hundred; "
        "of a file that is one document, paragraphs",
    ),
    min_tokens: int = Option(1, min=1, help="Drop shorter sentences"),
    min_count: int = Option(3, min=1, help="Leave rarer words out of the vocabulary"),
    max_size: int | None = Option(None, min=4, help="Most entries of the vocabulary, <S> </S> <UNK> included"),
    dedupe: bool = Option(False, "--dedupe", help="Drop paragraphs that were there before, in any file"),
    shuffle: bool = Option(
        False,
        "--shuffle",
        help="Put the training sentences of each file in random order, which drops the borders of documents "
        "(takes 8 bytes of memory for each sentence of a file)",
    ),
    seed: int = Option(0, help="Seed of --shuffle"),
    n_process: int = Option(1, min=1, help="Processes that tokenize; the result is the same for any number"),
    as_json: bool = Option(False, "--json", help="Print one JSON object"),
    quiet: bool = Quiet,
) -> None:
    """Tokenize raw text for pretraining: one sentence a line, with a held-out part and a vocabulary.

    Example: python -m spacy elmo prepare "wiki/*.xz" corpus --lang en --min-tokens 4 --n-process 4
    """
    from spacy_elmo.tools import prepare as tool

    report = tool.prepare(
        raw,
        out,
        lang=lang,
        held_out=held_out,
        min_tokens=min_tokens,
        min_count=min_count,
        max_size=max_size,
        dedupe=dedupe,
        shuffle=shuffle,
        seed=seed,
        n_process=n_process,
        progress=not quiet,
    )
    print(json.dumps(asdict(report)) if as_json else tool.summary(report))
    for warning in () if quiet else (tool.warning(report, held_out), tool.vocabulary_warning(report)):
        if warning:
            print(f"⚠ {warning}", file=sys.stderr)
