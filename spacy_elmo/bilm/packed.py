"""Frozen weights in, matrix products that run near the speed of the processor out: oneDNN, with the weights laid out
once as it reads them best.

A time step of an LSTM multiplies a few dozen rows by a large matrix. There a general product spends its time reading
the matrix in the wrong order (35 to 65% of the speed of a large product at 32 rows, a packed one 75 to 120%).
"""

import platform
import threading
from collections.abc import Callable, Iterable
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor

# For fewer rows a plain product is as fast: there, reading the weights is all there is to do.
MIN_PACKED_ROWS = 3

T = TypeVar("T")


class PackedProduct:
    """`x @ weight + bias`, then the activation or the clip to ±`limit`, in one pass over the result.

    weight: `[n_in, n_out]`; bias: `[n_out]`. Both are copied.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        activation: Literal["none", "relu", "sigmoid"] = "none",
        limit: float | None = None,
    ) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().t().contiguous())
        self._bias = None if bias is None else bias.detach().clone()
        self._how = (activation, [], "") if limit is None else ("hardtanh", [-limit, limit], "")

    def __call__(self, x: Tensor) -> Tensor:
        """x: `[rows, n_in]`, contiguous. Returns a new `[rows, n_out]`."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, *self._how)
        return product


class Packed(Generic[T]):
    """What is packed from the parameters of a module, kept for as long as these stay as they are.

    Never copied or pickled with its content, and no part of a state_dict.
    """

    def __init__(self) -> None:
        self._version: object = None
        self._content: T | None = None
        self._lock = threading.Lock()

    def get(self, x: Tensor, parameters: Iterable[Tensor], pack: Callable[[], T]) -> T | None:
        """Return what `pack` makes of the parameters, or None where a plain product is to be used: with gradients,
        for few rows, for parameters that may change, or on another device or processor.

        x: `[rows, n_in]`, what is to be multiplied. A call where the parameters may change forgets the content.
        """
        version = version_of(parameters)
        with self._lock:
            if version != self._version:
                self._content, self._version = None, version
            if version is None or torch.is_grad_enabled() or len(x) < MIN_PACKED_ROWS or not _can_pack(x):
                return None
            if self._content is None:
                self._content = pack()
            return self._content

    def __reduce__(self) -> "tuple[type[Packed[T]], tuple[()]]":
        return Packed, ()


def version_of(parameters: Iterable[Tensor]) -> tuple[tuple[int, int], ...] | None:
    """What tells one state of frozen parameters from another; None where nothing would tell.

    Fused optimizers change parameters without a trace, so those that require gradients have no version.
    """
    parameters = list(parameters)
    if any(parameter.requires_grad or parameter.is_inference() for parameter in parameters):
        return None
    return tuple((parameter.data_ptr(), parameter._version) for parameter in parameters)


def _can_pack(x: Tensor) -> bool:
    return _is_available and x.device.type == "cpu" and x.dtype == torch.float32


_is_available = (
    platform.machine() in ("x86_64", "AMD64")
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
