"""Calls the compiled part with tensors: the recurrence of a layer, the update of its gates, and products.

`_kernels.c` is compiled when the package is installed, with GCC or Clang on Linux and macOS. It has a version for each
instruction set. The best version that the processor supports is used, or the one that the environment variable
SPACY_ELMO_ISA names (upper or lower case). Without the compiled part, torch's operators compute the same numbers.
"""

import functools
import importlib
import importlib.machinery
import math
import multiprocessing
import os
import platform
import sys
import warnings
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from spacy_elmo.bilm.products import Product, reasons_against_prediction
from spacy_elmo.errors import ElmoError

VARIABLE = "SPACY_ELMO_ISA"
_SOURCES = ("_kernels.c", "_kernels_level.h", "_kernels_training.h")
_ACTIVATIONS = ("none", "relu", "sigmoid")  # as _kernels.c numbers them


def _load() -> tuple[Any, ImportError | None]:
    """Return the compiled part, or the reason why it is not used."""
    try:
        # Not `from spacy_elmo.bilm import _kernels`: if it was not built, that error blames a circular import.
        module = importlib.import_module("spacy_elmo.bilm._kernels")
    except ImportError as error:
        return None, error
    # It receives plain addresses. If its source has changed since, it may misread what is there.
    sources = [Path(__file__).with_name(name) for name in _SOURCES]
    if all(source.is_file() for source in sources):
        checksum = zlib.crc32(b"".join(source.read_bytes() for source in sources))
        if getattr(module, "SOURCE", None) != checksum:
            return None, ImportError(
                f"it was built from another version of {', '.join(_SOURCES[:-1])} and {_SOURCES[-1]}"
            )
    return module, None


_kernels: Any  # with the functions of _kernels.pyi, or None
_kernels, _failure = _load()


