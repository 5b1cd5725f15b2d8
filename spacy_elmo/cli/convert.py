"""`python -m spacy elmo convert`: write any model in our directory layout."""

import json
from typing import Literal

from typer import Argument, Option

from spacy_elmo.cli.options import with_options
from spacy_elmo.cli.output import Force, Quiet, failing_clearly


@failing_clearly
@with_options
def convert(
    src: str = Argument(help="Name, directory, archive, .hdf5 file or checkpoint of a model"),
    dst: str = Argument(help="Directory to write"),
    dtype: Literal["float32", "float16", "lossless"] = Option(
        "float32", help="How to store weights; lossless: in float16 if that keeps every value"
    ),
    force: bool = Force,
    as_json: bool = Option(False, "--json", help="Print one JSON object"),
    quiet: bool = Quiet,
) -> None:
    """Write a model as options.json and weights.hdf5, with its vocabulary, model card and softmax if it has them.

    Example: python -m spacy elmo convert 218.zip norwegian/
    """
    from spacy_elmo.tools import convert as tool

    report = tool.convert(src, dst, dtype, force)
    if as_json:
        print(json.dumps(report))
    elif not quiet:
        for name, size in report["files"].items():
            print(f"{name:<16}{size:>14,} bytes")
        print(f"✔ {dst}: digest {report['digest']}")
        if "lexicons.json" in report["files"]:
            print("ℹ only spacy-elmo reads this form: bilm-tf's layout cannot hold a model of ELMoForManyLangs")
