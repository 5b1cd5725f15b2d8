"""Run commands of `python -m spacy elmo`, as tests write them."""

import json

from typer.testing import CliRunner

from spacy_elmo.cli import elmo_cli
from spacy_elmo.tools.embed import embed_file

LINES = ["the bank lent money", "a bank of sand", "he sat on the bank"]


def as_options(values):
    """Return settings as arguments: `--training.max_steps 6`."""
    return [part for name, value in values.items() for part in (f"--{name}", json.dumps(value))]


class Commands:
    """Runs commands with placeholders: TEXT, CORPUS (the text's vectors) and SENTENCE exist, MODEL is a model, and OUT
    is a path without a file.

    model: embeds the corpus; directory: holds all these files.
    """

    def __init__(self, model, directory):
        text, corpus = directory / "text.txt", directory / "corpus.hdf5"
        text.write_text("".join(f"{line}\n" for line in LINES))
        embed_file(text, corpus, model=str(model), device="cpu")
        self.directory = directory
        self.values = {"TEXT": str(text), "CORPUS": str(corpus), "SENTENCE": LINES[0], "MODEL": str(model)}

    def run(self, command, *options, out="out", **values):
        """Run a command and return the result. out: replaces OUT; values: replace the values above."""
        values = self.values | values
        out = str(self.directory / out)
        words = [values.get(word, word.replace("OUT", out)) for word in command.split()]
        return CliRunner().invoke(elmo_cli, [*words, *options])
