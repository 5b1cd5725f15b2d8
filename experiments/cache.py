"""Time epochs of NER over a frozen biLM with and without the cache of its outputs, compared with a plain tok2vec.

    python experiments/cache.py [--sentences N] [--epochs N] [--batch-words N] [--weights MODEL] [--data DIR]
                               [--threads N] [--json FILE]

The data is WNUT-17. All pipelines have the same encoder and head (pipelines.py) and learn from the same batches. `elmo`
has the mixed layers of the biLM instead of the tok2vec's hash embeddings; `elmo_concat` has both. The encoder is as
wide as the biLM's vectors.

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
dev F1: score of the trained pipeline. With and without cache it should be the same except for rounding.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))  # the harness

import torch
from corpora import TASKS, Corpus, n_words
from environments import note
from harness import Row, positive, ratio, render_table
from pipelines import BASELINE, ENCODERS, Training, components, make_examples, make_pipeline
from tasks import make_parser, publish, versions
from thinc.api import fix_random_seed

from spacy_elmo import formats
from spacy_elmo.pipeline.component import ElmoComponent
from spacy_elmo.tools.machine import processor_name

TASK = TASKS["wnut17"]
REMEMBERING = ("elmo", "elmo_concat")
CACHE_MB = 2.0**20  # more than any corpus here takes


def main() -> None:
    """Run the experiment."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--sentences", type=positive, help="use the first N of the training part; by default all")
    parser.add_argument("--epochs", type=positive, default=4, help="epochs of each pipeline, at least 2")
    parser.add_argument("--batch-words", type=positive, default=1_000, help="words per batch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report = run(args)
    about = [f"{name}: {value}" for name, value in report.items() if name != "rows"]
    publish(report, "\n".join([*about, *render_table(report["rows"])]), args.json)


class Arm:
    """A pipeline in training, and its row of the table."""

    def __init__(self, variant: str, memory: str, corpus: Corpus, args: argparse.Namespace, **elmo: Any) -> None:
        self.row: Row = {"variant": variant, "memory": memory}
        self.seconds: list[float] = []
        encoder = (args.bilm_width, ENCODERS["ner"][1])
        nlp = make_pipeline(components("ner", variant, args.bilm_width, encoder), args.weights, **elmo)
        examples = make_examples(nlp.vocab, corpus.train, TASK, [])
        self.training = Training(nlp, examples, seed=0, batch_words=args.batch_words)
        self.dev = make_examples(nlp.vocab, corpus.dev, TASK, [])

    def run_epoch(self) -> None:
        """Run and time the updates of an epoch."""
        start = time.perf_counter()
        for batch in self.training.epoch():
            self.training.update(batch)
        self.seconds.append(time.perf_counter() - start)

    def finish(self, plain: list[float]) -> Row:
        """Compare with the seconds of the tok2vec, read the cache's figures, score, and close its file."""
        nlp, row = self.training.nlp, self.row
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


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run all except the warm pipelines, then these; return the machine, the versions and the rows."""
    bilm = formats.load(args.weights)
    args.bilm_width = bilm.options.width
    corpus = TASK.read(args.data)
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
    about: dict[str, Any] = {"versions": versions(), "processor": processor_name(), "digest": formats.digest(bilm)}
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
