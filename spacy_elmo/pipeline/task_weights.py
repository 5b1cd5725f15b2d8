"""A pipeline in, the mixes of its components out: what each task has learned about the layers of a biLM."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from spacy.language import Language
from spacy.pipeline.tok2vec import Tok2VecListener
from thinc.api import Model

from spacy_elmo.pipeline.component import ElmoComponent
from spacy_elmo.pipeline.mix import LEARNED, NODE, Layers, mix_weights


@dataclass(frozen=True)
class TaskMix:
    """How a component mixes the layers of a biLM for its task.

    upstream: name of the `elmo` component that it listens to; None if it has its own biLM.
    mix: "learned", or the fixed mix: "mean", "top", "concat", a layer index, a list of weights.
    weights: softmax(s_j) of each layer, the token embedding first (Peters et al. 2018, eq. 1). None if the mix is
        fixed, and before `nlp.initialize`.
    gamma: the factor of their sum. None in the same cases.
    """

    upstream: str | None
    mix: Layers
    weights: list[float] | None = None
    gamma: float | None = None


def task_weights(nlp: Language) -> dict[str, list[TaskMix]]:
    """Return the mixes of each component that reads a biLM, by its name, in the order of the pipeline. Disabled
    components are included.

    A component has a list of mixes, in the order of its model, because one model may use ELMo in several places. A
    `spacy.Tok2VecListener.v1` that listens to `elmo` has the component's own fixed mix.
    """
    elmo = next((pipe for _, pipe in nlp.components if isinstance(pipe, ElmoComponent)), None)
    models = {name: getattr(pipe, "model", None) for name, pipe in nlp.components}
    found = {name: list(_mixes(model, elmo)) for name, model in models.items() if isinstance(model, Model)}
    return {name: mixes for name, mixes in found.items() if mixes}


def _mixes(model: Model[Any, Any], elmo: ElmoComponent | None) -> Iterator[TaskMix]:
    for node in model.walk(order="dfs_pre"):
        if isinstance(node, Tok2VecListener) and elmo is not None and node.upstream_name == elmo.name:
            yield TaskMix(elmo.name, elmo.mix.layers)
        for source, mix in pairwise(node.layers):
            if mix.name == NODE:
                yield _mix_behind(source, mix, elmo)


def _mix_behind(source: Model[Any, Any], mix: Model[Any, Any], elmo: ElmoComponent | None) -> TaskMix:
    """Return the mix after a source of layers; source: a listener or a biLM."""
    link = source.attrs.get("link")
    upstream = None if link is None else link.upstream_name
    if upstream == "*" and elmo is not None:
        upstream = elmo.name
    if (fixed := mix.attrs["fixed"]) is not None:
        return TaskMix(upstream, fixed.layers)
    return TaskMix(upstream, LEARNED, *(mix_weights(mix) if mix.has_param("s") else ()))
