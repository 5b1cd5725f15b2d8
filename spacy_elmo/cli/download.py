"""`python -m spacy elmo download`: download public models by name."""

import json

from typer import Argument, BadParameter, Option

from spacy_elmo.cli.output import Quiet, failing_clearly


@failing_clearly
def download(
    name: str | None = Argument(
        None,
        help="Name of a model: from --list, from Flair, a number from NLPL, or hf:owner/name[@revision]",
    ),
    list_known: bool = Option(False, "--list", help="Show the known models"),
    language: str | None = Option(None, "--lang", help="With --list: only show models for this language, such as fi"),
    as_json: bool = Option(False, "--json", help="Print one JSON object"),
    quiet: bool = Quiet,
) -> None:
    """Download a public model, so that you can use it by name: `weights = "allennlp-small"`.

    The model goes to your cache directory, or to the one that SPACY_ELMO_CACHE names. An interrupted download
    continues where it stopped. A repository of the Hugging Face hub, hf:owner/name, goes to the hub's own cache.

    Example: python -m spacy elmo download allennlp-small

    Example: python -m spacy elmo download --list --lang fi

    Example: python -m spacy elmo download hf:lysandre/elmo
    """
    if list_known == (name is not None):
        raise BadParameter("give either the NAME of a model or --list")
    if language is not None and not list_known:
        raise BadParameter("--lang only works with --list")
    from spacy_elmo.tools import download as tool

    if name is None:
        facts = tool.known_models(language)
        print(json.dumps(facts) if as_json else tool.table(facts))
        return
    report = tool.download(name, show_progress=not quiet)
    if as_json:
        print(json.dumps(report))
    elif not quiet:
        for file in report["files"]:
            print(f"{file['name']}: {file['bytes']:,} bytes, SHA-256 {file['sha256']}")
        print(f"license: {report['license'] or 'not stated'}")
        if not report["files"]:
            print(f"ℹ {name} comes with spacy-elmo: there is nothing to download")
        print(f'✔ {report["path"]}; use it by its name: weights = "{report["name"]}"')
