"""Training on a GPU without clips: the whole recurrence of a direction in one call of cuDNN, by way of torch's LSTM."""

from typing import Any

import torch
from torch import Tensor

from spacy_elmo.bilm.engines.engine import Call, Engine, Layer
from spacy_elmo.bilm.time_steps import State

_GATES = (0, 1, 3, 2)  # torch's order, input, forget, candidate, output, in terms of ours


class CuDNN(Engine):
    """Rows of one length that forget their states, if at all, before the first time step, as pretraining with
    `reset = "batch"` reads them. Products are in TF32 where torch lets cuDNN's be, as by default."""

    name = "cudnn"

    def reasons_against(self, layer: Layer, call: Call) -> list[str]:
        """As `Engine`."""
        reasons = []
        if call.x.device.type != "cuda":
            reasons.append(f"it is for a GPU, and the weights are on {call.x.device}")
        elif not torch.backends.cudnn.is_available():
            reasons.append("torch has no cuDNN here")
        if not torch.is_grad_enabled():
            reasons.append("it is for training, and gradients are off")
        if torch.is_autocast_enabled(call.x.device.type):
            reasons.append("under autocast it would round the cells, too")
        return reasons + _reasons_against_case(layer, call)

    def run(self, layer: Layer, call: Call) -> tuple[Tensor, State]:
        """As `Engine`."""
        first = call.steps()[0]
        hidden, cell = (first.keep(state) for state in call.state)
        x = call.x.unflatten(1, (len(call.batch_sizes), call.rows))
        found = [_run(x[n], hidden[n], cell[n], _parameters(layer, n)) for n in range(2)]
        y, last_hidden, last_cell = (torch.stack(parts) for parts in zip(*found, strict=True))
        return y.flatten(1, 2), (last_hidden, last_cell)


def _reasons_against_case(layer: Layer, call: Call) -> list[str]:
    """Why torch's LSTM is another function than this one; empty where it is the same."""
    reasons = []
    if layer.cell_clip is not None or layer.proj_clip is not None:
        reasons.append("the layer has a clip, and torch's LSTM has none")
    if layer.projection is not None and layer.projection_dim >= layer.dim:
        reasons.append("torch's LSTM only projects to fewer numbers than it has cells")
    if call.batch_sizes[-1] != call.rows:
        reasons.append("sequences differ in length")
    if call.starts is not None and bool(call.starts[call.rows :].any()):
        reasons.append("a row forgets its state between time steps")
    return reasons


def _parameters(layer: Layer, direction: int) -> list[Tensor]:
    """One direction's weights as torch's LSTM takes them: those of the input, of the state, biases, projection."""
    dim = layer.dim
    weight = layer.weight[direction].unflatten(1, (4, dim))[:, list(_GATES)].flatten(1).t()
    bias = layer.bias[direction].view(4, dim)[list(_GATES)].flatten()
    added = torch.zeros_like(bias)  # torch's second bias
    added[dim : 2 * dim] = layer.forget_bias
    read, recurrent = weight[:, : layer.n_in].contiguous(), weight[:, layer.n_in :].contiguous()
    projection = [] if layer.projection is None else [layer.projection[direction].t().contiguous()]
    return [read, recurrent, bias, added, *projection]


def _run(x: Tensor, hidden: Tensor, cell: Tensor, parameters: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """One direction; x: `[n_steps, rows, n_in]`, hidden and cell: `[rows, width]`."""
    lstm: Any = torch.lstm  # what `nn.LSTM` calls
    settings = (True, 1, 0.0, True, False, False)  # biases, one layer, no dropout, training, one direction, time first
    y, last_hidden, last_cell = lstm(x, (hidden[None].contiguous(), cell[None].contiguous()), parameters, *settings)
    return y, last_hidden[0], last_cell[0]
