"""The folder of a saved pipeline and a model card in; licence and sources of the weights in the pipeline's own metadata
out, from where `spacy package` takes them: an entry in `sources` of `meta.json`, and the whole text in
`LICENSES_SOURCES`."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spacy_elmo.formats.beside import ATTRIBUTION_TEXT
from spacy_elmo.support.files import write_text, write_whole

META = "meta.json"
LICENSES = "LICENSES_SOURCES"  # `spacy package` puts a file of this name at the top of the package

# What a card may say of it, and how a reader is told.
_FACTS = {"license": "Licence", "author": "Author", "attribution": "Attribution", "source": "Source", "url": "Address"}


def attribute(pipeline: Path, component: str, card: Mapping[str, Any]) -> None:
    """Say in the folder of a saved pipeline what the card says of the weights of this component, in the place of what
    was said of those that it had before. What others have written there stays. Another folder is left alone.

    Raises:
        OSError: a file there cannot be read or written.
    """
    meta = _read_meta(pipeline / META)
    if component not in meta.get("components", ()):
        return
    facts = {key: card[key] for key in _FACTS if isinstance(card.get(key), str) and card[key]}
    text = card.get(ATTRIBUTION_TEXT, "")
    name = str(card.get("name", f"weights of {component}"))
    is_known = bool(facts or text)
    _write_source(pipeline / META, meta, component, {"name": name, **facts} if is_known else None)
    lines = [name, *(f"{_FACTS[key]}: {value}" for key, value in facts.items()), "", text.strip("\n")]
    _write_licence(pipeline / LICENSES, component, "\n".join(lines).rstrip("\n") if is_known else None)


def _read_meta(path: Path) -> dict[str, Any]:
    """Content of the `meta.json` that spaCy has written; empty where there is none."""
    try:
        meta = json.loads(path.read_bytes()) if path.is_file() else None
    except ValueError:
        return {}
    return meta if isinstance(meta, dict) and isinstance(meta.get("components"), list) else {}


def _write_source(path: Path, meta: dict[str, Any], component: str, facts: dict[str, str] | None) -> None:
    """spaCy's schema asks for all texts, or for all objects of texts."""
    found = meta.get("sources") or []
    if not isinstance(found, list):
        return
    others = [source for source in found if not (isinstance(source, dict) and source.get("component") == component)]
    if facts is not None:
        others = [{"name": source} if isinstance(source, str) else source for source in others]
        others.append({**facts, "component": component})
    if others != found:
        write_text(path, json.dumps({**meta, "sources": others}, indent=2, ensure_ascii=False))


def _write_licence(path: Path, component: str, text: str | None) -> None:
    """As one section of the file."""
    begin, end = (f"# {words} of the component {component}" for words in ("Weights", "End of the weights"))
    errors = {"encoding": "utf-8", "errors": "surrogateescape"}  # what others have written may be of any encoding
    found = path.read_bytes().decode(**errors) if path.is_file() else ""
    others = re.sub(rf"\n*^{re.escape(begin)}$.*?^{re.escape(end)}$\n*", "\n", found, flags=re.DOTALL | re.MULTILINE)
    sections = [others.strip("\n"), "" if text is None else f"{begin}\n\n{text}\n\n{end}"]
    new = "".join(f"{section}\n" for section in sections if section)
    if new.strip("\n") == found.strip("\n"):
        return
    if new:
        write_whole(path, lambda file: file.write(new.encode(**errors)))
    else:
        path.unlink()
