"""A corpus in, a table of epoch times out: NER over a frozen biLM whose outputs are remembered, beside a plain tok2vec.

    python benchmarks/cache.py [--task wnut17|uner_ewt] [--sentences N] [--epochs N] [--variants elmo,elmo_concat]
                               [--batch-words N] [--width N] [--weights MODEL] [--data DIR] [--threads N] [--json FILE]

All have the same encoder and head (pipelines.py) and learn from the same batches; `elmo` has the mixed layers of the
biLM where the tok2vec has hash embeddings, `elmo_concat` has both. The encoder's width is that of the biLM's vectors.

    cache         cache_mb, large enough for the corpus
    no cache      cache_mb = 0: the biLM runs in every epoch
    file          cache_path, a file that is not there yet
    file, warm    cache_path, the file that the run before has left

They run side by side: the first epoch of each, then the second of each, and so on, so that what else the machine does
meets all of them; the warm ones beside a tok2vec of their own, after the others. Before each round the machine's
float32 matrix product (SGEMM) is measured. An epoch is the updates of one pass over the training sentences; loading
and initialization are not in it.

ratio: seconds of an epoch over those of the tok2vec's in the same round; of the first, and the median of the later.
hits, misses: sentences found and not found in the cache, over all epochs; one twice in a batch is looked up once.
MiB: of the cache, in memory or in its file; sentences: distinct ones in it.
dev F1: of the trained pipeline. With and without cache it should be the same but for rounding.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from common import carry_out, cpu_name, make_parser, names_of, note, positive, render_rates, sgemm_rate
from corpora import TASKS, Corpus
from pipelines import BASELINE, ENCODERS, FINE_TUNED, VARIANTS, Training, components, make_examples, make_pipeline
from tasks import DATA, versions
from thinc.api import fix_random_seed

from spacy_elmo import formats
from spacy_elmo.pipeline.component import ElmoComponent

NER_TASKS = [name for name, task in TASKS.items() if task.component == "ner"]
FROZEN = [variant for variant in VARIANTS if variant not in (BASELINE, FINE_TUNED)]
CACHE_MB = 2.0**20  # more than any corpus here takes


def main() -> None:
    """Run the benchmark."""
    carry_out(parse_arguments(), run, render)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--task", choices=NER_TASKS, default="wnut17", help="the corpus")
    parser.add_argument("--sentences", type=positive, help="first N of the training part; None is all")
    parser.add_argument("--epochs", type=at_least_two, default=4, help="of each")
    parser.add_argument("--variants", type=names_of(FROZEN), default="elmo,elmo_concat", help="comma-separated")
    parser.add_argument("--batch-words", type=positive, default=1_000, help="words of a batch")
    parser.add_argument("--width", type=positive, help="of the encoder; None is that of the biLM's vectors")
    parser.add_argument("--depth", type=positive, default=ENCODERS["ner"][1], help="of the encoder")
    parser.add_argument("--weights", default=formats.BUNDLED, help="the biLM: a name, directory or file")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches")
    parser.add_argument("--data", type=Path, default=DATA, help="directory of the corpora")
    return parser.parse_args()


def at_least_two(text: str) -> int:
    """Parse a whole number of at least 2."""
    if (number := int(text)) < 2:
        raise argparse.ArgumentTypeError(f"expected at least 2, got {text}: there must be a later epoch")
    return number


@dataclass
class Row:
    """One line of the table; what does not apply is None."""

    variant: str
    memory: str
    seconds: list[float] = field(default_factory=list)
    ratio_first: float | None = None
    ratio_later: float | None = None
    hits: int | None = None
    misses: int | None = None
    sentences: int | None = None
    bytes: int | None = None
    dev_f1: float = 0.0


class Arm:
    """A pipeline in training, and the line that it gives."""

    def __init__(self, variant: str, memory: str, corpus: Corpus, args: argparse.Namespace, **elmo: Any) -> None:
        self.row = Row(variant, memory)
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
        self.row.seconds.append(time.perf_counter() - start)

    def finish(self) -> Row:
        """Look at the cache, score, and let go of a file."""
        nlp, row = self.training.nlp, self.row
        elmo = nlp.get_pipe("elmo") if nlp.has_pipe("elmo") else None
        if isinstance(elmo, ElmoComponent) and (cache := elmo.memory.cache):
            row.hits, row.misses, row.sentences, row.bytes = cache.hits, cache.misses, len(cache), cache.n_bytes
        if isinstance(elmo, ElmoComponent):
            elmo.memory.clear()
            elmo.memory.is_on = False  # the dev part shall not be in it
        row.dev_f1 = nlp.evaluate(self.dev)["ents_f"] or 0.0
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
        rows, sgemm = race(arms, args.epochs)
        arms = [Arm(BASELINE, "", corpus, args)]
        arms += [Arm(variant, "file, warm", corpus, args, cache_path=file) for variant, file in files.items()]
        warm_rows, warm_sgemm = race(arms, args.epochs)
    return {
        "versions": versions(),
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "sgemm_gflops": [rate / 1e9 for rate in sgemm + warm_sgemm],
        "weights": args.weights,
        "digest": formats.digest(bilm),
        "task": args.task,
        "train_sentences": len(corpus.train),
        "train_words": sum(len(item.words) for item in corpus.train),
        "batch_words": args.batch_words,
        "width": args.width or args.bilm_width,
        "depth": args.depth,
        "rows": [asdict(row) for row in rows + warm_rows],
    }


def race(arms: list[Arm], epochs: int) -> tuple[list[Row], list[float]]:
    """Run all side by side; the first is what the others are compared with. Returns their rows and SGEMM rates."""
    sgemm = []
    for epoch in range(1, epochs + 1):
        sgemm.append(sgemm_rate())
        for arm in arms:
            fix_random_seed(epoch)  # the same dropout in all: what is left to tell them apart is the cache
            arm.run_epoch()
            note(f"epoch {epoch} of {epochs}: {arm.row.variant} {arm.row.memory}: {arm.row.seconds[-1]:.2f} s")
    rows = [arm.finish() for arm in arms]
    for row in rows[1:]:
        ratios = [own / plain for own, plain in zip(row.seconds, rows[0].seconds, strict=True)]
        row.ratio_first, row.ratio_later = ratios[0], statistics.median(ratios[1:])
    return rows, sgemm


def render(report: dict[str, Any]) -> str:
    """Lay the report out as text."""
    rates, epochs = report["sgemm_gflops"], len(report["rows"][0]["seconds"])
    lines = [
        ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
        f"{report['cpu']}, {report['threads']} threads; SGEMM {render_rates(rates)}",
        f"{report['task']}: {report['train_sentences']} sentences, {report['train_words']} words, batches of "
        f"{report['batch_words']}; weights {report['weights']} ({report['digest'][:12]}); encoder width "
        f"{report['width']}, depth {report['depth']}",
        "",
        f"{'seconds of epoch':<24}"
        + "".join(f"{epoch:>8}" for epoch in range(1, epochs + 1))
        + "   ratio first  later     hits  misses  sentences    MiB  dev F1",
        *(render_row(row) for row in report["rows"]),
    ]
    return "\n".join(lines)


def render_row(row: dict[str, Any]) -> str:
    """Lay one row out as text."""
    first, later = ("-" if row[name] is None else f"{row[name]:.2f}" for name in ("ratio_first", "ratio_later"))
    hits, misses, sentences = ("-" if row[name] is None else row[name] for name in ("hits", "misses", "sentences"))
    size = "-" if row["bytes"] is None else f"{row['bytes'] / 2**20:.0f}"
    return (
        f"{row['variant']:<12} {row['memory']:<11}{''.join(f'{seconds:>8.2f}' for seconds in row['seconds'])}"
        f"{first:>14}{later:>7}{hits:>9}{misses:>8}{sentences:>11}{size:>7}{100 * row['dev_f1']:>8.2f}"
    )


if __name__ == "__main__":
    main()
