"""Time epochs of NER over a frozen biLM with and without the cache of its outputs, compared with a plain tok2vec.

    python experiments/cache.py [--sentences N] [--epochs N] [--batch-words N] [--weights MODEL] [--data DIR]
                               [--threads N] [--json FILE]

The data is WNUT-17. All pipelines learn from the same batches:

- tok2vec: `python -m spacy init config --pipeline ner`
- elmo: `python -m spacy elmo init-config --pipeline ner`
- elmo_accuracy: the same with `--optimize accuracy`: with a wider encoder

Each of the last two runs with each of these:

- cache: cache_mb, large enough for the corpus
- no cache: cache_mb = 0, so the biLM runs in every epoch
- file: cache_path, a new file
- file, warm: cache_path, the file that the previous run left

They run side by side: the first epoch of each, then the second of each, and so on. So other work on the machine affects
all of them. The warm ones run after the others, together with another tok2vec. An epoch is the updates of one pass over
the training sentences, without loading and initialization.

ratio: seconds of an epoch divided by the tok2vec's in the same round; for the first, and the median of the later.
hits, misses: sentences found and not found in the cache, over all epochs. Within a batch each is looked up once.
MiB: size of the cache, in memory or in its file; sentences: number of distinct sentences in it.
dev F1: score of the trained pipeline. With and without cache it should be the same except for rounding. The trainings
    are too short to compare the variants by it: use heads.py for that.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))  # the harness

import torch
from corpora import Corpus, Item, n_words, read_wnut17
from environments import note
from harness import PACKAGES, Row, file_to_write, positive, ratio, render_table
from heads import DATA, configure
from spacy import util
from spacy.schemas import ConfigSchemaTraining
from spacy.tokens import Doc
from spacy.training import Example
from spacy.vocab import Vocab
from thinc.api import fix_random_seed

from spacy_elmo import formats
from spacy_elmo.pipeline.component import ElmoComponent
from spacy_elmo.tools.machine import processor_name

BASELINE = "tok2vec"
REMEMBERING = {"elmo": "default", "elmo_accuracy": "accuracy"}  # their kinds in heads.py
CACHE_MB = 2.0**20  # more than any corpus here takes


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--sentences", type=positive, help="use the first N of the training part; by default all")
    add("--epochs", type=positive, default=4, help="epochs of each pipeline, at least 2")
    add("--batch-words", type=positive, default=1_000, help="words per batch")
    add("--weights", default=formats.BUNDLED, help="the biLM: a name, directory or file")
    add("--data", type=Path, default=DATA, help="directory of the corpora")
    add("--threads", type=positive, default=torch.get_num_threads(), help="threads of torch")
    add("--json", type=file_to_write, metavar="FILE", help="also write the results to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report = run(args)
    about = [f"{name}: {value}" for name, value in report.items() if name != "rows"]
    print("\n".join([*about, *render_table(report["rows"])]))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


class Arm:
    """A pipeline in training, and its row of the table."""

    def __init__(self, variant: str, memory: str, corpus: Corpus, args: argparse.Namespace, **elmo: Any) -> None:
        self.row: Row = {"variant": variant, "memory": memory}
        self.seconds: list[float] = []
        config: Any = configure(REMEMBERING.get(variant, BASELINE), "ner", args.weights)[0]
        config = config.copy()  # `configure` returns the same one again
        config["training"]["batcher"]["size"] = args.batch_words
        if elmo:
            config["components"]["elmo"] |= elmo
        fix_random_seed(0)
        self.nlp = util.load_model_from_config(config)
        self.training = util.registry.resolve(config.interpolate()["training"], schema=ConfigSchemaTraining)
        self.train, self.dev = (examples(self.nlp.vocab, items) for items in (corpus.train, corpus.dev))
        self.optimizer = self.nlp.initialize(lambda: self.train)
        self.random = random.Random(0)

    def run_epoch(self) -> None:
        """Run and time the updates of an epoch, like the loop of `spacy train`."""
        annotating, dropout = self.training["annotating_components"], self.training["dropout"]
        start = time.perf_counter()
        self.random.shuffle(self.train)
        for batch in self.training["batcher"](self.train):
            self.nlp.update(batch, drop=dropout, sgd=False, annotates=annotating)  # type: ignore[arg-type]
            for _, component in self.nlp.pipeline:
                if hasattr(component, "finish_update"):
                    component.finish_update(self.optimizer)
            self.optimizer.step_schedules()  # type: ignore[no-untyped-call]
        self.seconds.append(time.perf_counter() - start)

    def finish(self, plain: list[float]) -> Row:
        """Compare with the seconds of the tok2vec, read the cache's figures, score, and close its file."""
        nlp, row = self.nlp, self.row
        row |= {f"epoch {number}": seconds for number, seconds in enumerate(self.seconds, start=1)}
        is_plain = self.seconds is plain
        row["ratio first"] = None if is_plain else self.seconds[0] / plain[0]
        row["later"] = None if is_plain else ratio(self.seconds[1:], plain[1:])
        elmo = nlp.get_pipe("elmo") if nlp.has_pipe("elmo") else None
        if isinstance(elmo, ElmoComponent):
            if cache := elmo.memory.cache:
                row |= {"hits": cache.hits, "misses": cache.misses}
                row |= {"sentences": len(cache), "MiB": cache.n_bytes / 2**20}
            elmo.memory.clear()
            elmo.memory.is_on = False  # keeps the dev part out of it
        row["dev F1"] = f"{100 * (nlp.evaluate(self.dev)['ents_f'] or 0.0):.2f}"
        return row


