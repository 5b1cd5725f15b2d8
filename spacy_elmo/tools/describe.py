"""A model in, facts about it out (behind `python -m spacy elmo info`)."""

from typing import Any

from spacy_elmo import formats
from spacy_elmo.bilm.characters import N_CHARACTERS


def describe(model: str) -> dict[str, Any]:
    """Load a model and return its name, format, architecture, sizes, digest and licence.

    Raises:
        ElmoError: the model cannot be read; see `formats.load`.
    """
    opened = formats.open_model(model)
    bilm = opened.bilm()
    lstm, cnn = bilm.options.lstm, bilm.options.char_cnn
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
        "filters": [list(pair) for pair in cnn.filters] if cnn else None,
        "activation": cnn.activation if cnn else None,
        "n_highway": cnn.n_highway if cnn else None,
        "max_characters": cnn.max_characters_per_token if cnn else None,
        "n_characters": N_CHARACTERS if cnn else None,
        "vocabulary": len(bilm.vocabulary) if bilm.vocabulary else None,
        "parameters": sum(array.size for _, array in formats.arrays(bilm)),
        "weights_bytes": opened.weights_bytes,
        "digest": opened.digest,
        "license": opened.card.get("license"),
        "description": opened.card.get("description"),
    }


def table(facts: dict[str, Any]) -> str:
    """The facts as lines to read, those that a model has none of left out."""
    shown = {
        "name": facts["name"],
        "description": facts["description"],
        "license": facts["license"] or "not stated in a model_card.json beside the weights",
        "format": facts["format"],
        "layers": f"{facts['layers']} LSTM layers, {facts['layers'] + 1} with the token embedding",
        "vectors": f"{facts['width']} wide (2 x {facts['projection_dim']}), LSTM cells {facts['dim']}",
        "clipping": f"cell {facts['cell_clip'] or 'none'}, projection {facts['proj_clip'] or 'none'}",
        "skip connections": "yes" if facts["use_skip_connections"] else "no",
        "input": _input(facts),
        "parameters": f"{facts['parameters']:,}",
        "weights": human_size(facts["weights_bytes"]),
        "digest": facts["digest"],
    }
    width = max(map(len, shown))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in shown.items() if value is not None)


def _input(facts: dict[str, Any]) -> str:
    if facts["filters"] is None:
        return f"words, {facts['vocabulary']:,} in the vocabulary"
    filters = " ".join(f"[{width},{number}]" for width, number in facts["filters"])
    highways = "1 highway" if facts["n_highway"] == 1 else f"{facts['n_highway']} highways"
    return f"up to {facts['max_characters']} characters, filters {filters}, {facts['activation']}, {highways}"


def human_size(n_bytes: int) -> str:
    """A size in MB, a small one in kB."""
    return f"{n_bytes / 1e6:,.1f} MB" if n_bytes >= 1e5 else f"{n_bytes / 1e3:.1f} kB"
