"""`python -m spacy elmo visualize`: draw words in context."""

from typing import Literal

import typer
from typer import Argument, Option

from spacy_elmo.cli.options import with_options
from spacy_elmo.cli.output import Device, Force, Quiet, failing_clearly


@failing_clearly
@with_options
def visualize(
    text: str = Argument(
        help="Text, one tokenized sentence per line. With --color label: label<TAB>sentence. With --color pos and "
        "without --pipeline: one word<TAB>tag per line, with a blank line between sentences"
    ),
    out: str = Argument(help="Picture to write: .png, .html (interactive), or a name without suffix for both"),
    model: str = Option("en_elmo_sm", help="Name, directory, archive, .hdf5 file or checkpoint of a model"),
    words: str | None = Option(
        None, help="Words to draw, separated by commas (default: all but function words; --color label: sentences)"
    ),
    all_words: bool = Option(False, "--all-words", help="Draw punctuation and function words, too"),
    color: Literal["word", "pos", "label"] = Option("word", help="What the colours show"),
    method: Literal["pca", "tsne", "umap"] = Option("pca", help="How to project vectors to two dimensions"),
    layers: str = Option("mean", help="mean (or average), top, or the number of a layer (0 is the token embedding)"),
    pipeline: str | None = Option(None, help="spaCy pipeline that splits lines and tags words, or a language (en)"),
    max_points: int = Option(1000, min=3, help="Maximum number of points; if there are more, a random choice is drawn"),
    seed: int = Option(0, help="Seed of the random choice of points, and of t-SNE and UMAP"),
    title: str | None = Option(None, help="Title of the picture"),
    device: str = Device,
    force: bool = Force,
    quiet: bool = Quiet,
) -> None:
    """Draw contextual vectors in two dimensions, as a PNG or as a page that shows the sentence under the mouse.

    Example: python -m spacy elmo visualize sentences.txt bank.png --words bank,shore --method tsne

    Example: python -m spacy elmo visualize comments.tsv comments.html --color label --pipeline en
    """
    from spacy_elmo.tools import visualize as tool

    chosen = [word.strip() for word in words.split(",") if word.strip()] if words is not None else None
    if chosen == []:
        raise typer.BadParameter("--words names no word; leave it out to draw all words")
    counts = tool.visualize(
        text,
        out,
        model,
        chosen,
        color,
        method,
        layers,
        pipeline,
        max_points,
        seed,
        title,
        device,
        force,
        show_progress=not quiet,
        all_words=all_words,
    )
    if not quiet:
        most = ", ".join(f"{name} {count}" for name, count in list(counts.items())[:7])
        written = ", ".join(map(str, tool.files_of(out)))
        print(f"✔ {written}: {sum(counts.values())} points ({most}{', ...' if len(counts) > 7 else ''})")
