"""`python -m spacy elmo prepare`: turn raw text into a corpus for pretraining."""

import json
import sys
from dataclasses import asdict

from typer import Argument, Option

from spacy_elmo.cli.output import Quiet, failing_clearly


@failing_clearly
def prepare(
    raw: str = Argument(
        help="File, directory or glob pattern of UTF-8 text, plain or .gz, .bz2, .xz, .zst: one paragraph per line, "
        "a blank line between documents; a file without blank lines is one document"
    ),
    out: str = Argument(help="Directory for train/, heldout/ and vocab.txt, none of which may exist yet"),
    lang: str = Option("en", help="Language of the spaCy tokenizer"),
    held_out: float = Option(
        0.01,
        min=0,
        max=0.5,
        help="Share of the documents of each file to hold out (0: none). With 0.01, this is number 50 of each hundred. "
        "If a file is one document, paragraphs are held out",
    ),
    min_tokens: int = Option(1, min=1, help="Drop shorter sentences"),
    min_count: int = Option(3, min=1, help="Leave rarer words out of the vocabulary"),
    max_size: int | None = Option(None, min=4, help="Maximum size of the vocabulary, including <S> </S> <UNK>"),
    dedupe: bool = Option(False, "--dedupe", help="Drop repeated paragraphs, across all files"),
    shuffle: bool = Option(
        False,
        "--shuffle",
        help="Put the training sentences of each file in random order, without borders between documents "
        "(takes 8 bytes of memory per sentence of a file)",
    ),
    seed: int = Option(0, help="Seed of --shuffle"),
    n_process: int = Option(1, min=1, help="Number of processes that tokenize; it does not change the result"),
    as_json: bool = Option(False, "--json", help="Print one JSON object"),
    quiet: bool = Quiet,
) -> None:
    """Tokenize raw text for pretraining: one sentence per line, with a held-out part and a vocabulary.

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
