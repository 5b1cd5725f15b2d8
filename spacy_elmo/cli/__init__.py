"""The commands `python -m spacy elmo COMMAND`. Each module parses arguments and prints; `tools/` does the work."""

import inspect
from collections.abc import Callable
from typing import Any

from spacy.cli._util import app
from typer import Exit, Option, Typer

from spacy_elmo.cli.convert import convert
from spacy_elmo.cli.download import download
from spacy_elmo.cli.embed import embed
from spacy_elmo.cli.evaluate import evaluate
from spacy_elmo.cli.info import info
from spacy_elmo.cli.init_config import init_config
from spacy_elmo.cli.neighbours import neighbours
from spacy_elmo.cli.prepare import prepare
from spacy_elmo.cli.pretrain import pretrain
from spacy_elmo.cli.static import static
from spacy_elmo.cli.substitutes import substitutes
from spacy_elmo.cli.visualize import visualize
from spacy_elmo.version import VERSION


def _option_name(name: str) -> str:
    """`-F` is an earlier spelling of `-f`, which `--help` does not show."""
    return "f" if name == "F" else name


elmo_cli = Typer(
    name="elmo",
    help="Use and inspect ELMo models (biLMs).",
    no_args_is_help=True,
    context_settings={"token_normalize_func": _option_name},
)


def _add(name: str, command: Callable[..., None], **context_settings: Any) -> None:
    """Add a command with its own summary: typer shortens the summaries that it makes itself."""
    summary = " ".join((inspect.getdoc(command) or "").partition("\n\n")[0].split()).partition(". ")[0]
    elmo_cli.command(name, short_help=f"{summary.rstrip('.')}.", context_settings=context_settings)(command)


_add("info", info)
_add("download", download)
_add("convert", convert)
_add("prepare", prepare)
_add("pretrain", pretrain, allow_extra_args=True, ignore_unknown_options=True)
_add("embed", embed)
_add("static", static)
_add("evaluate", evaluate)
_add("init-config", init_config)
_add("substitutes", substitutes)
_add("neighbours", neighbours)
_add("visualize", visualize)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"spacy-elmo {VERSION}")
        raise Exit


@elmo_cli.callback()
def _group(
    version: bool = Option(False, "--version", callback=_print_version, is_eager=True, help="Show the version"),
) -> None:
    """Use and inspect ELMo models (biLMs)."""


app.add_typer(elmo_cli)
