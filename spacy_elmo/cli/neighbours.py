"""`python -m spacy elmo neighbours`: the nearest uses of a word in an embedded corpus."""

import json
from dataclasses import asdict

import typer
from typer import Argument, Option

from spacy_elmo.cli.output import Device, Quiet, failing_clearly


@failing_clearly
def neighbours(
    word: str = Argument(help="The word, as it is written in its sentence"),
    corpus: str = Argument(help="Vectors of a corpus, as `embed` or `allennlp elmo` writes them to HDF5"),
    sentence: str | None = Option(None, "--in", metavar="SENTENCE", help="A tokenized sentence that the word is in"),
    model: str = Option("en_elmo_sm", help="With --in: the model that the corpus was embedded with"),
    line: int | None = Option(None, min=0, help="Instead of --in: the line of the corpus that the word is in, from 0"),
    position: int | None = Option(None, min=0, help="Where the word stands, from 0, if it is there several times"),
    any_word: bool = Option(False, "--any-word", help="Find uses of any word, not only of the same"),
    layers: str | None = Option(None, help="Of a file with all layers: mean or average (default), top, or a number"),
    text: str | None = Option(None, help="The text that was embedded, for a file without its sentences"),
    pipeline: str | None = Option(None, help="With --text: the pipeline that `embed` split its lines with, if any"),
    top: int = Option(10, min=1, help="Uses to show"),
    device: str = Device,
    as_json: bool = Option(False, "--json", help="Print one JSON object"),
    quiet: bool = Quiet,
) -> None:
    """Show the uses of a word in a corpus that are nearest to one use of it, by cosine.

    Example: python -m spacy elmo neighbours bank corpus.hdf5 --in "She works at a bank ."

    Example: python -m spacy elmo neighbours bank corpus.hdf5 --line 17 --any-word
    """
    if (sentence is None) == (line is None):
        raise typer.BadParameter("say which use of the word is meant: --in SENTENCE, or --line NUMBER")
    if pipeline is not None and text is None:
        raise typer.BadParameter("--pipeline splits the lines of a text; give that with --text")
    from spacy_elmo.tools import neighbours as tool
    from spacy_elmo.tools.embedded import EmbeddedCorpus

    with EmbeddedCorpus(corpus, text, pipeline, layers) as embedded:
        if sentence is not None:
            query = tool.query_in_sentence(embedded, word, sentence, model, position, device)
        else:
            query = tool.query_in_corpus(embedded, word, line or 0, position)
        uses = tool.neighbours(embedded, query, any_word, top, show_progress=not quiet)
    if as_json:
        asked = {"word": word, "position": query.position, "sentence": " ".join(query.words)}
        print(json.dumps({"query": asked, "neighbours": [asdict(use) for use in uses]}))
    else:
        print(tool.table(query, uses))
