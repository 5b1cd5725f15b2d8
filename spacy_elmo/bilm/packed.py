"""Frozen weights in, matrix products that run near the speed of the processor out: weights laid out once as oneDNN
and FBGEMM read them best, in full or reduced precision.

A time step of an LSTM multiplies a few dozen rows by a large matrix. There a general product spends its time reading
the matrix in the wrong order (35 to 65% of the speed of a large product at 32 rows, a packed one 75 to 120%).
"""

import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Generic, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from spacy_elmo.bilm.threads import ForkSafeLock
from spacy_elmo.errors import ElmoError

Precision = Literal["float32", "float16", "int8"]
Activation = Literal["none", "relu", "sigmoid"]

# oneDNN makes and keeps a kernel for each number of rows it meets, which takes longer than most products: so it meets
# few, at most sixteen between a number and twice that. From two rows on, a row has the same bits whatever their number.
_ROW_UNIT, _MIN_ROWS = 8, 2
# Bytes of a module's weights. The highways of the published 2,048 filters have more, the LSTMs of small less.
_MAX_SHARED = 2**25

T = TypeVar("T")


class Product(ABC):
    """`x @ weight + bias`, then the activation or the clip to ±`limit`.

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
        """weight: `[n_out, n_in]` float32, not contiguous."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """x: `[rows, n_in]` float32, contiguous. Returns a new `[rows, n_out]`; a row is the same in any company."""

    def _activate(self, product: Tensor) -> Tensor:
        """In place, where the product itself does not do it."""
        if self._limit is not None:
            return product.clamp_(-self._limit, self._limit)
        return product if self._activation == "none" else _IN_PLACE[self._activation](product)


class Float32Product(Product):
    """All of it in one pass over the result (oneDNN)."""

    def _pack(self, weight: Tensor) -> Tensor:
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
        return packed

    def __call__(self, x: Tensor) -> Tensor:
        """As `Product`."""
        rows, x = len(x), _fill_up(x)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, self._activation, [], "")
        product = product[:rows]
        return product if self._limit is None else self._activate(product)  # oneDNN's own clip makes numbers of NaN


class Float16Product(Product):
    """Weights in float16, sums in float32 (FBGEMM)."""

    def _pack(self, weight: Tensor) -> Any:
        return torch.ops.quantized.linear_prepack_fp16(weight.contiguous(), None)

    def __call__(self, x: Tensor) -> Tensor:
        """As `Product`."""
        product: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self._weight)
        return self._activate(product if self._bias is None else product.add_(self._bias))


class Int8Product(Product):
    """Weights in 8 bits with a scale for each column, inputs with a scale for each row, sums in 32 bits (oneDNN).

    A scale for all rows, as torch's dynamic quantization has it, would make a row depend on its company.
    """

    # The largest weight in integers. Processors without VNNI add products of 8 bits in pairs, in 16 bits, and cut off.
    _LARGEST = 127 if getattr(torch.cpu, "_is_vnni_supported", bool)() else 63
    # To unsigned integers, for which alone oneDNN is fast, and rounded.
    _HALF_UP = torch.tensor(128.5, dtype=torch.float32, device="cpu")

    def _pack(self, weight: Tensor) -> Tensor:
        weight = weight.contiguous()
        self._scales = _largest(weight) / self._LARGEST
        self._zeros = weight.new_zeros(len(weight), dtype=torch.int32)
        packed: Tensor = torch.ops.onednn.qlinear_prepack((weight / self._scales).round_().to(torch.int8), None)
        self._scales = self._scales[:, 0]
        return packed

    def __call__(self, x: Tensor) -> Tensor:
        """As `Product`."""
        rows, x = len(x), _fill_up(x)
        largest = _largest(x)
        quantized = torch.addcmul(self._HALF_UP, x, 127 / largest).to(torch.uint8)
        weight = (self._weight, self._scales, self._zeros, None)
        product: Tensor = torch.ops.onednn.qlinear_pointwise(quantized, 1 / 127, 128, *weight, *_TO_FLOAT32)
        product = product.mul_(largest)[:rows]
        return self._activate(product if self._bias is None else product.add_(self._bias))


_TO_FLOAT32: Any = (1.0, 0, torch.float32, "none", [], "")  # what oneDNN is to make of the sums


def _fill_up(x: Tensor) -> Tensor:
    """`x` with rows of zeros below it, where oneDNN is to meet no such number of rows."""
    rows = len(x)
    unit = max(_ROW_UNIT, 2 ** (rows.bit_length() - 5))
    missing = -rows % unit if rows > unit else max(0, _MIN_ROWS - rows)
    return functional.pad(x, (0, 0, 0, missing)) if missing else x


def _largest(x: Tensor) -> Tensor:
    """The largest size in each row, `[rows, 1]`, never zero."""
    largest: Tensor = torch.linalg.vector_norm(x, float("inf"), dim=1, keepdim=True)
    return largest.clamp_min_(torch.finfo(torch.float32).tiny)


_IN_PLACE = {"relu": torch.relu_, "sigmoid": torch.sigmoid_}
_PRODUCTS: dict[Precision, type[Product]] = {
    "float32": Float32Product,
    "float16": Float16Product,
    "int8": Int8Product,
}


class Packed:
    """What is packed from parameters, by names, kept for as long as these stay as they are.

    Never copied or pickled with its content, and no part of a state_dict.
    """

    def __init__(self) -> None:
        self._version: object = None
        self._contents: dict[str, Any] = {}
        self._lock = ForkSafeLock()

    def get(self, parameters: Iterable[Tensor], pack: Callable[[], T], is_wanted: bool, name: str = "") -> T | None:
        """Return what `pack` makes of the parameters; None where it is not wanted, or the parameters may change,
        which forgets all contents."""
        version = version_of(parameters)
        with self._lock:
            if version != self._version:
                self._version = version
                self._contents.clear()
            if version is None or not is_wanted:
                return None
            if name not in self._contents:
                self._contents[name] = pack()
            content: T = self._contents[name]
            return content

    def __reduce__(self) -> "tuple[type[Packed], tuple[()]]":
        return Packed, ()


class PackedModule(nn.Module, Generic[T]):
    """A module that runs frozen weights through packed products on a CPU, and plain ones everywhere else.

    matrices: names of the parameters, or lists of them, that reduced precision is about.

    A packed weight cannot be shared with another process. So where weights came to this process as shared memory (it
    was spawned), are large and in float32, plain products run, and there is no copy of them for each process.
    """

    matrices: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
        super().__init__()
        self.precision: Precision = "float32"
        self._packed = Packed()
        self._is_lean = False

    @abstractmethod
    def pack(self, make: type[Product]) -> T:
        """Return the products of the weights as they are now."""

    def packed(self, x: Tensor) -> T | None:
        """Return the products for `x` (`[..., rows, n_in]`), or None where plain ones are to be used."""
        make, is_lean = _PRODUCTS[self.precision], self._is_lean and self.precision == "float32"
        is_wanted = not is_lean and can_pack(x, self.precision)
        return self._packed.get(self.parameters(), lambda: self.pack(make), is_wanted)

    def prepare(self) -> None:
        """Pack now what would be packed when first needed."""
        device = next(self.parameters()).device
        with torch.no_grad():
            self.packed(torch.empty(0, dtype=torch.float32, device=device))

    def forget(self) -> None:
        """Forget what is packed."""
        self._packed = Packed()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        shared = sum(parameter.nbytes for parameter in self.parameters() if parameter.is_shared())
        self._is_lean = shared > _MAX_SHARED

    def set_precision(self, precision: Precision) -> None:
        """Use this precision; a reduced one rounds the matrices to float16 for good."""
        self.precision = precision
        self.forget()
        if precision == "float32":
            return
        for name, parameter in self.named_parameters():
            if name.split(".")[0] in self.matrices:
                parameter.data = parameter.data.half()


def check_precision(precision: str, device: torch.device) -> None:
    """Raise an ElmoError where this precision is unknown or there are no means for it."""
    if precision not in get_args(Precision):
        known = ", ".join(map(repr, get_args(Precision)))
        raise ElmoError(f"precision is {precision!r}, expected one of {known}")
    if precision == "int8" and not (device.type == "cpu" and _HAS["int8"]):
        raise ElmoError('precision = "int8" needs an x86 processor and device = "cpu"; use "float16" or "float32"')


def can_pack(x: Tensor, precision: Precision) -> bool:
    """Whether packed products are to be used for `x`: without gradients, on a processor that has them."""
    return _HAS[precision] and is_prediction(x)


def is_prediction(x: Tensor) -> bool:
    """Whether `x` is what made-up weights are for: float32 on a CPU, without gradients."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled()


def version_of(parameters: Iterable[Tensor]) -> tuple[tuple[int, int], ...] | None:
    """What tells one state of frozen parameters from another; None where nothing would tell.

    Fused optimizers change parameters without a trace, so those that require gradients have no version.
    """
    parameters = list(parameters)
    if any(parameter.requires_grad or parameter.is_inference() for parameter in parameters):
        return None
    return tuple((parameter.data_ptr(), parameter._version) for parameter in parameters)


def _find_products() -> dict[Precision, bool]:
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    has_onednn = is_x86 and torch.backends.mkldnn.is_available()
    return {
        "float32": has_onednn and hasattr(torch.ops.mkldnn, "_linear_pointwise"),
        "float16": is_x86 and torch.backends.quantized.engine in ("x86", "fbgemm"),
        "int8": has_onednn and hasattr(torch.ops.onednn, "qlinear_pointwise"),
    }


_HAS = _find_products()
