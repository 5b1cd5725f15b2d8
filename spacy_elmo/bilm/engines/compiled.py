"""Runs all time steps of a layer in one call of compiled code, for single sentences and streams: frozen weights in
float32 on a CPU."""

import torch
from torch import Tensor

from spacy_elmo.bilm.engines.engine import Call, Engine, Layer, reasons_against_a_copy
from spacy_elmo.bilm.gates import with_forget_bias
from spacy_elmo.bilm.kernels import DirectionWeights, reasons_against_kernels, run_layer
from spacy_elmo.bilm.time_steps import State


class Compiled(Engine):
    """Rows and directions are independent of each other. So each thread takes some rows of one direction through all of
    their steps, and does not wait for other threads."""

    name = "compiled"

    def reasons_against(self, layer: Layer, call: Call) -> list[str]:
        """See `Engine`."""
        reasons = reasons_against_kernels(call.x) + reasons_against_a_copy(layer)
        if layer.precision != "float32":
            reasons.append(f"it computes in float32, but the precision is {layer.precision}")
        return reasons

    def run(self, layer: Layer, call: Call) -> tuple[Tensor, State]:
        """See `Engine`."""
        hidden, cell = (part.to(call.x, copy=True).contiguous() for part in call.state)
        clips = layer.cell_clip, layer.proj_clip
        x = call.x.contiguous()
        outputs = run_layer(self._weights(layer), clips, x, call.batch_sizes, (hidden, cell), call.starts)
        return outputs, (hidden, cell)

    def prepare(self, layer: Layer) -> None:
        """Lay out the weights."""
        self._weights(layer)

    def _weights(self, layer: Layer) -> list[DirectionWeights]:
        def lay_out() -> list[DirectionWeights]:
            bias = with_forget_bias(layer.bias, layer.forget_bias)[:, 0]
            projections = [None, None] if layer.projection is None else layer.projection.detach()
            with torch.inference_mode(False), torch.no_grad():
                parts = zip(layer.weight.detach(), bias, projections, strict=True)
                return [DirectionWeights.of(*direction) for direction in parts]

        weights = layer.keep(self.name, lay_out)
        assert weights is not None  # otherwise there was a reason against this engine
        return weights
