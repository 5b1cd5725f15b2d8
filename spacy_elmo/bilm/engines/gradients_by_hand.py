"""Training with gradients written by hand, on CPU and GPU, in float32 and under autocast."""

import itertools
from typing import Any

import torch
from torch import Tensor

from spacy_elmo.bilm import training_kernels
from spacy_elmo.bilm.engines.engine import Call, Engine, Layer, name_of
from spacy_elmo.bilm.gates import activate_, clip_, tanh_, with_forget_bias
from spacy_elmo.bilm.products import product_dtype
from spacy_elmo.bilm.time_steps import State, TimeStep


class GradientsByHand(Engine):
    """Under autocast, products and gates have its dtype, cells are float32, and results keep the dtype of `x`."""

    name = "gradients_by_hand"

    def reasons_against(self, layer: Layer, call: Call) -> list[str]:
        """See `Engine`."""
        return [] if torch.is_grad_enabled() else ["it keeps what gradients need, but gradients are off"]

    def run(self, layer: Layer, call: Call) -> tuple[Tensor, State]:
        """See `Engine`."""
        x, (hidden, cell), dtype = call.x, call.state, product_dtype(call.x)
        parts = (x, hidden, layer.weight, layer.bias, layer.projection)
        cell = cell.to(torch.promote_types(cell.dtype, torch.float32))
        x_, hidden_, *parameters = (None if part is None else part.to(dtype) for part in parts)
        clips = (layer.cell_clip, layer.proj_clip)
        settings = call.steps(), clips, layer.forget_bias
        y, last_hidden, last_cell = _Recurrence.apply(x_, hidden_, cell, *parameters, *settings)  # type: ignore[no-untyped-call]
        return y.to(x.dtype), (last_hidden.to(x.dtype), last_cell)

    def precision(self, layer: Layer, call: Call) -> str:
        """See `Engine`."""
        return name_of(product_dtype(call.x))


class _Recurrence(torch.autograd.Function):
    """The recurrence with a backward pass written by hand.

    Autograd would keep some twenty tensors per time step, and add to the gradient of the weights at each step. Here,
    the gradients of the gates of all steps are in one array, and the gradients of the weights and of `x` follow from it
    in a few large products.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        hidden: Tensor,
        cell: Tensor,
        weight: Tensor,
        bias: Tensor,
        projection: Tensor | None,
        steps: list[TimeStep],
        clips: tuple[float | None, float | None],
        forget_bias: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute outputs and final states like the plain recurrence. Keep gates, cells and outputs of every step."""
        (_, n_tokens, n_in), dim = x.shape, cell.shape[2]
        gates = x.new_empty(2, n_tokens, 4 * dim)
        cells, cell_outputs = cell.new_empty(2, n_tokens, dim), x.new_empty(2, n_tokens, dim)
        outputs = x.new_empty(2, n_tokens, hidden.shape[2])
        ctx.initial, last_hidden, last_cell = (hidden, cell), hidden.clone(), cell.clone()
        torch.baddbmm(with_forget_bias(bias, forget_bias), x, weight[:, :n_in], out=gates)
        recurrent = weight[:, n_in:].contiguous()  # otherwise torch copies it at each time step
        step_forward = training_kernels.step_forward if training_kernels.can_compute(x) else _step_forward
        for step in steps:
            now = step.tokens
            gates[:, now].baddbmm_(step.keep(hidden[:, : step.rows]), recurrent)
            step_forward(gates[:, now], cell[:, : step.rows], cells[:, now], cell_outputs[:, now], step.kept, clips[0])
            cell, hidden = cells[:, now], cell_outputs[:, now]
            if projection is not None:
                hidden = clip_(torch.bmm(hidden, projection), clips[1])
            outputs[:, now] = hidden
            last_hidden[:, : step.rows], last_cell[:, : step.rows] = hidden, cell
        ctx.save_for_backward(x, weight, projection, gates, cells, cell_outputs, outputs)
        ctx.steps, ctx.clips = steps, clips
        return outputs, last_hidden, last_cell

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Go through the time steps backwards. A name with `d_` is the gradient of what follows it."""
        x, weight, projection, gates, cells, cell_outputs, outputs = ctx.saved_tensors
        (d_outputs, d_hidden, d_cell), n_in = (grad.clone() for grad in grads), x.shape[2]
        initial_hidden, initial_cell = ctx.initial
        d_gates = torch.empty_like(gates)
        recurrent = weight[:, n_in:].transpose(1, 2).contiguous()  # otherwise torch copies it at each time step
        step_backward = training_kernels.step_backward if training_kernels.can_compute(x) else _step_backward
        for number in reversed(range(len(ctx.steps))):
            step = ctx.steps[number]
            now, rows = step.tokens, step.rows
            found = cells[:, ctx.steps[number - 1].tokens][:, :rows] if number else initial_cell[:, :rows]
            d_now = d_outputs[:, now].add_(d_hidden[:, :rows])
            if projection is not None:
                d_now = torch.bmm(_through_clip(d_now, outputs[:, now], ctx.clips[1]), projection.transpose(1, 2))
            step_backward(
                gates[:, now], cells[:, now], found, d_now, d_cell[:, :rows], d_gates[:, now], step.kept, ctx.clips[0]
            )
            d_hidden[:, :rows] = step.keep(torch.bmm(d_gates[:, now], recurrent))
        read = torch.cat([x, _found_hidden(ctx.steps, initial_hidden, outputs)], dim=2)
        d_weight = torch.bmm(read.transpose(1, 2), d_gates)
        d_projection = None
        if projection is not None:
            d_projection = torch.bmm(cell_outputs.transpose(1, 2), d_outputs)
        d_bias = torch.bmm(x.new_ones(2, 1, x.shape[1]), d_gates).squeeze(1)
        d_x = torch.bmm(d_gates, weight[:, :n_in].transpose(1, 2)) if ctx.needs_input_grad[0] else None
        return d_x, d_hidden, d_cell, d_weight, d_bias, d_projection, None, None, None


def _step_forward(
    gates: Tensor, found: Tensor, cells: Tensor, hidden: Tensor, kept: Tensor | None, cell_clip: float | None
) -> None:
    """Do what `training_kernels.step_forward` does, with torch's operators."""
    input_gate, forget_gate, output_gate, candidate = activate_(gates)
    found = found if kept is None else found * kept.to(found)
    torch.mul(found, forget_gate, out=cells).addcmul_(input_gate, candidate)
    tanh_(hidden.copy_(clip_(cells, cell_clip))).mul_(output_gate)


