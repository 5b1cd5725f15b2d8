"""`python -m spacy elmo neighbours`: find the nearest uses of a word in an embedded corpus."""

import json
from dataclasses import asdict

import typer
from typer import Argument, Option

from spacy_elmo.cli.output import Device, Quiet, failing_clearly


@failing_clearly
def neighbours(
    word: str = Argument(help="The word, spelled as in its sentence"),
    corpus: str = Argument(help="HDF5 file with the vectors of a corpus, from `embed` or `allennlp elmo`"),
    sentence: str | None = Option(None, "--in", metavar="SENTENCE", help="A tokenized sentence that contains the word"),
    model: str = Option("en_elmo_sm", help="With --in: the model that embedded the corpus; see `embed`"),
    line: int | None = Option(None, min=0, help="Instead of --in: line of the corpus that contains the word, from 0"),
    position: int | None = Option(None, min=0, help="Position of the word, from 0, if the sentence repeats it"),
    any_word: bool = Option(False, "--any-word", help="Find uses of any word, not only of this word"),
    layers: str | None = Option(None, help="For a file with all layers: mean or average (default), top, or a number"),
    text: str | None = Option(None, help="The text that was embedded, for a file without its sentences"),
    pipeline: str | None = Option(None, help="With --text: the pipeline that split its lines for `embed`, if any"),
    top: int = Option(10, min=1, help="Number of uses to show"),
    device: str = Device,
    as_json: bool = Option(False, "--json", help="Print one JSON object"),
    quiet: bool = Quiet,
) -> None:
    """Show the uses of a word in a corpus that are nearest to one given use, by cosine.

    Example: python -m spacy elmo neighbours bank corpus.hdf5 --in "She works at a bank ."

    Example: python -m spacy elmo neighbours bank corpus.hdf5 --line 17 --any-word
    """
    if (sentence is None) == (line is None):
        raise typer.BadParameter("say which use of the word you mean: --in SENTENCE or --line NUMBER")
    if pipeline is not None and text is None:
        raise typer.BadParameter("--pipeline splits the lines of a text: add the text with --text")
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
