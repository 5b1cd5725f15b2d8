"""Fast matrix products with frozen weights. The weights are packed once for oneDNN or FBGEMM, in full or reduced
precision.

A general product of a few dozen rows spends its time reading the matrix in the wrong order. At 32 rows it reaches 35 to
65% of the speed of a large product, and a packed one reaches 75 to 120%.
"""

import os
import platform
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from spacy_elmo.errors import ElmoError

Precision = Literal["float32", "float16", "int8"]
Activation = Literal["none", "relu", "sigmoid"]

# oneDNN makes and keeps a kernel for each number of rows, which takes longer than most products. So we pad rows, and
# use at most sixteen numbers between n and 2 n. From two rows on, the bits of a row do not depend on their number.
_ROW_UNIT, _MIN_ROWS = 8, 2


class Product(ABC):
    """Computes `x @ weight + bias`, then the activation or the clip to ±`limit`.

    weight: `[n_in, n_out]`; bias: `[n_out]`. Both are copied.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, activation: Activation = "none", limit: float | None = None
    ) -> None:
        self._weight = self._pack(weight.detach().float().t())
        self._bias = None if bias is None else bias.detach().float().clone()
        self._activation, self._limit = activation, limit

    @abstractmethod
    def _pack(self, weight: Tensor) -> Any:
        """Pack the weight: `[n_out, n_in]` float32, not contiguous."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """x: `[rows, n_in]` float32, contiguous. Returns a new `[rows, n_out]`; no row depends on the other rows."""

    def _activate(self, product: Tensor) -> Tensor:
        """Apply the activation or clip in place, if the product itself does not do it."""
        if self._limit is not None:
            return product.clamp_(-self._limit, self._limit)
        return product if self._activation == "none" else _IN_PLACE[self._activation](product)


class Float32Product(Product):
    """A product with bias and activation in one pass over the result (oneDNN)."""

    def _pack(self, weight: Tensor) -> Tensor:
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
        return packed

    def __call__(self, x: Tensor) -> Tensor:
        """See `Product`."""
        rows, x = len(x), _fill_up(x)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, self._activation, [], "")
        product = product[:rows]
        return product if self._limit is None else self._activate(product)  # oneDNN's own clip turns NaN into numbers


class Float16Product(Product):
    """Weights in float16, sums in float32 (FBGEMM)."""

    def _pack(self, weight: Tensor) -> Any:
        return torch.ops.quantized.linear_prepack_fp16(weight.contiguous(), None)

    def __call__(self, x: Tensor) -> Tensor:
        """See `Product`."""
        product: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self._weight)
        return self._activate(product if self._bias is None else product.add_(self._bias))


def _has_vnni() -> bool:
    """Whether oneDNN adds products of 8 bits in 32 bits. Its environment variable can turn this off."""
    is_limited = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in ("SSE41", "AVX", "AVX2", "AVX512_CORE")
    return not is_limited and bool(getattr(torch.cpu, "_is_vnni_supported", bool)())


class Int8Product(Product):
    """Weights in 8 bits with a scale per column, inputs with a scale per row, sums in 32 bits (oneDNN).

    With one scale for all rows, as in torch's dynamic quantization, a row would depend on the other rows.
    """

    # The largest weight as an integer. Processors without VNNI add pairs of 8-bit products in 16 bits, which saturate.
    _LARGEST = 127 if _has_vnni() else 63
    # Shifts to unsigned integers and rounds: oneDNN is only fast with unsigned inputs.
    _HALF_UP = torch.tensor(128.5, dtype=torch.float32, device="cpu")

    def _pack(self, weight: Tensor) -> Tensor:
        weight = weight.contiguous()
        self._scales = _largest(weight) / self._LARGEST
        self._zeros = weight.new_zeros(len(weight), dtype=torch.int32)
        packed: Tensor = torch.ops.onednn.qlinear_prepack((weight / self._scales).round_().to(torch.int8), None)
        self._scales = self._scales[:, 0]
        return packed

    def __call__(self, x: Tensor) -> Tensor:
        """See `Product`."""
        rows, x = len(x), _fill_up(x)
        largest = _largest(x)
        quantized = torch.addcmul(self._HALF_UP, x, 127 / largest).to(torch.uint8)
        weight = (self._weight, self._scales, self._zeros, None)
        product: Tensor = torch.ops.onednn.qlinear_pointwise(quantized, 1 / 127, 128, *weight, *_TO_FLOAT32)
        product = product.mul_(largest)[:rows]
        return self._activate(product if self._bias is None else product.add_(self._bias))


_TO_FLOAT32: Any = (1.0, 0, torch.float32, "none", [], "")  # oneDNN's output settings


def _fill_up(x: Tensor) -> Tensor:
    """Pad `x` with rows of zeros to a number of rows that oneDNN may see."""
    rows = len(x)
    unit = max(_ROW_UNIT, 2 ** (rows.bit_length() - 5))
    missing = -rows % unit if rows > unit else max(0, _MIN_ROWS - rows)
    return functional.pad(x, (0, 0, 0, missing)) if missing else x


def _largest(x: Tensor) -> Tensor:
    """Return the largest absolute value in each row, `[rows, 1]`, never zero."""
    largest: Tensor = torch.linalg.vector_norm(x, float("inf"), dim=1, keepdim=True)
    return largest.clamp_min_(torch.finfo(torch.float32).tiny)


_IN_PLACE = {"relu": torch.relu_, "sigmoid": torch.sigmoid_}
PRODUCTS: dict[Precision, type[Product]] = {
    "float32": Float32Product,
    "float16": Float16Product,
    "int8": Int8Product,
}


@dataclass(frozen=True)
class DirectionProducts:
    """The products of one direction of an LSTM layer.

    inputs, hidden: products of the inputs, with the biases, and of the hidden state. Their sum gives the gates.
    projection: with the clip; None if the layer has no projection.
    """

    inputs: Product
    hidden: Product
    projection: Product | None


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which `x` is multiplied: that of autocast if it is on, otherwise its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def check_precision(precision: str, device: torch.device) -> None:
    """Raise an ElmoError if this precision is unknown or not supported here."""
    if precision not in get_args(Precision):
        known = ", ".join(map(repr, get_args(Precision)))
        raise ElmoError(f"precision is {precision!r}, expected one of {known}")
    if precision == "int8" and not (device.type == "cpu" and _HAS["int8"]):
        raise ElmoError('precision = "int8" needs an x86 processor and device = "cpu"; use "float16" or "float32"')


def reasons_against_packing(x: Tensor, precision: Precision) -> list[str]:
    """Return why packed products cannot multiply `x`; empty if they can."""
    reasons = reasons_against_prediction(x)
    if not _HAS[precision]:
        reasons.append(f"torch has no packed products in {precision} on this processor")
    return reasons


def reasons_against_prediction(x: Tensor) -> list[str]:
    """Return why packed weights cannot be used for `x`: they need float32 on a CPU, without gradients. Empty if they
    can."""
    reasons = []
    if x.device.type != "cpu":
        reasons.append(f"it is for a CPU, but the weights are on {x.device}")
    if x.dtype != torch.float32:
        reasons.append(f"it is for inputs in float32, but these are in {str(x.dtype).removeprefix('torch.')}")
    if torch.is_grad_enabled():
        reasons.append("it computes no gradients, but gradients are on (torch.inference_mode() turns them off)")
    return reasons


def _find_products() -> dict[Precision, bool]:
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    has_onednn = is_x86 and torch.backends.mkldnn.is_available()
    return {
        "float32": has_onednn and hasattr(torch.ops.mkldnn, "_linear_pointwise"),
        "float16": is_x86 and torch.backends.quantized.engine in ("x86", "fbgemm"),
        "int8": has_onednn and hasattr(torch.ops.onednn, "qlinear_pointwise"),
    }


_HAS = _find_products()
