"""All layers in, one vector per token out: the mix for `token.vector`, and the mix that each listener learns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from thinc.api import Model
from torch import Tensor

from spacy_elmo.bilm import BiLMOptions
from spacy_elmo.bilm.scalar_mix import LAYER_NORM_EPSILON
from spacy_elmo.errors import ElmoError
from spacy_elmo.pipeline.rows import Array, columns, count_outputs, mixing_matrix
from spacy_elmo.support.layers import parse_mix

Layers = str | int | Sequence[float]
NAMED = ("mean", "top", "concat")
LEARNED = "learned"
NODE = "elmo_scalar_mix"  # name of the layer that `scalar_mix` makes


@dataclass(frozen=True)
class FixedMix:
    """A mix that is not learned.

    layers: "mean" of all layers, "top" layer, "concat" of all layers side by side, the index of one layer (0 is the
        token embedding, negative numbers count from the top), or one weight per layer: the sum of weight times layer,
        with the weights as they are.
    """

    layers: Layers

    def __post_init__(self) -> None:
        parsed = parse_mix(self.layers, NAMED, setting="elmo: layers")
        object.__setattr__(self, "layers", parsed)  # dataclasses set fields of a frozen class this way

    def check(self, n_outputs: int, setting: str = "layers") -> None:
        """Raise an ElmoError if a biLM with `n_outputs` layers (counting the embedding) cannot be mixed this way."""
        parse_mix(self.layers, NAMED, n_outputs, setting=f"elmo: {setting}")

    def weights(self, n_outputs: int) -> list[float]:
        """Return the weight of each layer; "concat" has none."""
        if self.layers == "mean":
            return [1 / n_outputs] * n_outputs
        if isinstance(self.layers, str | int):
            index = n_outputs - 1 if isinstance(self.layers, str) else self.layers % n_outputs
            return [float(number == index) for number in range(n_outputs)]
        return [float(weight) for weight in self.layers]

    def __call__(self, layers: Tensor) -> Tensor:
        """layers: `[n_layers + 1, n_tokens, layer_width]`. Returns `[n_tokens, width]`."""
        if self.layers == "mean":
            return layers.mean(dim=0)
        if self.layers == "concat":
            return layers.transpose(0, 1).flatten(start_dim=1)
        if self.layers == "top":
            return layers[-1]
        if isinstance(self.layers, int):
            return layers[self.layers]
        weights = torch.tensor(self.layers, dtype=layers.dtype, device=layers.device)
        mixed: Tensor = torch.tensordot(weights, layers, dims=1)
        return mixed

    def of_rows(self, rows: Array, layer_width: int) -> Array:
        """The same for rows (see `rows.py`), `[n_tokens, row_width]`. The result is a new array."""
        half = layer_width // 2
        if self.layers == "concat":
            return np.concatenate([rows[:, :half], rows], axis=1)
        n_parts = rows.shape[1] // half
        matrix = mixing_matrix(np, self.weights((n_parts + 1) // 2))
        mixed: Array = np.matmul(matrix, rows.reshape(len(rows), n_parts, half)).reshape(len(rows), layer_width)
        return mixed


def mixed_width(mix: Layers, options: BiLMOptions) -> int:
    """Return the width of a mix of a biLM's layers."""
    return options.width * (options.n_outputs if mix == "concat" else 1)


# The mix of a listener: plain thinc parameters, so that averages and `use_params` include them


def scalar_mix(
    width: int,
    mix: Layers = LEARNED,
    *,
    dropout: float = 0.0,
    grad_factor: float = 1.0,
    do_layer_norm: bool = False,
    l2_coef: float = 0.0,
    initial_weights: Sequence[float] | None = None,
    initial_gamma: float = 1.0,
) -> Model[list[Array], list[Array]]:
    """Make the layer that turns rows (see `rows.py`) of each Doc, `[n_tokens, row_width]`, into `[n_tokens, width]`.

    Arguments as in `spacy-elmo.ElmoListener.v1`.

    Raises:
        ElmoError: a setting is wrong.
    """
    parsed = parse_mix(mix, (LEARNED, *NAMED), setting="elmo: mix")
    fixed = None if parsed == LEARNED else FixedMix(parsed)
    if not 0 <= dropout < 1:
        raise ElmoError(f"elmo: dropout is {dropout}, expected at least 0 and less than 1")
    if l2_coef < 0:
        raise ElmoError(f"elmo: l2_coef is {l2_coef}, expected at least 0")
    if fixed is not None and (initial_weights is not None or initial_gamma != 1.0 or l2_coef):
        raise ElmoError(
            f"elmo: initial_weights, initial_gamma and l2_coef are for a learned mix, but mix is {mix!r}; remove them, "
            'or set mix = "learned"'
        )
    return Model(
        NODE,
        _forward,
        init=_init,
        params={"s": None, "gamma": None},
        dims={"nO": width},
        attrs={
            "fixed": fixed,
            "dropout": dropout,
            "grad_factor": grad_factor,
            "do_layer_norm": do_layer_norm,
            "l2_coef": l2_coef,
            "initial_weights": initial_weights,
            "initial_gamma": initial_gamma,
        },
    )


