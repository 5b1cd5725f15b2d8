"""Derive `BiLMOptions` from the shapes of a biLM's variables and facts of its graph, if there is no options.json."""

from collections.abc import Mapping
from itertools import count, takewhile
from typing import Any

from spacy_elmo.bilm import BiLMOptions
from spacy_elmo.errors import OptionsError
from spacy_elmo.formats.tensorflow.graph import Facts

Shapes = Mapping[str, tuple[int, ...]]

UNKNOWABLE = "the weights lack cell_clip, proj_clip, use_skip_connections, activation and max_characters_per_token"


def derive(shapes: Shapes, facts: Facts, source: str) -> BiLMOptions:
    """Return the options.

    shapes: of the variables, by their names in bilm-tf's HDF5 file.
    source: name of the model in errors.

    Raises:
        OptionsError: the shapes and facts are not those of a biLM.
    """
    cells = "RNN_0/RNN/MultiRNNCell/Cell{}/LSTMCell/W_0"
    projected, gates = _shape(shapes, cells.format(0), 2, source)
    data: dict[str, Any] = {
        "lstm": {
            "cell_clip": facts.cell_clip,
            "dim": gates // 4,
            "n_layers": _count(shapes, cells),
            "proj_clip": facts.proj_clip,
            "projection_dim": projected // 2,
            "use_skip_connections": facts.use_skip_connections,
        }
    }
    if "embedding" not in shapes:
        data["char_cnn"] = _char_cnn(shapes, facts, source)
    return BiLMOptions.from_dict(data, f"{source}: options from its variables and graph")


def _char_cnn(shapes: Shapes, facts: Facts, source: str) -> dict[str, Any]:
    """Derive the character CNN. Maxima are taken over all windows that fit: longest word - width + 1."""
    convolutions = [
        _shape(shapes, f"CNN/W_cnn_{number}", 4, source) for number in range(_count(shapes, "CNN/W_cnn_{}"))
    ]
    longest = {facts.pooled.get(i, 0) + width - 1 for i, (_, width, _, _) in enumerate(convolutions)}
    if len(longest) != 1 or facts.activation is None:
        raise OptionsError(f"{source}: the character CNN of graph and variables differs; do both belong together?")
    return {
        "activation": facts.activation,
        "embedding": {"dim": convolutions[0][2]},
        "filters": [[width, number] for _, width, _, number in convolutions],
        "max_characters_per_token": longest.pop(),
        "n_highway": _count(shapes, "CNN_high_{}/W_carry"),
    }


def _count(shapes: Shapes, template: str) -> int:
    return sum(1 for _ in takewhile(lambda i: template.format(i) in shapes, count()))


def _shape(shapes: Shapes, name: str, n_dimensions: int, source: str) -> tuple[int, ...]:
    shape = shapes.get(name, ())
    if len(shape) != n_dimensions or not all(shape):
        found = f"has the shape {list(shape)}" if name in shapes else "is missing"
        raise OptionsError(f"{source}: {name} {found}, so the architecture cannot be read from the variables")
    return shape
