"""`python -m spacy elmo static`: write one vector per word, averaged over a corpus."""

import json
from dataclasses import asdict

from typer import Argument, Option

from spacy_elmo.cli.output import Device, Force, Quiet, failing_clearly, telling_how_to_go_on


@failing_clearly
def static(
    corpus: str = Argument(
        help="Tokenized text, one sentence per line: file, directory (also from `prepare`), glob pattern, or - for "
        "standard input"
    ),
    out: str = Argument(help="Folder to write: a spaCy pipeline with the vectors, and vectors.txt (word2vec's format)"),
    model: str = Option("en_elmo_sm", help="Name, directory, archive, .hdf5 file or checkpoint of a model"),
    layers: str = Option("mean", help="mean (or average), top, or the number of a layer (0 is the token embedding)"),
    pipeline: str | None = Option(
        None, metavar="NAME_OR_LANG", help="Read raw text, and split it with the tokenizer of this pipeline or language"
    ),
    lang: str | None = Option(
        None, help="Language of pipelines that will use the vectors (default: that of --pipeline, else of the model)"
    ),
    min_count: int = Option(5, min=1, help="Leave rarer words out"),
    device: str = Device,
    force: bool = Force,
    resume: bool = Option(False, "--resume", help="Resume an interrupted run from OUT.part"),
    as_json: bool = Option(False, "--json", help="Print one JSON object"),
    quiet: bool = Quiet,
) -> None:
    """Average the vectors of each word over a corpus. You can use the result like any static vectors.

    Example: python -m spacy elmo static corpus/ static_vectors --min-count 10

    Example: python -m spacy train ner.cfg --initialize.vectors static_vectors
    """
    from spacy_elmo.tools import static as tool

    with telling_how_to_go_on(lambda: tool.interrupted(out)):
        report = tool.average_words(
            corpus,
            out,
            model,
            layers=layers,
            pipeline=pipeline,
            lang=lang,
            min_count=min_count,
            device=device,
            force=force,
            resume=resume,
            show_progress=not quiet,
        )
    if as_json:
        print(json.dumps(asdict(report)))
    elif not quiet:
        print(tool.summary(out, report))
