"""`python -m spacy elmo init-config`: write a config to start from."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer
from typer import Argument, Option

from spacy_elmo.cli.options import with_options
from spacy_elmo.cli.output import Force, Quiet, failing_clearly
from spacy_elmo.errors import ElmoError

if TYPE_CHECKING:
    from spacy_elmo.pretraining.config import Size
    from spacy_elmo.tools.init_config import Optimize


@failing_clearly
@with_options
def init_config(
    config: str = Argument(help="File to write, - for standard output"),
    pipeline: str | None = Option(
        None,
        help="Write a config for `spacy train` with these components, separated by commas: senter, tagger, "
        "morphologizer, trainable_lemmatizer, parser, ner, entity_linker, span_finder, spancat, spancat_singlelabel, "
        "textcat or textcat_multilabel",
    ),
    lang: str = Option("en", help="Language of the pipeline"),
    weights: str = Option(
        "en_elmo_sm", metavar="MODEL", help="Name, directory, archive, .hdf5 file or checkpoint of a model"
    ),
    optimize: Literal["speed", "accuracy"] = Option("speed", help="Goal of the networks on top of ELMo"),
    pretrain: bool = Option(False, "--pretrain", help="Write a config for `pretrain`"),
    size: Literal["xs", "sm", "md", "original"] = Option("sm", help="Size of the biLM to pretrain"),
    force: bool = Force,
    quiet: bool = Quiet,
) -> None:
    """Write a complete config for `spacy train` or `pretrain`.

    Example: python -m spacy elmo init-config ner.cfg --pipeline ner --lang en

    Example: python -m spacy elmo init-config pretrain.cfg --pretrain --size sm
    """
    if pretrain and pipeline is not None:
        raise typer.BadParameter("--pipeline and --pretrain write two configs: run this once for each")
    if not pretrain and pipeline is None:
        raise typer.BadParameter("say what the config is for: --pipeline COMPONENTS or --pretrain")
    if config != "-" and not force and Path(config).is_file():
        raise ElmoError(f"{config}: already exists; add --force to overwrite it")
    if pipeline is None:
        _write(config, _for_pretraining(size))
        follow = f"python -m spacy elmo pretrain CORPUS OUT --config {config}"
    else:
        _write(config, _for_training(pipeline, lang, weights, optimize, quiet))
        follow = f"python -m spacy train {config} --output OUT --paths.train TRAIN.spacy --paths.dev DEV.spacy"
        follow += " --paths.kb KB" if "entity_linker" in pipeline else ""
    if config != "-" and not quiet:
        print(f"✔ {config}: {follow}")


def _for_pretraining(size: "Size") -> str:
    from spacy_elmo.pretraining.config import Config

    return Config.of_size(size).text()


def _for_training(pipeline: str, lang: str, weights: str, optimize: "Optimize", quiet: bool) -> str:
    from spacy_elmo.tools.init_config import build, text, warning

    names = [name.strip() for name in pipeline.split(",")]
    built = build(names, lang, weights, optimize)
    if (doubt := warning(lang, weights)) and not quiet:
        print(f"⚠ {doubt}", file=sys.stderr)
    return text(built)


def _write(config: str, content: str) -> None:
    if config == "-":
        print(content, end="")
        return
    from spacy_elmo.support.files import write_text

    path = Path(config)
    try:
        if path.is_file() or not path.exists():
            write_text(path, content)
        else:  # such as /dev/stdout
            path.write_text(content, encoding="utf-8", newline="\n")
    except OSError as error:
        raise ElmoError(f"{config}: cannot be written ({error.strerror})") from None
