"""`python -m spacy elmo init-config`: a config to start from."""

from pathlib import Path
from typing import cast, get_args

import typer
from typer import Argument, Option

from spacy_elmo.cli.output import Quiet, failing_clearly


@failing_clearly
def init_config(
    config: str = Argument(help="File to write, - for standard output"),
    pretrain: bool = Option(False, "--pretrain", help="A config for `pretrain`"),
    size: str = Option("sm", help="Size of the biLM to pretrain: xs, sm, md, original"),
    quiet: bool = Quiet,
) -> None:
    """Write a filled config.

    Example: python -m spacy elmo init-config pretrain.cfg --pretrain --size sm
    """
    from spacy_elmo.pretraining.config import Config, Size

    if not pretrain:
        raise typer.BadParameter("say what the config is for: --pretrain")
    if size not in get_args(Size):
        raise typer.BadParameter(f"--size is one of {', '.join(get_args(Size))}, not {size!r}")
    text = Config.of_size(cast("Size", size)).text()
    if config == "-":
        print(text, end="")
        return
    Path(config).write_text(text, encoding="utf-8")
    if not quiet:
        print(f"✔ {config}: python -m spacy elmo pretrain CORPUS OUT --config {config}")
