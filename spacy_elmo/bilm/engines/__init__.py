"""Chooses the fastest engine that can run a call of a layer.

Each file here runs the recurrence of `bilm/lstm.py` in a way that is faster for some cases. All engines have the same
interface (engine.py). `ENGINES` lists them, fastest first. The first engine that has no reason against a call runs it.
If all have one, the plain recurrence of `bilm/lstm.py` runs it.

| file | runs |
|---|---|
| cuda_graphs.py | frozen weights on a GPU: single sentences and streams |
| compiled.py | frozen weights on a CPU in float32: single sentences and streams |
| packed_products.py | frozen weights on a CPU in float16 and int8, and in float32 without the compiled part |
| cudnn.py | training on a GPU without clips, rows of one length |
| gradients_by_hand.py | all other training, on CPU and GPU |
| in_place.py | everything else without gradients |
"""

from spacy_elmo.bilm.engines.compiled import Compiled
from spacy_elmo.bilm.engines.cuda_graphs import CudaGraphs
from spacy_elmo.bilm.engines.cudnn import CuDNN
from spacy_elmo.bilm.engines.engine import Call, Engine, Layer
from spacy_elmo.bilm.engines.gradients_by_hand import GradientsByHand
from spacy_elmo.bilm.engines.in_place import InPlace
from spacy_elmo.bilm.engines.packed_products import PackedProducts

ENGINES: tuple[Engine, ...] = (CudaGraphs(), Compiled(), PackedProducts(), CuDNN(), GradientsByHand(), InPlace())


def choose(layer: Layer, call: Call) -> Engine | None:
    """Return the first engine that has no reason against this call; None if all have one."""
    return next((engine for engine in ENGINES if not engine.reasons_against(layer, call)), None)


__all__ = ["ENGINES", "Call", "Engine", "Layer", "choose"]
