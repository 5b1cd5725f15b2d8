"""`python -m spacy elmo COMMAND`: one module a command, which parses arguments and prints; the work is elsewhere."""

from spacy.cli._util import app
from typer import Typer

from spacy_elmo.cli.info import info

elmo_cli = Typer(name="elmo", help="Use and inspect ELMo models (biLMs).", no_args_is_help=True)
elmo_cli.command("info")(info)


@elmo_cli.callback()
def _group() -> None:
    """Use and inspect ELMo models (biLMs)."""


app.add_typer(elmo_cli)
