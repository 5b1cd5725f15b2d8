"""Tensors in, calls of the compiled part out: the recurrence of a layer, the update of its gates, and products.

`_kernels.c` is compiled when the package is installed, with GCC or Clang on Linux and macOS. It has a version for each
instruction set. The best one that the processor has is used, or the one that the environment variable SPACY_ELMO_ISA
names (in any case of letters). Without the compiled part, torch's operators come to the same numbers.
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
_SOURCES = ("_kernels.c", "_kernels_level.h")
_ACTIVATIONS = ("none", "relu", "sigmoid")  # as _kernels.c numbers them


def _load() -> tuple[Any, ImportError | None]:
    """The compiled part, or why it is not used."""
    try:
        # Not by `from spacy_elmo.bilm import _kernels`, which blames a circular import where it was not built.
        module = importlib.import_module("spacy_elmo.bilm._kernels")
    except ImportError as error:
        return None, error
    # It is handed bare addresses: where the source lies beside it and has changed since, it may misread what is there.
    sources = [Path(__file__).with_name(name) for name in _SOURCES]
    if all(source.is_file() for source in sources):
        checksum = zlib.crc32(b"".join(source.read_bytes() for source in sources))
        if getattr(module, "SOURCE", None) != checksum:
            return None, ImportError(f"it was built from another version of {' and '.join(_SOURCES)}")
    return module, None


_kernels: Any  # with the functions of _kernels.pyi, or None
_kernels, _failure = _load()


def _find_hidden() -> Path | None:
    """The installed package with a compiled part for this Python that the one here hides, since it stands before it on
    the path: a clone does, in whose folder Python is started."""
    here = Path(__file__).resolve().parent
    names = [f"_kernels{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    for entry in map(Path, sys.path):
        other = entry / here.parent.name / here.name
        with suppress(OSError):  # a folder that may not be looked into
            if any((other / name).is_file() for name in names) and other.resolve() != here:
                return other.resolve().parent
    return None


_hidden = None if _kernels is not None else _find_hidden()


def instruction_sets() -> list[str]:
    """Names of the versions that this processor can run, the best first; none where the compiled part is missing."""
    return [] if _kernels is None else cast("list[str]", _kernels.levels())


def instruction_set() -> str | None:
    """Name of the version in use: "avx512", "avx2", "neon" or "generic"; None where the compiled part is missing."""
    return _chosen


def is_missing() -> bool:
    """Whether there is no compiled part."""
    return _kernels is None


def why_missing() -> str | None:
    """Why there is no compiled part; None where there is one."""
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
        return f"{package}, without a compiled part that fits it, hides {_hidden}, which has one: {remedy}"
    if type(_failure) is ImportError:  # the file is there
        return f"the compiled part does not load ({_failure}): install spacy-elmo again on this machine"
    return (
        "the compiled part was not built: install spacy-elmo again where GCC or Clang, and Python's headers, are found "
        "(pip install -v shows what went wrong)"
    )


def is_for_this_platform() -> bool:
    """Whether `setup.py` builds the compiled part on this system and processor, given a compiler."""
    return sys.platform in ("linux", "darwin") and platform.machine() in ("x86_64", "aarch64", "arm64")


def reasons_against_kernels(x: Tensor) -> list[str]:
    """Why the compiled part is not used for `x`; empty where it is."""
    reasons = reasons_against_prediction(x)
    if missing := why_missing():
        reasons.append(missing)
    elif _chosen == "generic":
        reasons.append("torch's operators are faster than its generic version (it needs AVX2 and FMA, AVX-512 or NEON)")
    return reasons


def warn_if_missing() -> None:
    """Warn, once in a process, where the compiled part could have been built and was not."""
    global _is_warned
    if _kernels is None and not _is_warned:
        _is_warned = True
        if is_for_this_platform():
            warnings.warn(f"spacy-elmo runs more slowly than it could: {why_missing()}", stacklevel=2)


def update_gates(gates: Tensor, inputs: Tensor, cell: Tensor, cell_clip: float | None) -> Tensor:
    """Bring cells up to date in place; return what they let out, `[rows, dim]`.

    gates, inputs: `[rows, 4 * dim]`: input, forget, output, candidate, before their nonlinearities: the part that comes
        from the hidden state, and the rest.
    cell: `[rows, dim]`.
    """
    (rows, dim), outputs = cell.shape, torch.empty_like(cell)
    shapes = [(rows, 4 * dim), (rows, 4 * dim), (rows, dim), (rows, dim)]
    addresses = _addresses([gates, inputs, cell, outputs], shapes)
    _kernels.update_gates(torch.get_num_threads(), rows, dim, _limit(cell_clip), *addresses)
    return outputs


class CompiledProduct(Product):
    """Float32, columns in strips of 16 that are read from front to back: few rows read the matrix as fast as memory
    gives it. A row has the same bits in any company."""

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
        """As `Product`."""
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
    """Weights of one direction of a layer, laid out for `run_layer`, float32.

    Columns lie in strips of 16, each from front to back; the strips of 16 cells' input, forget, output gates and
    candidates lie behind each other. Numbers of cells and columns are filled up with zeros to whole strips.

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
        """weight: `[n_in + width, 4 * dim]`; bias: `[4 * dim]`, with the forget gate's; projection: `[dim, width]`."""
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
    """Run both directions over packed sequences, in as many threads as torch uses; bring the state up to date in place.

    clips: of the cells and of the projection.
    x: `[2, n_tokens, n_in]`; batch_sizes: rows of each time step, falling.
    state: hidden `[2, rows, width]` and cell `[2, rows, dim]`.
    starts: `[n_tokens]` bool, where a row forgets its state before it reads on.

    Returns the outputs, `[2, n_tokens, width]`. A row's are the same bits in any company.
    """
    n_tokens, one, falling = x.shape[1], weights[0], sorted(batch_sizes, reverse=True)
    if not falling or n_tokens != sum(falling) or list(batch_sizes) != falling or falling[-1] < 0:
        raise ValueError(f"expected falling batch sizes of {n_tokens} tokens together, not {list(batch_sizes)}")
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
        torch.get_num_threads(), one.n_in, one.dim, one.width, *map(_limit, clips), len(batch_sizes), sizes.data_ptr(),
        0 if starts is None else starts.data_ptr(), *directions,
    )  # fmt: skip
    return outputs


