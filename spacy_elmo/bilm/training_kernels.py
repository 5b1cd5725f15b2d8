"""What training computes between its products, in the compiled part: the cells of a time step, forwards and backwards,
the softmax, and the maximum of the character CNN. On a CPU, in float32 and bfloat16.

torch's operators do the same in some twenty passes over the arrays, each with its own rounding to bfloat16.
"""

import torch
from torch import Tensor

from spacy_elmo.bilm import kernels
from spacy_elmo.bilm.kernels import address
from spacy_elmo.bilm.products import product_dtype

_DTYPES = (torch.float32, torch.bfloat16)


def can_compute(x: Tensor) -> bool:
    """Whether the compiled part computes with arrays like `x`, in the dtype of autocast if that is on."""
    if x.device.type != "cpu" or kernels.instruction_set() in (None, "generic"):
        return False
    return x.dtype in _DTYPES and product_dtype(x) in _DTYPES


def step_forward(
    gates: Tensor, found: Tensor, cells: Tensor, hidden: Tensor, kept: Tensor | None, cell_clip: float | None
) -> None:
    """Compute the cells of a time step.

    gates: `[2, rows, 4 * dim]`, before the nonlinearities; they become input, forget and output gate and candidate.
    found: `[2, rows, dim]` float32, the cells before the step.
    cells: `[2, rows, dim]` float32, filled in; hidden: the outputs of the cells, `[2, rows, dim]`, filled in.
    kept: `[rows, 1]` bool, whether a row keeps its state before the step; None: all do.
    """
    _, rows, dim = found.shape
    arrays = _arrays(gates, cells, found, hidden)
    limit = kernels.limit(cell_clip)
    kernels.compiled().step_forward(torch.get_num_threads(), rows, dim, limit, _flags(kept, rows), *arrays)


def step_backward(
    gates: Tensor,
    cells: Tensor,
    found: Tensor,
    d_hidden: Tensor,
    d_cells: Tensor,
    d_gates: Tensor,
    kept: Tensor | None,
    cell_clip: float | None,
) -> None:
    """Fill in the gradients of the gates of a time step, before their nonlinearities.

    gates, cells, found, kept: as `step_forward` left them.
    d_hidden: `[2, rows, dim]`, the gradients of the outputs of the cells.
    d_cells: `[2, rows, dim]` float32, the gradients of the cells after the step; they become those of the cells before.
    """
    _, rows, dim = found.shape
    arrays = [
        *_arrays(gates, cells, found, d_hidden),
        _described(d_gates, rows, 4 * dim, gates.dtype),
        _described(d_cells, rows, dim, torch.float32),
    ]
    limit = kernels.limit(cell_clip)
    kernels.compiled().step_backward(torch.get_num_threads(), rows, dim, limit, _flags(kept, rows), *arrays)


