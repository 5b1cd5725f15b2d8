"""Runs torch's operators in place and only keeps the outputs: without gradients, on any device, in any dtype."""

import torch
from torch import Tensor

from spacy_elmo.bilm.engines.engine import Call, Engine, Layer, block_rows
from spacy_elmo.bilm.gates import clip_, with_forget_bias
from spacy_elmo.bilm.time_steps import State, time_blocks, tokens_of


class InPlace(Engine):
    """Both directions in one product per time step, all in the dtype of the weights."""

    name = "in_place"

    def reasons_against(self, layer: Layer, call: Call) -> list[str]:
        """See `Engine`."""
        if torch.is_grad_enabled():
            return ["it computes no gradients, but gradients are on (torch.inference_mode() turns them off)"]
        return []

    def run(self, layer: Layer, call: Call) -> tuple[Tensor, State]:
        """See `Engine`."""
        steps, dim, given = call.steps(), layer.dim, call.x.dtype
        input_weight, weight = layer.weight[:, : layer.n_in], layer.weight[:, layer.n_in :]
        x, hidden, cell = call.x.to(weight), call.state[0].to(weight), call.state[1].to(weight, copy=True)
        bias = with_forget_bias(layer.bias, layer.forget_bias).to(weight)
        outputs: list[Tensor] = []
        ended: list[State] = []  # final states of rows whose sequence has ended, shortest sequence first
        gates = x.new_empty(2, 0, 4 * dim)
        for some in time_blocks(steps, block_rows(dim, x.dtype)):
            block = torch.baddbmm(bias, x[:, tokens_of(some)], input_weight).split([step.rows for step in some], dim=1)
            for inputs, step in zip(block, some, strict=True):
                if step.rows != gates.shape[1]:
                    ended.append((hidden[:, step.rows :], cell[:, step.rows :]))
                    hidden, cell = hidden[:, : step.rows], cell[:, : step.rows]
                    gates = x.new_empty(2, step.rows, 4 * dim)
                    input_gate, forget_gate, output_gate, candidate = gates.chunk(4, dim=-1)
                    three, squashed = gates[..., : 3 * dim], torch.empty_like(cell)
                hidden, cell = step.keep(hidden), step.keep(cell)
                # Not `baddbmm_` on `inputs`: on a CPU, only a contiguous product uses all threads for few rows.
                torch.bmm(hidden, weight, out=gates).add_(inputs)
                three.sigmoid_()
                clip_(cell.mul_(forget_gate).addcmul_(input_gate, candidate.tanh_()), layer.cell_clip)
                hidden = torch.tanh(cell, out=squashed).mul_(output_gate)
                if layer.projection is None:
                    hidden = hidden.clone()
                else:
                    hidden = clip_(torch.bmm(hidden, layer.projection), layer.proj_clip)
                outputs.append(hidden)
        ended.append((hidden, cell))
        final = [torch.cat(part, dim=1).to(given) for part in zip(*reversed(ended), strict=True)]
        return torch.cat(outputs, dim=1).to(given), (final[0], final[1])