def _addresses(arrays: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """Addresses of tensors, which must have these shapes: the compiled part reads and writes what is there."""
    for array, shape in zip(arrays, shapes, strict=True):
        if array.shape != shape or array.dtype != torch.float32 or not array.is_contiguous():
            raise ValueError(f"expected contiguous float32 of shape {shape}, not {array.dtype} of {tuple(array.shape)}")
    return [array.data_ptr() for array in arrays]


def _limit(clip: float | None) -> float:
    return math.inf if clip is None else clip


def _gate_strips(matrix: Tensor) -> Tensor:
    """`[cells / 16, 4 gates, rows, 16]` of `[rows, 4 * dim]`."""
    gates = matrix.view(len(matrix), 4, -1)
    filled = functional.pad(gates, (0, -gates.shape[2] % _kernels.STRIP))
    return _laid_out(filled.view(len(matrix), 4, -1, _kernels.STRIP).permute(2, 1, 0, 3))


def _strips(matrix: Tensor) -> Tensor:
    """`[columns / 16, rows, 16]` of `[rows, columns]`."""
    filled = functional.pad(matrix, (0, -matrix.shape[1] % _kernels.STRIP))
    return _laid_out(filled.view(len(matrix), -1, _kernels.STRIP).transpose(0, 1))


def _laid_out(view: Tensor) -> Tensor:
    array = torch.empty(view.shape, dtype=torch.float32, device="cpu")
    _kernels.use_large_pages(array.data_ptr(), array.nbytes)
    return array.copy_(view)


def _choose() -> str | None:
    """The version to use: the one that the environment names, or the best."""
    given = os.environ.get(VARIABLE, "")
    if _kernels is None:
        return None
    known = _kernels.levels()
    chosen: str = given.strip().lower() or known[0]
    if chosen not in known:
        raise ElmoError(f"{VARIABLE} is {given!r}, expected one of those that this processor has: {', '.join(known)}")
    _kernels.choose(chosen)
    return chosen


_chosen = _choose()
_is_warned = False
if _hidden is not None and multiprocessing.parent_process() is None:  # workers need not repeat it
    warn_if_missing()  # now: another version may run than the installed one, whatever it is asked for