def mix_weights(model: Model[Any, Any]) -> tuple[list[float], float]:
    """Return what a learned mix has learned: the weights of the layers, which sum to 1, and gamma."""
    s, gamma = model.get_param("s"), model.get_param("gamma")
    return [float(weight) for weight in model.ops.softmax(s)], float(gamma[0])


def _init(model: Model[Any, Any], X: list[Array] | None = None, Y: Any = None) -> None:  # noqa: N803 (thinc's names)
    if model.attrs["fixed"] is not None:
        return
    initial = model.attrs["initial_weights"]
    if X:
        n_outputs, _ = _shape(model, X)
        if initial is not None and len(initial) != n_outputs:
            raise ElmoError(
                f"elmo: initial_weights has {len(initial)} weights, but the biLM has {n_outputs} layers, counting the "
                "token embedding"
            )
    elif initial is not None:
        n_outputs = len(initial)
    elif model.has_param("s"):
        n_outputs = len(model.get_param("s"))
    else:
        return
    model.set_param("s", model.ops.asarray1f([0.0] * n_outputs if initial is None else list(initial)))
    model.set_param("gamma", model.ops.asarray1f([model.attrs["initial_gamma"]]))


def _shape(model: Model[Any, Any], rows: list[Array]) -> tuple[int, int]:
    """Return number and width of the layers in rows."""
    found, width = rows[0].shape[1], model.get_dim("nO")
    fixed = model.attrs["fixed"]
    if fixed is not None and fixed.layers == "concat":
        half = width - found
        n_outputs = count_outputs(found, 2 * half) if half > 0 else None
        fits, width = n_outputs is not None and n_outputs * 2 * half == width, 2 * half
    else:
        n_outputs = count_outputs(found, width)
        fits = n_outputs is not None
    if n_outputs is None or not fits:
        raise ElmoError(
            f"elmo: width is {model.get_dim('nO')}, which does not fit the biLM; expected 2 x its projection_dim. For "
            'mix = "concat", multiply that by the number of layers, counting the token embedding'
        )
    if fixed is not None:
        fixed.check(n_outputs, "mix")
    return n_outputs, width


def _forward(
    model: Model[list[Array], list[Array]], rows: list[Array], is_train: bool
) -> tuple[list[Array], Callable[[list[Array]], list[Array]]]:
    if not rows:
        return [], lambda d_mixed: d_mixed
    ops, attrs = model.ops, model.attrs
    n_outputs, width = _shape(model, rows)
    lengths = ops.asarray1i([len(doc_rows) for doc_rows in rows])
    joined = ops.xp.concatenate(rows)
    backprop_norm = None
    if attrs["do_layer_norm"]:
        joined, backprop_norm = _normalize(ops.xp, joined, [len(doc_rows) for doc_rows in rows], width)
    fixed: FixedMix | None = attrs["fixed"]
    if fixed is not None and fixed.layers == "concat":
        mixed, backprop_mix = _concat(ops.xp, joined, width)
    else:
        mixed, backprop_mix = _weigh(model, fixed, joined, n_outputs, width)
    mask = ops.get_dropout_mask(mixed.shape, attrs["dropout"]) if is_train and attrs["dropout"] else None

    def backprop(d_mixed: list[Array]) -> list[Array]:
        d_joined = ops.xp.concatenate(d_mixed)
        d_joined = backprop_mix(d_joined if mask is None else d_joined * mask)
        if backprop_norm is not None:
            d_joined = backprop_norm(d_joined)
        result: list[Array] = ops.unflatten(d_joined * attrs["grad_factor"], lengths)
        return result

    return ops.unflatten(mixed if mask is None else mixed * mask, lengths), backprop


