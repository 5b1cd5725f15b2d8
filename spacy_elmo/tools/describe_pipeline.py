"""Describes the ELMo in a saved pipeline (behind `python -m spacy elmo info`).

This is its biLM, and the mix of the layers that each task has learned.
"""

import importlib.util
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import spacy
from spacy.language import Language

from spacy_elmo.errors import ElmoError
from spacy_elmo.formats import known
from spacy_elmo.pipeline.component import ElmoComponent
from spacy_elmo.pipeline.mix import LEARNED
from spacy_elmo.pipeline.task_weights import task_weights
from spacy_elmo.tools.describe import aligned, describe
from spacy_elmo.tools.describe import table as describe_table

# Settings of the config to show if they exist: earlier versions had fewer.
_SETTINGS = ("frozen", "lr_scale", "layers", "keep_layers", "vectors")
_MODEL_SETTINGS = ("attr", "precision", "device")


def find_pipeline(name: str) -> Path | None:
    """Return the directory of a saved pipeline, or of an installed package of this name; None if there is none."""
    path = Path(name)
    try:
        if path.exists():
            return path if (path / "config.cfg").is_file() else None
        spec = None if known.find(name) or not name.isidentifier() else importlib.util.find_spec(name)
    except (OSError, ValueError):  # too long for a path, or not a module name
        return None
    packages = map(Path, (spec and spec.submodule_search_locations) or ())
    return next((file.parent for package in packages for file in package.glob(f"{name}-*/config.cfg")), None)


def find_bilm(pipeline: str, directory: Path) -> Path:
    """Return the directory of the biLM of a pipeline's `elmo`.

    directory: of the pipeline.

    Raises:
        ElmoError: the pipeline has no `elmo`, or cannot be read.
    """
    try:
        components = spacy.util.load_config(directory / "config.cfg")["components"]
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(pipeline, error) from None
    for name, settings in components.items():
        if settings.get("factory") == "elmo":
            bilm: Path = directory / name / "model"
            return bilm
    raise _without_elmo(pipeline, components)


def describe_pipeline(pipeline: str) -> dict[str, Any]:
    """Load a pipeline and return its name, its components, the settings of its `elmo`, `describe` of the biLM, and
    `task_weights` by component.

    Raises:
        ElmoError: the pipeline cannot be loaded, or nothing in it reads a biLM.
    """
    nlp = _load(pipeline)
    weights = task_weights(nlp)
    elmo = next((name for name, pipe in nlp.components if isinstance(pipe, ElmoComponent)), None)
    if elmo is None and not weights:
        raise _without_elmo(pipeline, nlp.component_names)
    return {
        "name": f"{nlp.meta['lang']}_{nlp.meta['name']}",
        "version": nlp.meta["version"],
        "components": nlp.component_names,
        "elmo": None if elmo is None else _describe_elmo(nlp, elmo),
        "task_weights": {name: [asdict(mix) for mix in mixes] for name, mixes in weights.items()},
    }


def _load(pipeline: str) -> Language:
    try:
        return spacy.load(pipeline)
    except ElmoError:
        raise
    except Exception as error:  # spaCy and thinc raise many kinds if a pipeline is damaged or needs other packages
        raise _unreadable(pipeline, error) from None


def _unreadable(pipeline: str, error: Exception) -> ElmoError:
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return ElmoError(f"{pipeline}: cannot be loaded as a pipeline ({reason.strip()})")


def _without_elmo(pipeline: str, components: Iterable[str]) -> ElmoError:
    return ElmoError(f"{pipeline}: this pipeline has no elmo; its components are {', '.join(components) or 'none'}")


def _describe_elmo(nlp: Language, name: str) -> dict[str, Any]:
    settings = nlp.config["components"][name]
    return {
        "name": name,
        **{setting: settings[setting] for setting in _SETTINGS if setting in settings},
        **{setting: settings["model"][setting] for setting in _MODEL_SETTINGS if setting in settings["model"]},
        "bilm": describe(str(nlp.path / name / "model")),
    }


def table(facts: dict[str, Any]) -> str:
    """Return the facts as readable lines."""
    elmo, weights = facts["elmo"], facts["task_weights"]
    shown = {"pipeline": f"{facts['name']} {facts['version']}", "components": ", ".join(facts["components"])}
    if elmo is not None:
        shown[elmo["name"]] = ", ".join(_settings(elmo))
    for name, mixes in weights.items():
        shown[f"mix of {name}"] = "; ".join(map(_mix, mixes))
    if not weights:
        shown["mixes"] = "none: no component listens to it"
    parts = [aligned(shown)]
    if elmo is not None:
        parts.append(describe_table(elmo["bilm"]))
    return "\n\n".join(parts)


def _settings(elmo: dict[str, Any]) -> Iterator[str]:
    yield "frozen" if elmo["frozen"] else f"fine-tuned (lr_scale = {elmo['lr_scale']})"
    for setting, value in elmo.items():
        if setting not in ("name", "frozen", "lr_scale", "bilm"):
            yield f"{setting} = {json.dumps(value)}"


def _mix(mix: dict[str, Any]) -> str:
    source = "" if mix["upstream"] else " (of its own biLM)"
    if mix["mix"] != LEARNED:
        return f"fixed, {json.dumps(mix['mix'])}{source}"
    if mix["weights"] is None:
        return f"not learned yet{source}"
    return f"{' '.join(f'{weight:.3f}' for weight in mix['weights'])}, gamma {mix['gamma']:.3f}{source}"