def softmax_rows(
    logits: Tensor, biases: Tensor, truth: Tensor, hits: Tensor | None, d_biases: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Compute a softmax.

    logits: `[rows, n_words]`, without the biases; they become the probabilities of the words if there is `d_biases`.
    biases: `[n_words]` float32.
    truth: `[rows]` float32, the logits of the targets.
    hits: `[rows]` int64. If given, the target is one more word beside these. A hit is the word that equals it, which is
        left out, or -1. None: the target is one of the words.
    d_biases: `[n_words]` float32, to which the sum of the probabilities is added. None: no gradients are needed.

    Returns the logarithm of the sum of the exponentials, `[rows]`, and the probability of a target that is not one of
    the words, `[rows]`.
    """
    rows, n_words = logits.shape
    if hits is not None and rows and int(hits.amax()) >= n_words:
        raise ValueError(f"expected hits among {n_words} words")
    totals, largest, shares = (torch.zeros_like(truth) for _ in range(3))
    parts = torch.get_num_threads()
    sums = None if d_biases is None else d_biases.new_zeros(parts, n_words)
    addresses = [
        address(logits, (rows, n_words), _known(logits.dtype)),
        address(biases, (n_words,)),
        0 if hits is None else address(hits, (rows,), torch.int64),
        address(truth, (rows,)),
        *(one.data_ptr() for one in (totals, largest, shares)),
        0 if sums is None else sums.data_ptr(),
    ]
    kernels.compiled().softmax_rows(parts, parts, rows, n_words, logits.dtype == torch.bfloat16, *addresses)
    if d_biases is not None and sums is not None:
        d_biases += sums.sum(0)
    return totals.log_().add_(largest), shares


def pool(products: Tensor, pooled: Tensor, windows: Tensor, first: int) -> None:
    """Find the largest product of each filter over the windows of a word, and the window that has it (the first one).

    products: `[n_words, n_windows, n_filters]`.
    pooled, windows: `[n_words, n]` float32 and int32, of all filters; those from `first` on are filled in.
    """
    (n_words, n_windows, n_filters), n = products.shape, pooled.shape[1]
    if not n_windows or not 0 <= first <= n - n_filters:
        raise ValueError(f"expected windows, and {n_filters} filters among {n} from {first} on")
    addresses = [
        address(products, (n_words, n_windows, n_filters), _known(products.dtype)),
        address(pooled, (n_words, n)) + first * pooled.element_size(),
        address(windows, (n_words, n), torch.int32) + first * windows.element_size(),
    ]
    is_bfloat16 = products.dtype == torch.bfloat16
    kernels.compiled().pool(torch.get_num_threads(), n_words, n_windows, n_filters, n, is_bfloat16, *addresses)


def unpool(d_pooled: Tensor, windows: Tensor, first: int, x: Tensor, filters: Tensor, d_x: Tensor) -> Tensor:
    """Return the gradients of the filters of one size, `[n_filters, width]` float32. Add the gradients of `x` to `d_x`.

    d_pooled, windows: `[n_words, n]` float32 and int32, of all filters; those from `first` on are used.
    x, d_x: `[n_words, n_positions, dim]` float32.
    filters: `[n_filters, width]` float32; a window has `width / dim` positions.
    """
    (n_words, n_positions, dim), (n_filters, width), n = x.shape, filters.shape, d_pooled.shape[1]
    used, d_filters = windows[:, first : first + n_filters], torch.zeros_like(filters)
    if not 0 <= first <= n - n_filters or (used.numel() and not _are_windows(used, n_positions - width // dim)):
        raise ValueError(f"expected {n_filters} filters among {n} from {first} on, in windows of {n_positions}")
    addresses = [
        address(d_pooled, (n_words, n)) + first * d_pooled.element_size(),
        address(windows, (n_words, n), torch.int32) + first * windows.element_size(),
        address(x, (n_words, n_positions, dim)),
        address(filters, (n_filters, width)),
        d_filters.data_ptr(),
        address(d_x, (n_words, n_positions, dim)),
    ]
    threads = torch.get_num_threads()
    kernels.compiled().unpool(threads, n_words, n_positions, dim, n_filters, width // dim, n, *addresses)
    return d_filters


def _are_windows(windows: Tensor, last: int) -> bool:
    least, most = windows.aminmax()
    return int(least) >= 0 and int(most) <= last


def _known(dtype: torch.dtype) -> torch.dtype:
    if dtype not in _DTYPES:
        raise ValueError(f"expected float32 or bfloat16, not {dtype}")
    return dtype


def _arrays(gates: Tensor, cells: Tensor, found: Tensor, hidden: Tensor) -> list[tuple[int, int, int, bool]]:
    """Describe the arrays of a time step that both passes share, in the order of the compiled part."""
    _, rows, dim = found.shape
    return [
        _described(gates, rows, 4 * dim, gates.dtype),
        _described(cells, rows, dim, torch.float32),
        _described(found, rows, dim, torch.float32),
        _described(hidden, rows, dim, gates.dtype),
    ]


def _described(array: Tensor, rows: int, width: int, dtype: torch.dtype) -> tuple[int, int, int, bool]:
    """Return address, rows from one direction to the other, width, and whether it is bfloat16. The rows of a direction
    follow each other."""
    apart, row, number = array.stride()
    is_whole = number == 1 and (row == width or rows == 1) and apart % width == 0
    if array.shape != (2, rows, width) or array.dtype != _known(dtype) or not is_whole:
        raise ValueError(f"expected {dtype} of shape {(2, rows, width)}, not {array.dtype} of {tuple(array.shape)}")
    return array.data_ptr(), apart // width, width, dtype == torch.bfloat16


def _flags(kept: Tensor | None, rows: int) -> int:
    return 0 if kept is None else address(kept, (rows, 1), torch.bool)
