"""Runs torch's packed products (oneDNN, FBGEMM), one direction after the other: frozen weights on an x86 CPU in any
precision."""

import torch
from torch import Tensor

from spacy_elmo.bilm import gates, kernels
from spacy_elmo.bilm.engines.engine import Call, Engine, Layer, block_rows, reasons_against_a_copy
from spacy_elmo.bilm.products import DirectionProducts, reasons_against_packing
from spacy_elmo.bilm.time_steps import State, TimeStep, time_blocks, tokens_of


class PackedProducts(Engine):
    """Computes the input half of the gates for several time steps at once. Then it computes, step by step, the half
    from the hidden state, the update of the gates, and the projection."""

    name = "packed_products"

    def reasons_against(self, layer: Layer, call: Call) -> list[str]:
        """See `Engine`."""
        return reasons_against_packing(call.x, layer.precision) + reasons_against_a_copy(layer)

    def run(self, layer: Layer, call: Call) -> tuple[Tensor, State]:
        """See `Engine`."""
        x, steps = call.x, call.steps()
        outputs = x.new_empty(2, x.shape[1], layer.projection_dim)
        hidden, cell = (part.to(x, copy=True).contiguous() for part in call.state)
        for direction, products in enumerate(layer.packed(x)):
            state = hidden[direction], cell[direction]
            for some in time_blocks(steps, block_rows(layer.dim, x.dtype)):
                tokens = tokens_of(some)
                _run_steps(products, layer.cell_clip, x[direction, tokens], state, some, outputs[direction, tokens])
        return outputs, (hidden, cell)

    def precision(self, layer: Layer, call: Call) -> str:
        """See `Engine`."""
        return layer.precision

    def prepare(self, layer: Layer) -> None:
        """Pack the weights."""
        with torch.no_grad():
            layer.packed(torch.empty(0, dtype=torch.float32, device="cpu"))


def _run_steps(
    products: DirectionProducts,
    cell_clip: float | None,
    x: Tensor,
    state: State,
    steps: list[TimeStep],
    outputs: Tensor,
) -> None:
    """Fill in `outputs` and update the state. A row whose sequence has ended keeps its final state."""
    update = gates.update_gates if kernels.reasons_against_kernels(x) else kernels.update_gates
    sizes = [step.rows for step in steps]
    for step, inputs, found in zip(steps, products.inputs(x).split(sizes), outputs.split(sizes), strict=True):
        hidden, cell = (part[: step.rows] for part in state)
        if step.kept is not None:
            hidden.copy_(step.keep(hidden)), cell.copy_(step.keep(cell))
        new = update(products.hidden(hidden), inputs, cell, cell_clip)
        found.copy_(products.projection(new) if products.projection else new)
        hidden.copy_(found)
