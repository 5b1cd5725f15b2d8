"""Keeps what is packed from frozen weights for speed, as long as the weights do not change."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from spacy_elmo.bilm.kernels import CompiledProduct, reasons_against_kernels
from spacy_elmo.bilm.products import PRODUCTS, Precision, Product, reasons_against_packing
from spacy_elmo.bilm.threads import ForkSafeLock

# Bytes of a module's weights. Highways of the published 2,048 filters have more, LSTMs of the size small have less.
_MAX_SHARED = 2**25

T = TypeVar("T")
V = TypeVar("V")


class Packed:
    """What is packed from parameters, by name, kept as long as the parameters do not change.

    Copies and pickles of it are empty, and it is not part of a state_dict.
    """

    def __init__(self) -> None:
        self._version: object = None
        self._contents: dict[str, Any] = {}
        self._lock = ForkSafeLock()

    def get(self, parameters: Iterable[Tensor], pack: Callable[[], T], is_wanted: bool, name: str = "") -> T | None:
        """Return the result of `pack`, packed once. Return None if it is not wanted, or if the parameters may change,
        which also drops all contents."""
        with self._lock:
            if not self.follow(parameters) or not is_wanted:
                return None
            if name not in self._contents:
                self._contents[name] = pack()
            content: T = self._contents[name]
            return content

    def follow(self, parameters: Iterable[Tensor]) -> bool:
        """Drop all contents if the parameters have changed. Return whether future changes can be detected, so that
        contents may be kept."""
        version = version_of(parameters)
        with self._lock:
            if version != self._version:
                self._version = version
                self._contents.clear()
        return version is not None

    def __reduce__(self) -> "tuple[type[Packed], tuple[()]]":
        return Packed, ()


class PackedModule(nn.Module, Generic[T]):
    """A module that uses packed products for frozen weights on a CPU, and plain products everywhere else.

    matrices: names of the parameters, or lists of parameters, that reduced precision affects.
    compiles: whether the compiled part, if it is used, makes the products in float32.

    Processes cannot share packed weights. In a spawned process, weights come as shared memory. If these are large and
    in float32 (`is_lean`), plain products run, so that not every process has a copy.
    """

    matrices: ClassVar[tuple[str, ...]]
    compiles: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.precision: Precision = "float32"
        self._packed = Packed()
        self._shares_large_weights = False

    @abstractmethod
    def pack(self, make: type[Product]) -> T:
        """Return the products of the weights as they are now."""

    def packed(self, x: Tensor) -> T | None:
        """Return the packed products for `x` (`[..., rows, n_in]`), or None if plain products should run."""
        make, reasons = PRODUCTS[self.precision], reasons_against_packing(x, self.precision)
        if self.compiles and self.precision == "float32" and not reasons_against_kernels(x):
            make, reasons = CompiledProduct, []
        is_wanted = not reasons and not self.is_lean
        return self._packed.get(self.parameters(), lambda: self.pack(make), is_wanted, make.__name__)

    def keep(self, name: str, make: Callable[[], V]) -> V | None:
        """Return the result of `make` for the current weights, made once; None if the weights may change."""
        return self._packed.get(self.parameters(), make, True, name)

    @property
    def is_frozen(self) -> bool:
        """Whether a change of the weights can be detected, so that something may be made of them and kept.

        This also notices weights that are trained in the meantime, even if an optimizer leaves no trace, and drops what
        was kept.
        """
        return self._packed.follow(self.parameters())

    @property
    def is_lean(self) -> bool:
        """Whether the weights are shared with the parent process, and too large for a second copy."""
        return self._shares_large_weights and self.precision == "float32"

    def prepare(self) -> None:
        """Pack now instead of when first needed."""
        device = next(self.parameters()).device
        with torch.no_grad():
            self.packed(torch.empty(0, dtype=torch.float32, device=device))

    def forget(self) -> None:
        """Drop what is packed."""
        self._packed = Packed()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        shared = sum(parameter.nbytes for parameter in self.parameters() if parameter.is_shared())
        self._shares_large_weights = shared > _MAX_SHARED

    def set_precision(self, precision: Precision) -> None:
        """Use this precision. A reduced precision rounds the matrices to float16, and this cannot be undone."""
        self.precision = precision
        self.forget()
        if precision == "float32":
            return
        for name, parameter in self.named_parameters():
            if name.split(".")[0] in self.matrices:
                parameter.data = parameter.data.half()


def version_of(parameters: Iterable[Tensor]) -> tuple[tuple[int, int], ...] | None:
    """Return a version that changes with frozen parameters; None if changes cannot be detected.

    Fused optimizers change parameters without a trace, so parameters that require gradients have no version.
    """
    parameters = list(parameters)
    if any(parameter.requires_grad or parameter.is_inference() for parameter in parameters):
        return None
    return tuple((parameter.data_ptr(), parameter._version) for parameter in parameters)
