"""The folder of a saved pipeline and a model card in, the attribution of the weights in the pipeline's metadata out.

`spacy package` takes it from there: an entry in `sources` of `meta.json`, and the whole text in `LICENSES_SOURCES`.
"""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from spacy_elmo.formats.beside import split_card
from spacy_elmo.support.files import write_text, write_whole

META = "meta.json"
LICENSES = "LICENSES_SOURCES"  # `spacy package` puts a file of this name at the top of the package

_BEGIN, _END = "# Weights of the component ", "# End of the weights of the component "  # around a section of that file

# Facts that a card may have, and their names for readers.
_FACTS = {"license": "Licence", "author": "Author", "attribution": "Attribution", "source": "Source", "url": "Address"}


def attribute(pipeline: Path, component: str, card: Mapping[str, Any]) -> None:
    """Copy what the card says about the weights of this component into the folder of a saved pipeline.

    This replaces what was there for the component's earlier weights, and drops entries of components that were removed
    or renamed. Text from others stays. A folder that is not this component's pipeline is left alone.

    Raises:
        OSError: a file there cannot be read or written.
    """
    meta = _read_meta(pipeline / META)
    if component not in meta.get("components", ()):
        return
    card, text = split_card(dict(card))
    facts = {key: card[key] for key in _FACTS if isinstance(card.get(key), str) and card[key]}
    name = card.get("name")
    name = name if isinstance(name, str) and name else f"weights of {component}"
    is_known = bool(facts or text)
    kept = set(meta["components"]) - {component}
    _write_source(pipeline / META, meta, kept, {"name": name, **facts, "component": component} if is_known else None)
    lines = [name, *(f"{_FACTS[key]}: {value}" for key, value in facts.items()), "", *(text or "").splitlines()]
    about = "\n".join(line for line in lines if not line.startswith(_END)).strip("\n")
    section = f"{_BEGIN}{component}\n\n{about}\n\n{_END}{component}"
    _write_licence(pipeline / LICENSES, kept, section if is_known else None)


def _read_meta(path: Path) -> dict[str, Any]:
    """Return the content of the `meta.json` that spaCy has written; empty if there is none."""
    try:
        meta = json.loads(path.read_bytes()) if path.is_file() else None
    except ValueError:
        return {}
    return meta if isinstance(meta, dict) and isinstance(meta.get("components"), list) else {}


def _write_source(path: Path, meta: dict[str, Any], kept: Collection[str], facts: dict[str, str] | None) -> None:
    """Put the facts next to the sources of others and of the components in `kept`. spaCy's schema wants either texts
    only, or objects of texts only."""
    found = meta.get("sources") or []
    if not isinstance(found, list):
        return
    others = [source for source in found if not isinstance(source, dict) or source.get("component") in (None, *kept)]
    if facts is not None:
        others = [{"name": source} if isinstance(source, str) else source for source in others]
        others.append(facts)
    if others != found:
        write_text(path, json.dumps({**meta, "sources": others}, indent=2, ensure_ascii=False))


def _write_licence(path: Path, kept: Collection[str], section: str | None) -> None:
    """Write one section of the file, next to those of the components in `kept`."""
    errors = {"encoding": "utf-8", "errors": "surrogateescape"}  # text from others may have any encoding
    found = path.read_bytes().decode(**errors) if path.is_file() else ""
    ours = re.compile(rf"\n*^{_BEGIN}(.+)$.*?^{_END}\1$\n*", flags=re.DOTALL | re.MULTILINE)
    others = ours.sub(lambda match: match[0] if match[1] in kept else "\n", found)
    new = "".join(f"{part}\n" for part in (others.strip("\n"), section or "") if part)
    if new.strip("\n") == found.strip("\n"):
        return
    if new:
        write_whole(path, lambda file: file.write(new.encode(**errors)))
    else:
        path.unlink()