Backprop = Callable[[Any], Any]


def _weigh(
    model: Model[Any, Any], fixed: FixedMix | None, joined: Any, n_outputs: int, width: int
) -> tuple[Any, Backprop]:
    """`gamma * sum_j softmax(s)_j h_j`, or the sum with fixed weights."""
    xp = model.ops.xp
    if fixed is not None:
        weights, gamma = xp.asarray(fixed.weights(n_outputs), dtype="f"), xp.float32(1)
    else:
        if not model.has_param("s") or len(model.get_param("s")) != n_outputs:
            raise ElmoError(
                f"elmo: the learned mix has no weights for {n_outputs} layers; initialize the pipeline "
                "(nlp.initialize), or load the biLM that it was trained with"
            )
        weights, gamma = model.ops.softmax(model.get_param("s")), model.get_param("gamma")[0]
    parts = joined.reshape(len(joined), 2 * n_outputs - 1, width // 2)
    matrix = gamma * mixing_matrix(xp, weights)

    def backprop(d_mixed: Any) -> Any:
        d_halves = d_mixed.reshape(len(parts), 2, width // 2)
        if fixed is None:
            d_matrix = xp.matmul(d_halves, parts.transpose(0, 2, 1)).sum(axis=0)
            d_weights = xp.concatenate([d_matrix[:, :1].sum(axis=0), d_matrix[0, 1::2] + d_matrix[1, 2::2]])
            _learn(model, weights, gamma, gamma * d_weights, (weights * d_weights).sum())
        return xp.matmul(matrix.T, d_halves).reshape(joined.shape)

    return xp.matmul(matrix, parts).reshape(len(joined), width), backprop


def _learn(model: Model[Any, Any], weights: Any, gamma: Any, d_weights: Any, d_gamma: Any) -> None:
    """Add to the gradients of s and gamma. The pull on s is bilm-tf's, the gradient of `l2_coef * sum(s ** 2)`."""
    d_s = model.ops.backprop_softmax(weights, d_weights)
    model.inc_grad("s", d_s + 2 * model.attrs["l2_coef"] * model.get_param("s"))
    model.inc_grad("gamma", model.ops.asarray1f([d_gamma]))


def _concat(xp: Any, joined: Any, width: int) -> tuple[Any, Backprop]:
    """Put all layers side by side, the embedding twice."""
    half = width // 2

    def backprop(d_mixed: Any) -> Any:
        return xp.concatenate([d_mixed[:, :half] + d_mixed[:, half:width], d_mixed[:, width:]], axis=1)

    return xp.concatenate([joined[:, :half], joined], axis=1), backprop


def _normalize(xp: Any, joined: Any, lengths: list[int], width: int) -> tuple[Any, Backprop]:
    """Normalize each layer of each Doc to mean 0 and variance 1 over its tokens and dimensions, without whitespace.

    The original tools compute the statistics over the whole batch (`spacy_elmo.bilm.scalar_mix`), so the same text gets
    other vectors in another batch.
    """
    normal, deviations = joined.copy(), []
    is_read = joined.any(axis=1, keepdims=True)
    ends = np.cumsum(lengths)
    blocks = [
        (slice(int(end) - length, int(end)), layer)
        for end, length in zip(ends, lengths, strict=True)
        for layer in columns(joined.shape[1], width)
    ]
    for block in blocks:
        mask = is_read[block[0]]
        count = max(int(mask.sum()), 1) * (block[1].stop - block[1].start)
        centered = (joined[block] - joined[block].sum() / count) * mask
        deviations.append(xp.sqrt((centered**2).sum() / count + LAYER_NORM_EPSILON))
        normal[block] = centered / deviations[-1]

    def backprop(d_normal: Any) -> Any:
        d_joined = d_normal * is_read
        for block, deviation in zip(blocks, deviations, strict=True):
            gradient, value, mask = d_joined[block], normal[block], is_read[block[0]]
            count = max(int(mask.sum()), 1) * (block[1].stop - block[1].start)
            centered = gradient - gradient.sum() / count - value * ((gradient * value).sum() / count)
            d_joined[block] = centered * mask / deviation
        return d_joined

    return normal, backprop