def _step_backward(
    gates: Tensor,
    cells: Tensor,
    found: Tensor,
    d_hidden: Tensor,
    d_cells: Tensor,
    d_gates: Tensor,
    kept: Tensor | None,
    cell_clip: float | None,
) -> None:
    """Do what `training_kernels.step_backward` does, with torch's operators. It overwrites `d_hidden`."""
    ops = torch.ops.aten
    input_gate, forget_gate, output_gate, candidate = gates.chunk(4, dim=-1)
    d_input, d_forget, d_output_gate, d_candidate = d_gates.chunk(4, dim=-1)
    squashed = tanh_(cells.to(gates, copy=True))
    ops.sigmoid_backward.grad_input(d_hidden * squashed, output_gate, grad_input=d_output_gate)
    d_cells.add_(ops.tanh_backward(d_hidden.mul_(output_gate), squashed))
    d_cell = _through_clip(d_cells.clone(), cells, cell_clip)
    found = found if kept is None else found * kept.to(found)
    ops.sigmoid_backward.grad_input(d_cell * candidate, input_gate, grad_input=d_input)
    ops.sigmoid_backward.grad_input(d_cell * found, forget_gate, grad_input=d_forget)
    ops.tanh_backward.grad_input(d_cell * input_gate, candidate, grad_input=d_candidate)
    d_cells.copy_(d_cell.mul_(forget_gate) if kept is None else d_cell.mul_(forget_gate).mul_(kept.to(found)))


def _found_hidden(steps: list[TimeStep], initial: Tensor, outputs: Tensor) -> Tensor:
    """Return the hidden state before each step, `[2, n_tokens, projection_dim]`."""
    found = [steps[0].keep(initial)]
    for before, step in itertools.pairwise(steps):
        found.append(step.keep(outputs[:, before.tokens][:, : step.rows]))
    return torch.cat(found, dim=1)


def _through_clip(grad: Tensor, clipped: Tensor, limit: float | None) -> Tensor:
    """Set the gradient to zero where the clip was active, in place."""
    if limit is None:
        return grad
    return torch.ops.aten.hardtanh_backward.grad_input(grad, clipped, -limit, limit, grad_input=grad)  # type: ignore[no-any-return]
