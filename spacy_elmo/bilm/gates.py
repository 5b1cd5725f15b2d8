"""The nonlinearities and clips between the products of a time step, in place, with torch's operators."""

from collections.abc import Sequence

from torch import Tensor


def with_forget_bias(bias: Tensor, forget_bias: float) -> Tensor:
    """Return the bias as `[2, 1, 4 * dim]`, with `forget_bias` added to the forget gate. bias: `[2, 4 * dim]`."""
    dim = bias.shape[1] // 4
    bias = bias.detach().clone()
    bias[:, dim : 2 * dim] += forget_bias
    return bias.unsqueeze(1)


def activate_(gates: Tensor) -> Sequence[Tensor]:
    """Apply the nonlinearities; return the input, forget and output gate and the candidate."""
    input_gate, forget_gate, output_gate, candidate = gates.chunk(4, dim=-1)
    gates[..., : 3 * candidate.shape[-1]].sigmoid_()
    tanh_(candidate)
    return input_gate, forget_gate, output_gate, candidate


def update_gates(gates: Tensor, inputs: Tensor, cell: Tensor, cell_clip: float | None) -> Tensor:
    """Do what `kernels.update_gates` does, with torch's operators. `gates` is overwritten."""
    input_gate, forget_gate, output_gate, candidate = activate_(gates.add_(inputs))
    clip_(cell.mul_(forget_gate).addcmul_(input_gate, candidate), cell_clip)
    return tanh_(cell.clone()).mul_(output_gate)


def tanh_(x: Tensor) -> Tensor:
    """Compute tanh from torch's sigmoid, which is several times faster on a CPU."""
    return x.mul_(2.0).sigmoid_().mul_(2.0).sub_(1.0)


def clip_(x: Tensor, limit: float | None) -> Tensor:
    """Clip to ±limit."""
    return x if limit is None else x.clamp_(-limit, limit)
