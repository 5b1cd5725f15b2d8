"""Frozen weights in, what is made of them once for speed out: kept for as long as the weights stay as they are."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from spacy_elmo.bilm.kernels import CompiledProduct, reasons_against_kernels
from spacy_elmo.bilm.products import PRODUCTS, Precision, Product, reasons_against_packing
from spacy_elmo.bilm.threads import ForkSafeLock

# Bytes of a module's weights. The highways of the published 2,048 filters have more, the LSTMs of small less.
_MAX_SHARED = 2**25

T = TypeVar("T")
V = TypeVar("V")


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
        with self._lock:
            if not self.follow(parameters) or not is_wanted:
                return None
            if name not in self._contents:
                self._contents[name] = pack()
            content: T = self._contents[name]
            return content

    def follow(self, parameters: Iterable[Tensor]) -> bool:
        """Forget all contents where the parameters are others than they were; return whether a change of theirs would
        be seen, so that something may be kept."""
        version = version_of(parameters)
        with self._lock:
            if version != self._version:
                self._version = version
                self._contents.clear()
        return version is not None

    def __reduce__(self) -> "tuple[type[Packed], tuple[()]]":
        return Packed, ()


class PackedModule(nn.Module, Generic[T]):
    """A module that runs frozen weights through packed products on a CPU, and plain ones everywhere else.

    matrices: names of the parameters, or lists of them, that reduced precision is about.

    A packed weight cannot be shared with another process. So where weights came to this process as shared memory (it
    was spawned), are large and in float32 (`is_lean`), plain products run, and there is no copy for each process.

    compiles: whether the compiled part makes the products in float32, where it is used.
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
        """Return the products for `x` (`[..., rows, n_in]`), or None where plain ones are to be used."""
        make, reasons = PRODUCTS[self.precision], reasons_against_packing(x, self.precision)
        if self.compiles and self.precision == "float32" and not reasons_against_kernels(x):
            make, reasons = CompiledProduct, []
        is_wanted = not reasons and not self.is_lean
        return self._packed.get(self.parameters(), lambda: self.pack(make), is_wanted, make.__name__)

    def keep(self, name: str, make: Callable[[], V]) -> V | None:
        """Return what `make` made of the weights as they are now; None where they may change."""
        return self._packed.get(self.parameters(), make, True, name)

    @property
    def is_frozen(self) -> bool:
        """Whether a change of the weights would be seen, so that something may be made of them and kept. Weights that
        are trained meanwhile are noticed here, also where an optimizer leaves no trace: what was kept is forgotten."""
        return self._packed.follow(self.parameters())

    @property
    def is_lean(self) -> bool:
        """Whether the weights are shared with the process that started this one, and too large to be here twice."""
        return self._shares_large_weights and self.precision == "float32"

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
        self._shares_large_weights = shared > _MAX_SHARED

    def set_precision(self, precision: Precision) -> None:
        """Use this precision; a reduced one rounds the matrices to float16 for good."""
        self.precision = precision
        self.forget()
        if precision == "float32":
            return
        for name, parameter in self.named_parameters():
            if name.split(".")[0] in self.matrices:
                parameter.data = parameter.data.half()


def version_of(parameters: Iterable[Tensor]) -> tuple[tuple[int, int], ...] | None:
    """What tells one state of frozen parameters from another; None where nothing would tell.

    Fused optimizers change parameters without a trace, so those that require gradients have no version.
    """
    parameters = list(parameters)
    if any(parameter.requires_grad or parameter.is_inference() for parameter in parameters):
        return None
    return tuple((parameter.data_ptr(), parameter._version) for parameter in parameters)