def examples(vocab: Vocab, items: Iterable[Item]) -> list[Example]:
    """Make a Doc without and one with entities for each sentence."""
    return [Example(Doc(vocab, words=item.words), Doc(vocab, words=item.words, ents=list(item.gold))) for item in items]


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run all except the warm pipelines, then these; return the machine, the versions and the rows."""
    corpus = read_wnut17(args.data)
    corpus = Corpus(corpus.train[: args.sentences], corpus.dev, corpus.test)
    with tempfile.TemporaryDirectory() as directory:
        files = {variant: str(Path(directory) / variant) for variant in REMEMBERING}
        arms = [Arm(BASELINE, "", corpus, args)]
        for variant, file in files.items():
            arms += [
                Arm(variant, "cache", corpus, args, cache_mb=CACHE_MB),
                Arm(variant, "no cache", corpus, args, cache_mb=0),
                Arm(variant, "file", corpus, args, cache_path=file),
            ]
        rows = race(arms, args.epochs)
        arms = [Arm(BASELINE, "", corpus, args)]
        arms += [Arm(variant, "file, warm", corpus, args, cache_path=file) for variant, file in files.items()]
        rows += race(arms, args.epochs)
    versions = {package: metadata.version(package) for package in PACKAGES}
    digest = configure("default", "ner", args.weights)[-1]
    about: dict[str, Any] = {"versions": versions, "processor": processor_name(), "digest": digest}
    about |= {"train_sentences": len(corpus.train), "train_words": n_words(corpus.train)}
    return {**about, "threads": args.threads, "weights": args.weights, "batch_words": args.batch_words, "rows": rows}


def race(arms: list[Arm], epochs: int) -> list[Row]:
    """Run all side by side, and compare the others with the first. Returns their rows."""
    for epoch in range(1, epochs + 1):
        for arm in arms:
            fix_random_seed(epoch)  # the same dropout in all, so that they differ only in the cache
            arm.run_epoch()
            note(f"epoch {epoch} of {epochs}: {arm.row['variant']} {arm.row['memory']}: {arm.seconds[-1]:.2f} s")
    return [arm.finish(arms[0].seconds) for arm in arms]


if __name__ == "__main__":
    main()
