"""Hook of mkdocs: a notebook that a page links to becomes a page, with its outputs. The page links to the notebook."""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

_LINK = re.compile(r"(\]\([^)#:\s]+)\.ipynb\)")


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add the pages and their pictures."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        name = Path(notebook.src_uri).name
        own = {"unique_key": Path(name).stem, "output_files_dir": f"{Path(name).stem}_files"}  # names of pictures
        text, resources = MarkdownExporter().from_filename(notebook.abs_src_path, resources=own)
        title, _newline, rest = text.partition("\n")
        # the raw link is not rewritten below: the page would link to itself
        download = f'Download this notebook: <a href="{name}" download>{name}</a>.'
        page = f"{title}\n\n{download}\n{rest}"
        for uri, content in ((notebook.src_uri.replace(".ipynb", ".md"), page), *_pictures(notebook, resources)):
            files.append(File.generated(config, uri, content=content))
    return files


def _pictures(notebook: File, resources: dict[str, Any]) -> list[tuple[str, bytes]]:
    folder = Path(notebook.src_uri).parent
    return [((folder / name).as_posix(), content) for name, content in resources["outputs"].items()]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Make links to notebooks links to their pages."""
    return _LINK.sub(r"\1.md)", markdown)
