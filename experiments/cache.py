"""A corpus in, a table of epoch times out: NER over a frozen biLM whose outputs are remembered, beside a plain tok2vec.

    python experiments/cache.py [--task wnut17|uner_ewt] [--sentences N] [--epochs N] [--variants elmo,elmo_concat]
                               [--batch-words N] [--width N] [--weights MODEL] [--data DIR] [--threads N] [--json FILE]

All have the same encoder and head (pipelines.py) and learn from the same batches; `elmo` has the mixed layers of the
biLM where the tok2vec has hash embeddings, `elmo_concat` has both. The encoder's width is that of the biLM's vectors.

    cache         cache_mb, large enough for the corpus
    no cache      cache_mb = 0: the biLM runs in every epoch
    file          cache_path, a file that is not there yet
    file, warm    cache_path, the file that the run before has left

They run side by side: the first epoch of each, then the second of each, and so on, so that what else the machine does
meets all of them; the warm ones beside a tok2vec of their own, after the others. An epoch is the updates of one pass
over the training sentences; loading and initialization are not in it.

ratio: seconds of an epoch over those of the tok2vec's in the same round; of the first, and the median of the later.
hits, misses: sentences found and not found in the cache, over all epochs; one twice in a batch is looked up once.
MiB: of the cache, in memory or in its file; sentences: distinct ones in it.
dev F1: of the trained pipeline. With and without cache it should be the same but for rounding.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))  # the harness

import torch
from corpora import TASKS, Corpus
from environments import note
from harness import Row, at_least, cpu_name, names_of, render_table
from pipelines import BASELINE, ENCODERS, FINE_TUNED, VARIANTS, Training, components, make_examples, make_pipeline
from tasks import make_parser, publish, versions
from thinc.api import fix_random_seed

from spacy_elmo import formats
from spacy_elmo.pipeline.component import ElmoComponent

NER_TASKS = [name for name, task in TASKS.items() if task.component == "ner"]
FROZEN = [variant for variant in VARIANTS if variant not in (BASELINE, FINE_TUNED)]
CACHE_MB = 2.0**20  # more than any corpus here takes


def main() -> None:
    """Run the experiment."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    report = run(args)
    about = {name: report[name] for name in ("cpu", "threads", "task", "train_sentences", "train_words", "digest")}
    publish(report, "\n".join([*(f"{k}: {v}" for k, v in about.items()), *render_table(report["rows"])]), args.json)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--task", choices=NER_TASKS, default="wnut17", help="the corpus")
    parser.add_argument("--sentences", type=at_least(1), help="first N of the training part; None is all")
    parser.add_argument("--epochs", type=at_least(2), default=4, help="of each, at least a later one")
    parser.add_argument("--variants", type=names_of(FROZEN), default="elmo,elmo_concat", help="comma-separated")
    parser.add_argument("--batch-words", type=at_least(1), default=1_000, help="words of a batch")
    parser.add_argument("--width", type=at_least(1), help="of the encoder; None is that of the biLM's vectors")
    parser.add_argument("--depth", type=at_least(1), default=ENCODERS["ner"][1], help="of the encoder")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches")
    return parser.parse_args()


class Arm:
    """A pipeline in training, and the line that it gives."""

    def __init__(self, variant: str, memory: str, corpus: Corpus, args: argparse.Namespace, **elmo: Any) -> None:
        self.row: Row = {"variant": variant, "memory": memory}
        self.seconds: list[float] = []
        task, elmo_width = TASKS[args.task], args.bilm_width
        settings = components("ner", variant, elmo_width, (args.width or elmo_width, args.depth))
        nlp = make_pipeline(settings, args.weights, **elmo)
        self.training = Training(nlp, make_examples(nlp.vocab, corpus.train, task, []), args.seed, args.batch_words)
        self.dev = make_examples(nlp.vocab, corpus.dev, task, [])

    def run_epoch(self) -> None:
        """Take and time the updates of an epoch."""
        start = time.perf_counter()
        for batch in self.training.epoch():
            self.training.update(batch)
        self.seconds.append(time.perf_counter() - start)

    def finish(self, plain: list[float]) -> Row:
        """Compare with the seconds of the tok2vec, look at the cache, score, and let go of a file."""
        nlp, row = self.training.nlp, self.row
        row |= {f"epoch {number}": seconds for number, seconds in enumerate(self.seconds, start=1)}
        ratios = [own / other for own, other in zip(self.seconds, plain, strict=True)]
        is_plain = self.seconds is plain
        row["ratio first"] = None if is_plain else ratios[0]
        row["later"] = None if is_plain else float(statistics.median(ratios[1:]))
        elmo = nlp.get_pipe("elmo") if nlp.has_pipe("elmo") else None
        if isinstance(elmo, ElmoComponent):
            if cache := elmo.memory.cache:
                row |= {"hits": cache.hits, "misses": cache.misses}
                row |= {"sentences": len(cache), "MiB": cache.n_bytes / 2**20}
            elmo.memory.clear()
            elmo.memory.is_on = False  # the dev part shall not be in it
        row["dev F1"] = f"{100 * (nlp.evaluate(self.dev)['ents_f'] or 0.0):.2f}"
        return row


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Race all but the warm ones, then those; return the machine, the versions and the rows."""
    bilm = formats.load(args.weights)
    args.bilm_width = bilm.options.width
    corpus = TASKS[args.task].read(args.data)
    corpus = Corpus(corpus.train[: args.sentences], corpus.dev, corpus.test)
    with tempfile.TemporaryDirectory() as directory:
        files = {variant: str(Path(directory) / variant) for variant in args.variants}
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
    return {
        "versions": versions(),
        "cpu": cpu_name(),
        "digest": formats.digest(bilm),
        "train_sentences": len(corpus.train),
        "train_words": sum(len(item.words) for item in corpus.train),
        **{name: getattr(args, name) for name in ("threads", "weights", "task", "batch_words", "width", "depth")},
        "rows": rows,
    }


def race(arms: list[Arm], epochs: int) -> list[Row]:
    """Run all side by side; the first is what the others are compared with. Returns their rows."""
    for epoch in range(1, epochs + 1):
        for arm in arms:
            fix_random_seed(epoch)  # the same dropout in all: what is left to tell them apart is the cache
            arm.run_epoch()
            note(f"epoch {epoch} of {epochs}: {arm.row['variant']} {arm.row['memory']}: {arm.seconds[-1]:.2f} s")
    return [arm.finish(arms[0].seconds) for arm in arms]


if __name__ == "__main__":
    main()