def _find_hidden() -> Path | None:
    """Return the installed package with a compiled part that this package hides, because this one comes first on the
    path. This happens if you start Python in a clone."""
    here = Path(__file__).resolve().parent
    names = [f"_kernels{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    for entry in map(Path, sys.path):
        other = entry / here.parent.name / here.name
        with suppress(OSError):  # a folder without permission
            if any((other / name).is_file() for name in names) and other.resolve() != here:
                return other.resolve().parent
    return None


_hidden = None if _kernels is not None else _find_hidden()


def instruction_sets() -> list[str]:
    """Return the names of the versions that this processor can run, best first; none without the compiled part."""
    return [] if _kernels is None else cast("list[str]", _kernels.levels())


def instruction_set() -> str | None:
    """Return the name of the version in use: "avx512", "avx2", "neon" or "generic"; None without the compiled part."""
    return _chosen


def compiled() -> Any:
    """Return the compiled part: a module with the functions of _kernels.pyi, which do not check their arguments."""
    return _kernels


def is_missing() -> bool:
    """Whether the compiled part is missing."""
    return _kernels is None


def why_missing() -> str | None:
    """Return why the compiled part is missing; None if it is there."""
    if _kernels is not None:
        return None
    if not is_for_this_platform():
        return f"there is no compiled part for {platform.system()} on {platform.machine()}"
    if _hidden is not None:
        package = Path(__file__).resolve().parents[1]
        if (package.parent / "setup.py").is_file():
            remedy = f"run from another directory, or install the source (pip install --editable {package.parent})"
        else:
            remedy = "install spacy-elmo again in this environment"
        return f"{package} has no usable compiled part, but hides {_hidden}, which has one: {remedy}"
    if type(_failure) is ImportError:  # the file exists
        return f"the compiled part does not load ({_failure}): install spacy-elmo again on this machine"
    return (
        "the compiled part was not built: install GCC or Clang and Python's headers, then install spacy-elmo again "
        "(pip install -v shows what went wrong)"
    )


def is_for_this_platform() -> bool:
    """Whether `setup.py` can build the compiled part on this system and processor, if there is a compiler."""
    return sys.platform in ("linux", "darwin") and platform.machine() in ("x86_64", "aarch64", "arm64")


def reasons_against_kernels(x: Tensor) -> list[str]:
    """Return why the compiled part is not used for `x`; empty if it is."""
    reasons = reasons_against_prediction(x)
    if missing := why_missing():
        reasons.append(missing)
    elif _chosen == "generic":
        reasons.append("torch's operators are faster than its generic version (it needs AVX2 and FMA, AVX-512 or NEON)")
    return reasons


def warn_if_missing() -> None:
    """Warn, once per process, if the compiled part is missing but could have been built."""
    global _is_warned
    if _kernels is None and not _is_warned:
        _is_warned = True
        if is_for_this_platform():
            warnings.warn(f"spacy-elmo is slower than it could be: {why_missing()}", stacklevel=2)


def update_gates(gates: Tensor, inputs: Tensor, cell: Tensor, cell_clip: float | None) -> Tensor:
    """Update the cells in place; return their outputs, `[rows, dim]`.

    gates, inputs: `[rows, 4 * dim]`: input, forget and output gate and candidate, before their nonlinearities; the part
        that comes from the hidden state, and the rest.
    cell: `[rows, dim]`.
    """
    (rows, dim), outputs = cell.shape, torch.empty_like(cell)
    shapes = [(rows, 4 * dim), (rows, 4 * dim), (rows, dim), (rows, dim)]
    addresses = _addresses([gates, inputs, cell, outputs], shapes)
    _kernels.update_gates(torch.get_num_threads(), rows, dim, limit(cell_clip), *addresses)
    return outputs


class CompiledProduct(Product):
    """A product in float32. Columns are in strips of 16 that are read from front to back, so that a product of few rows
    reads the matrix at the speed of the memory. The bits of a row do not depend on the other rows."""

    def _pack(self, weight: Tensor) -> Tensor:
        self._n_out = len(weight)
        return _strips(weight.t())

    @functools.cached_property
    def _filled_bias(self) -> Tensor:
        zeros = torch.zeros(len(self._weight) * _kernels.STRIP, dtype=torch.float32, device="cpu")
        if self._bias is not None:
            zeros[: self._n_out] = self._bias
        return zeros

    def __call__(self, x: Tensor) -> Tensor:
        """See `Product`."""
        (rows, n_in), (n_out, strips) = x.shape, (self._n_out, self._weight)
        out = x.new_empty(rows, n_out)
        addresses = _addresses([x, strips, self._filled_bias, out], [(rows, n_in), *self._shapes(n_in), (rows, n_out)])
        activation = _ACTIVATIONS.index(self._activation)
        _kernels.multiply(torch.get_num_threads(), rows, n_in, n_out, activation, *addresses)
        return out if self._limit is None else self._activate(out)

    def _shapes(self, n_in: int) -> list[tuple[int, ...]]:
        n_strips, strip = len(self._weight), _kernels.STRIP
        return [(n_strips, n_in, strip), (n_strips * strip,)]


@dataclass(frozen=True)
class DirectionWeights:
    """Weights of one direction of a layer in the layout of `run_layer`, float32.

    Columns are in strips of 16, each stored from front to back. For each 16 cells, the strips of the input, forget and
    output gates and of the candidates follow each other. Cells and columns are padded with zeros to whole strips.

    n_in, dim, width: of the inputs, the cells and the hidden state.
    """

    n_in: int
    dim: int
    width: int
    input_weight: Tensor
    hidden_weight: Tensor
    bias: Tensor
    projection: Tensor | None

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, projection: Tensor | None) -> "DirectionWeights":
        """Lay out the weights of a direction.

        weight: `[n_in + width, 4 * dim]`; bias: `[4 * dim]`, with that of the forget gate; projection: `[dim, width]`.
        """
        dim = len(bias) // 4
        width = dim if projection is None else projection.shape[1]
        n_in = len(weight) - width
        return cls(
            n_in,
            dim,
            width,
            _gate_strips(weight[:n_in]),
            _gate_strips(weight[n_in:]),
            _gate_strips(bias[None]),
            None if projection is None else _strips(projection),
        )


