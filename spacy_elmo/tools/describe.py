"""Describes a model (behind `python -m spacy elmo info`)."""

from collections.abc import Mapping
from typing import Any

from spacy_elmo import formats
from spacy_elmo.bilm import BiLM
from spacy_elmo.bilm.characters import Bytes


def describe(model: str) -> dict[str, Any]:
    """Load a model and return its name, format, architecture, sizes, digest and licence.

    Raises:
        ElmoError: the model cannot be read; see `formats.load`.
    """
    opened = formats.open_model(model)
    bilm = opened.bilm()
    lstm = bilm.options.lstm
    return {
        "name": opened.card.get("name", opened.name),
        "format": opened.format,
        "layers": lstm.n_layers,
        "width": bilm.options.width,
        "dim": lstm.dim,
        "projection_dim": lstm.projection_dim,
        "cell_clip": lstm.cell_clip,
        "proj_clip": lstm.proj_clip,
        "use_skip_connections": lstm.use_skip_connections,
        **_describe_embedder(bilm),
        "mixes": opened.mixes,
        "parameters": sum(array.size for _, array in formats.arrays(bilm)),
        "weights_bytes": opened.weights_bytes,
        "digest": opened.digest,
        "license": opened.card.get("license"),
        "description": opened.card.get("description"),
    }


def _describe_embedder(bilm: BiLM) -> dict[str, Any]:
    """Describe what the model reads of a token; for a model of ELMoForManyLangs, its lexicons tell."""
    embedder, lexicons = bilm.options.token_embedder, bilm.lexicons
    cnn = embedder.char_cnn if embedder else bilm.options.char_cnn
    characters, words = (lexicons.characters, lexicons.words) if lexicons else (None, bilm.vocabulary)
    return {
        "filters": [list(pair) for pair in cnn.filters] if cnn else None,
        "activation": cnn.activation if cnn else None,
        "n_highway": cnn.n_highway if cnn else None,
        "max_characters": embedder.max_characters if embedder else cnn and cnn.max_characters_per_token,
        "n_characters": len(characters or Bytes()) if cnn else None,
        "vocabulary": len(words) if words else None,
        "word_dim": embedder.word_dim if embedder else None,
        "hints": lexicons.hints() if lexicons else [],
    }


def table(facts: dict[str, Any]) -> str:
    """Return the facts as readable lines, without those that the model lacks."""
    shown = {
        "name": facts["name"],
        "description": facts["description"],
        "license": facts["license"] or "not stated in a model_card.json next to the weights",
        "format": facts["format"],
        "layers": f"{facts['layers']} LSTM layers, {facts['layers'] + 1} with the token embedding",
        "vectors": f"{facts['width']} wide (2 x {facts['projection_dim']}), LSTM cells {facts['dim']}",
        "clipping": f"cell {facts['cell_clip'] or 'none'}, projection {facts['proj_clip'] or 'none'}",
        "skip connections": "yes" if facts["use_skip_connections"] else "no",
        "input": _input(facts),
        "mix": "; ".join(map(_mix, facts["mixes"])) or None,
        "hint": "; ".join(facts["hints"]) or None,
        "parameters": f"{facts['parameters']:,}",
        "weights": human_size(facts["weights_bytes"]),
        "digest": facts["digest"],
    }
    return aligned(shown)


def aligned(shown: Mapping[str, str | None]) -> str:
    """Return one line per name and value, with the values aligned; leave out names without a value."""
    width = max(map(len, shown))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in shown.items() if value is not None)


def _mix(weights: list[float]) -> str:
    return f"layers = [{', '.join(f'{weight:.4g}' for weight in weights)}]"


def _input(facts: dict[str, Any]) -> str:
    if facts["filters"] is None:
        return f"words, {facts['vocabulary']:,} in the vocabulary"
    filters = " ".join(f"[{width},{number}]" for width, number in facts["filters"])
    highways = "1 highway" if facts["n_highway"] == 1 else f"{facts['n_highway']} highways"
    what = "characters" if facts["word_dim"] is None else f"of {facts['n_characters']:,} characters (code points)"
    words = f"; {facts['vocabulary']:,} words" if facts["word_dim"] else ""
    return f"up to {facts['max_characters']} {what}, filters {filters}, {facts['activation']}, {highways}{words}"


def human_size(n_bytes: int) -> str:
    """Return a size in MB, or in kB if it is small."""
    return f"{n_bytes / 1e6:,.1f} MB" if n_bytes >= 1e5 else f"{n_bytes / 1e3:.1f} kB"
