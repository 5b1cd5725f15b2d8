"""`python -m spacy elmo COMMAND`: one module a command, which parses arguments and prints; the work is elsewhere."""

from spacy.cli._util import app
from typer import Typer

from spacy_elmo.cli.convert import convert
from spacy_elmo.cli.download import download
from spacy_elmo.cli.embed import embed
from spacy_elmo.cli.evaluate import evaluate
from spacy_elmo.cli.info import info
from spacy_elmo.cli.init_config import init_config
from spacy_elmo.cli.neighbours import neighbours
from spacy_elmo.cli.prepare import prepare
from spacy_elmo.cli.pretrain import pretrain
from spacy_elmo.cli.substitutes import substitutes
from spacy_elmo.cli.visualize import visualize

elmo_cli = Typer(name="elmo", help="Use and inspect ELMo models (biLMs).", no_args_is_help=True)
elmo_cli.command("info")(info)
elmo_cli.command("download")(download)
elmo_cli.command("convert")(convert)
elmo_cli.command("prepare")(prepare)
elmo_cli.command("pretrain", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(pretrain)
elmo_cli.command("embed")(embed)
elmo_cli.command("evaluate")(evaluate)
elmo_cli.command("init-config")(init_config)
elmo_cli.command("substitutes")(substitutes)
elmo_cli.command("neighbours")(neighbours)
elmo_cli.command("visualize")(visualize)


@elmo_cli.callback()
def _group() -> None:
    """Use and inspect ELMo models (biLMs)."""


app.add_typer(elmo_cli)
