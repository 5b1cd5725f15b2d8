"""Translate the names of a biLM's variables in TensorFlow to the array names in bilm-tf's HDF5 file.

An array has the same layout in both, so only the names change.
"""

import re
from collections.abc import Collection

from spacy_elmo.errors import WeightsError
from spacy_elmo.support.messages import listed, shown

_SAME = (
    "char_embed",
    "CNN/W_cnn_{i}",
    "CNN/b_cnn_{i}",
    "CNN_high_{i}/W_carry",
    "CNN_high_{i}/b_carry",
    "CNN_high_{i}/W_transform",
    "CNN_high_{i}/b_transform",
    "CNN_proj/W_proj",
    "CNN_proj/b_proj",
    "embedding",
    "softmax/W",
    "softmax/b",
)
_CELLS = (
    "RNN_{d}/rnn/multi_rnn_cell/cell_{l}/lstm_cell",  # bilm-tf's training graph
    "RNN_{d}/rnn/lstm_cell",  # the same with one layer
    "RNN_{d}/RNN/MultiRNNCell/Cell{l}/rnn/lstm_cell",  # bilm-tf's inference graph, used in TF-Hub modules
)
_IN_CELL = {"kernel": "W_0", "bias": "B", "projection/kernel": "W_P_0"}

# Name of a variable after the model's scope, and its name in the HDF5 file.
_TABLE = (
    *((name, name) for name in _SAME),
    *(
        (f"{cell}/{variable}", f"RNN_{{d}}/RNN/MultiRNNCell/Cell{{l}}/LSTMCell/{dataset}")
        for cell in _CELLS
        for variable, dataset in _IN_CELL.items()
    ),
)
_PARTS = {r"\{i\}": r"(?P<i>\d+)", r"\{d\}": r"(?P<d>[01])", r"\{l\}": r"(?P<l>\d+)"}

# The scope is `lm` in training and `bilm` in inference. It may be inside the scope of a larger model.
_SCOPED = re.compile(r"(?P<scope>(?:[^/]+/)*?(?:lm|bilm)/)(?P<rest>.+)")
_ONE_WAY = re.compile(r"rnn/.*lstm_cell/(kernel|bias)")


# Weights and scale of a layer mix: in Google's modules, and from bilm-tf's `weight_layers`.
_MIXES = ((r"(.*/)?aggregation/weights", r"\1aggregation/scaling"), (r"(.*)_ELMo_W", r"\1_ELMo_gamma"))


def by_hdf5_name(variables: Collection[str], source: str) -> tuple[dict[str, str], str]:
    """Return the biLM's variables by their names in bilm-tf's HDF5 file, and their scope.

    All other variables are left out: of optimizers, counters, kept states or another model.

    source: name of the model in errors.

    Raises:
        WeightsError: there is no biLM among them, there are several, or it has only one direction.
    """
    found: dict[str, dict[str, str]] = {}
    for variable in variables:
        if (match := _SCOPED.fullmatch(variable)) and (name := _translate(match["rest"])):
            found.setdefault(match["scope"], {})[name] = variable
        elif match and _ONE_WAY.fullmatch(match["rest"]):
            raise WeightsError(f"{source}: a language model with one direction ({shown(variable)}); ELMo needs both")
    if len(found) > 1:
        raise WeightsError(f"{source}: several biLMs, {listed(found)}; save only one of them")
    if not found:
        seen = listed(sorted(variables)[:5]) or "none"
        raise WeightsError(f"{source}: not an ELMo: its variables contain no bilm-tf biLM (they are {seen}, ...)")
    return next((names, scope) for scope, names in found.items())


def mixes(variables: Collection[str]) -> list[tuple[str, str]]:
    """Return the names of the weights and scale of each layer mix."""
    pairs = [
        (variable, match.expand(scale))
        for weights, scale in _MIXES
        for variable in variables
        if (match := re.fullmatch(weights, variable))
    ]
    return [(weights, scale) for weights, scale in pairs if scale in variables]


def _translate(variable: str) -> str | None:
    for pattern, name in _PATTERNS:
        if match := pattern.fullmatch(variable):
            return name.format(**{"l": "0", **match.groupdict()})
    return None


def _pattern(template: str) -> re.Pattern[str]:
    pattern = re.escape(template)
    for part, expression in _PARTS.items():
        pattern = pattern.replace(part, expression)
    return re.compile(pattern)


_PATTERNS = [(_pattern(variable), name) for variable, name in _TABLE]
