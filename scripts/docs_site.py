"""Hooks of mkdocs: which files are pages of the site; and tables of commands and settings, which the code itself gives.

Pages have the path that they have in the repository (`docs/component.md`, `README.md`), and so have the files that they
link to. So one relative link works on the site and in the repository.
"""

import dataclasses
import html
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = (  # all of them stand in the navigation
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"),
    *("docs/**/*.md", "examples/*/README.md", "training/*/README.md", "training/*/tries.md"),
)
_NAMED_AS_FILE = re.compile(r"\[[\w./-]+\.md\]\(([\w./-]+\.md)(#[^)\s]*)?\)")
_NOT_ON_SITE = re.compile(r"<!-- not on the site -->.*?<!-- on the site again -->\n?", re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Replace what mkdocs found by the pages and what they link to."""
    pages = {path for pattern in PAGES for path in ROOT.glob(pattern)}
    linked = {target for page in pages for target in _linked_files(page)} - pages
    themes = [file for file in files if file.src_dir != config.docs_dir]
    others = [_file(path, config) for path in sorted(linked)]
    for file in others:
        file.inclusion = InclusionLevel.NOT_IN_NAV
    return Files([*themes, *(_file(path, config) for path in sorted(pages)), *others])


def _linked_files(page: Path) -> Iterator[Path]:
    for target in _LINK.findall(page.read_text(encoding="utf8")):
        path = (page.parent / target).resolve()
        if path.is_file() and path.is_relative_to(ROOT):
            yield path


def _file(path: Path, config: MkDocsConfig) -> File:
    name = path.relative_to(ROOT).as_posix()
    return File(name, str(ROOT), config.site_dir, config.use_directory_urls)


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Add commands and settings to their pages. Remove what is only for readers of the files. A link to a folder, which
    a site cannot show, is only its text. A link named as a file (`[component.md](component.md)`) gets the title of that
    page."""
    markdown = _NOT_ON_SITE.sub("", markdown)
    folder = (ROOT / page.file.src_uri).parent
    markdown = re.sub(
        r"\[([^\]]*)\]\(([^)#:\s]+)\)",
        lambda link: link[1] if (folder / link[2]).is_dir() else link[0],
        markdown,
    )
    markdown = _NAMED_AS_FILE.sub(lambda link: f"[{_title(folder / link[1])}]({link[1]}{link[2] or ''})", markdown)
    if (more := _MORE.get(page.file.src_uri)) is not None:
        markdown += "\n" + "\n".join(more())
    return markdown


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig, **_: Any) -> str:
    """Say on the 404 page where to look."""
    if template_name != "404.html":
        return output_content
    top = urlsplit(config.site_url or "/").path
    links = "".join(f'<li><a href="{top}{page}">{text}</a></li>' for page, text in _HELP.items())
    heading, where = "<h1>404 - Not found</h1>", "There is no such page. Look here, or search at the top of the page:"
    if heading not in output_content:
        raise PluginError(f"404.html of the theme has no {heading}")
    return output_content.replace(heading, f"{heading}<p>{where}</p><ul>{links}</ul>")


def _title(page: Path) -> str:
    return next(line[2:] for line in page.read_text(encoding="utf8").splitlines() if line.startswith("# "))


def _commands() -> Iterator[str]:
    from typer.main import get_command

    from spacy_elmo.cli import elmo_cli

    group = get_command(elmo_cli)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        yield from _command(f"python -m spacy elmo {name}", command)


def _command(name: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=name)
    yield f"\n## `{name.rpartition(' ')[2]}`\n"
    yield f"```\n{command.get_usage(context).removeprefix('Usage: ')}\n```\n"
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        example = paragraph.removeprefix("Example: ")
        yield (
            f"{html.escape(paragraph, quote=False)}\n"
            if example == paragraph
            else f"```bash\n{' '.join(example.split())}\n```\n"
        )
    yield "| argument, option | |\n|---|---|"
    for parameter in sorted(command.get_params(context), key=lambda one: one.param_type_name != "argument"):
        record = parameter.get_help_record(context) or (parameter.make_metavar(context), getattr(parameter, "help", ""))
        usage, text = (" ".join((part or "").split()) for part in record)
        yield f"| `{usage}` | {html.escape(text, quote=False)} |"


def _settings() -> Iterator[str]:
    from spacy_elmo.pretraining.config import Config

    config = Config.of_size("sm")
    for section in dataclasses.fields(config):
        yield f"\n### `[{section.name}]`\n"
        yield "| setting | default | |\n|---|---|---|"
        values = getattr(config, section.name)
        types = get_type_hints(type(values))
        for one in dataclasses.fields(values):
            default, about = json.dumps(getattr(values, one.name)), [one.metadata["about"]]
            if get_origin(types[one.name]) is Literal:
                about.append("one of " + ", ".join(f"`{json.dumps(name)}`" for name in get_args(types[one.name])))
            yield f"| `{one.name}` | `{default}` | {'; '.join(filter(None, about))} |"


_HELP = {
    "index.html": "Home",
    "docs/tutorials/first-vectors.html": "First vectors",
    "docs/component.html": "The component elmo",
    "docs/troubleshooting.html": "Troubleshooting",
}
_MORE = {"docs/reference/commands.md": _commands, "docs/reference/configs.md": _settings}