def run_layer(
    weights: Sequence[DirectionWeights],
    clips: tuple[float | None, float | None],
    x: Tensor,
    batch_sizes: Sequence[int],
    state: tuple[Tensor, Tensor],
    starts: Tensor | None,
) -> Tensor:
    """Run both directions over packed sequences, in as many threads as torch uses. Update the state in place.

    clips: of the cells and of the projection.
    x: `[2, n_tokens, n_in]`; batch_sizes: rows of each time step, in descending order.
    state: hidden `[2, rows, width]` and cell `[2, rows, dim]`.
    starts: `[n_tokens]` bool: whether a row resets its state before this token.

    Returns the outputs, `[2, n_tokens, width]`. The bits of a row do not depend on the other rows.
    """
    n_tokens, one, falling = x.shape[1], weights[0], sorted(batch_sizes, reverse=True)
    if not falling or n_tokens != sum(falling) or list(batch_sizes) != falling or falling[-1] < 0:
        raise ValueError(f"expected descending batch sizes with a sum of {n_tokens}, not {list(batch_sizes)}")
    if starts is not None and (starts.shape != (n_tokens,) or starts.dtype != torch.bool):
        raise ValueError(f"expected starts of {n_tokens} tokens as bool, not {starts.dtype} of {tuple(starts.shape)}")
    outputs, sizes = x.new_empty(2, n_tokens, one.width), torch.tensor(batch_sizes, dtype=torch.int64, device="cpu")
    rows = batch_sizes[0]
    shapes = [(n_tokens, one.n_in), (rows, one.width), (rows, one.dim), (n_tokens, one.width)]
    directions = []
    for own, *arrays in zip(weights, x, *state, outputs, strict=True):
        fixed = (own.input_weight, own.hidden_weight, own.bias, own.projection)
        addresses = [0 if array is None else array.data_ptr() for array in fixed]
        directions.append((*addresses, *_addresses(arrays, shapes)))
    starts = None if starts is None else starts.contiguous()
    _kernels.run_layer(
        torch.get_num_threads(), one.n_in, one.dim, one.width, *map(limit, clips), len(batch_sizes), sizes.data_ptr(),
        0 if starts is None else starts.data_ptr(), *directions,
    )  # fmt: skip
    return outputs


def _addresses(arrays: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> list[int]:
    return [address(array, shape) for array, shape in zip(arrays, shapes, strict=True)]


def address(array: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> int:
    """Return the address of a tensor. Check shape and dtype, because the compiled part reads and writes unchecked."""
    if array.shape != shape or array.dtype != dtype or not array.is_contiguous():
        name = str(dtype).removeprefix("torch.")
        raise ValueError(f"expected contiguous {name} of shape {shape}, not {array.dtype} of {tuple(array.shape)}")
    return array.data_ptr()


def limit(clip: float | None) -> float:
    """Return a clip as the compiled part takes it."""
    return math.inf if clip is None else clip


def _gate_strips(matrix: Tensor) -> Tensor:
    """Lay out `[rows, 4 * dim]` as `[cells / 16, 4 gates, rows, 16]`."""
    gates = matrix.view(len(matrix), 4, -1)
    filled = functional.pad(gates, (0, -gates.shape[2] % _kernels.STRIP))
    return _laid_out(filled.view(len(matrix), 4, -1, _kernels.STRIP).permute(2, 1, 0, 3))


def _strips(matrix: Tensor) -> Tensor:
    """Lay out `[rows, columns]` as `[columns / 16, rows, 16]`."""
    filled = functional.pad(matrix, (0, -matrix.shape[1] % _kernels.STRIP))
    return _laid_out(filled.view(len(matrix), -1, _kernels.STRIP).transpose(0, 1))


def _laid_out(view: Tensor) -> Tensor:
    array = torch.empty(view.shape, dtype=torch.float32, device="cpu")
    _kernels.use_large_pages(array.data_ptr(), array.nbytes)
    return array.copy_(view)


def _choose() -> str | None:
    """Return the version to use: the one that the environment names, or the best."""
    given = os.environ.get(VARIABLE, "")
    if _kernels is None:
        return None
    known = _kernels.levels()
    chosen: str = given.strip().lower() or known[0]
    if chosen not in known:
        raise ElmoError(f"{VARIABLE} is {given!r}, expected one that this processor supports: {', '.join(known)}")
    _kernels.choose(chosen)
    return chosen


_chosen = _choose()
_is_warned = False
if _hidden is not None and multiprocessing.parent_process() is None:  # workers need not repeat it
    warn_if_missing()  # now: the version that runs may differ from the installed one in any respect
