"""Training on a GPU without clips: runs the whole recurrence of a direction in one call of cuDNN, with torch's LSTM."""

from typing import Any

import torch
from torch import Tensor

from spacy_elmo.bilm.engines.engine import Call, Engine, Layer
from spacy_elmo.bilm.time_steps import State

_GATES = (0, 1, 3, 2)  # torch's order (input, forget, candidate, output) as indices of ours


class CuDNN(Engine):
    """Rows of one length that reset their states only before the first time step, if at all, as in pretraining with
    `reset = "batch"`. Products are in TF32 if torch allows it for cuDNN, which is the default."""

    name = "cudnn"

    def reasons_against(self, layer: Layer, call: Call) -> list[str]:
        """See `Engine`."""
        reasons = []
        if call.x.device.type != "cuda":
            reasons.append(f"it is for a GPU, but the weights are on {call.x.device}")
        elif not torch.backends.cudnn.is_available():
            reasons.append("torch has no cuDNN here")
        if not torch.is_grad_enabled():
            reasons.append("it is for training, but gradients are off")
        if torch.is_autocast_enabled(call.x.device.type):
            reasons.append("under autocast it would round the cells, too")
        return reasons + _reasons_against_case(layer, call)

    def run(self, layer: Layer, call: Call) -> tuple[Tensor, State]:
        """See `Engine`."""
        first = call.steps()[0]
        hidden, cell = (first.keep(state) for state in call.state)
        x = call.x.unflatten(1, (len(call.batch_sizes), call.rows))
        found = [_run(x[n], hidden[n], cell[n], _parameters(layer, n)) for n in range(2)]
        y, last_hidden, last_cell = (torch.stack(parts) for parts in zip(*found, strict=True))
        return y.flatten(1, 2), (last_hidden, last_cell)


def _reasons_against_case(layer: Layer, call: Call) -> list[str]:
    """Return why torch's LSTM would compute something else; empty if it computes the same."""
    reasons = []
    if layer.cell_clip is not None or layer.proj_clip is not None:
        reasons.append("the layer has a clip, but torch's LSTM has none")
    if layer.projection is not None and layer.projection_dim >= layer.dim:
        reasons.append("torch's LSTM can only project to fewer numbers than it has cells")
    if call.batch_sizes[-1] != call.rows:
        reasons.append("sequences differ in length")
    if call.starts is not None and bool(call.starts[call.rows :].any()):
        reasons.append("a row resets its state between time steps")
    return reasons


def _parameters(layer: Layer, direction: int) -> list[Tensor]:
    """Return the weights of a direction in the form of torch's LSTM: of the input, of the state, biases, projection."""
    dim = layer.dim
    weight = layer.weight[direction].unflatten(1, (4, dim))[:, list(_GATES)].flatten(1).t()
    bias = layer.bias[direction].view(4, dim)[list(_GATES)].flatten()
    added = torch.zeros_like(bias)  # torch's second bias
    added[dim : 2 * dim] = layer.forget_bias
    read, recurrent = weight[:, : layer.n_in].contiguous(), weight[:, layer.n_in :].contiguous()
    projection = [] if layer.projection is None else [layer.projection[direction].t().contiguous()]
    return [read, recurrent, bias, added, *projection]


def _run(x: Tensor, hidden: Tensor, cell: Tensor, parameters: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Run one direction. x: `[n_steps, rows, n_in]`; hidden, cell: `[rows, width]`."""
    lstm: Any = torch.lstm  # what `nn.LSTM` calls
    settings = (True, 1, 0.0, True, False, False)  # biases, one layer, no dropout, training, one direction, time first
    y, last_hidden, last_cell = lstm(x, (hidden[None].contiguous(), cell[None].contiguous()), parameters, *settings)
    return y, last_hidden[0], last_cell[0]
