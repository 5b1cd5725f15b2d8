"""Compare ELMo in spaCy pipelines with plain tok2vec on five tasks; print a table of scores.

    python experiments/tasks.py --results DIR [--help]

All variants have the same network above the embedding, the same settings (pipelines.py) and the same number of updates.
With the same seed they also have the same batches of the same sample of the training data. A run scores its pipeline
eight times on the dev part. It reads the best of these states into a new pipeline, and scores that on the test part.
Fine-tuning runs only on wnut17 and scicite.

Each run leaves a file in --results. A run that has a file there is not repeated, so the table grows over several calls.
The table shows all files there with the settings of this call. A run counts as another one if anything in its settings
differs: the weights of the biLM, the network, the number of updates.

score: in percent, mean and standard deviation over the seeds; over tok2vec: mean difference, seed by seed.
best at: the update of the best state, mean. If it is the last update, more updates might have helped.
words/s: of training, all updates without evaluations, and of the new pipeline on the test part; medians.
layer weights, gamma: learned by the task's mix, means; layer 0 is the token embedding.
"""

import argparse
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))  # the harness

import torch
from corpora import TASKS, Corpus, Item, Task, n_words
from environments import note
from harness import file_to_write, names_of, positive
from pipelines import BASELINE, ENCODERS, FINE_TUNED, VARIANTS, Training, components, learned_mix, make_pipeline

from pipelines import make_doc, make_examples, reference  # isort: skip # Docs and Examples
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from task_table import Record, render, tabulate

from spacy_elmo import formats
from spacy_elmo.tools.machine import processor_name

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SIZES = (100, 10)  # percent of the training data
EVALUATIONS = 8
WARM_UP = 64  # items of the dev part to predict before the test part is timed


def main() -> None:
    """Make the missing runs; print the table of all runs."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    plan = Plan.make(args)
    run_missing(plan, args)
    report = make_report(plan, args.results)
    publish(report, render(report), args.json)


def make_parser(description: str) -> argparse.ArgumentParser:
    """Make a parser with the arguments that every experiment has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--data", type=Path, default=DATA, help="directory of the corpora")
    parser.add_argument("--weights", default=formats.BUNDLED, help="the biLM: a name, directory or file")
    parser.add_argument("--json", type=file_to_write, metavar="FILE", help="also write the results to this file")
    return parser


def numbers(text: str) -> list[int]:
    """Parse comma-separated whole numbers."""
    return [int(part) for part in text.split(",")]


def publish(report: dict[str, Any], text: str, file: Path | None) -> None:
    """Print a report's text, and write the complete report to a file if one is given."""
    print(text)
    if file:
        file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__ or "")
    some = partial(parser.add_argument, metavar="A,B")
    parser.add_argument("--results", type=Path, required=True, metavar="DIR", help="directory of the runs' files")
    some("--tasks", type=names_of(TASKS), default=",".join(TASKS), help="tasks to run")
    some("--variants", type=names_of(VARIANTS), default=",".join(VARIANTS), help="variants to run")
    some("--sizes", type=numbers, default=",".join(map(str, SIZES)), help="percent of the training data")
    some("--seeds", type=numbers, default="0,1,2", help="seeds, one run for each")
    parser.add_argument("--updates", type=positive, help="updates per run; by default the number of each task")
    parser.add_argument("--evaluations", type=positive, default=EVALUATIONS, help="evaluations on dev per run")
    return parser.parse_args()


# What to run


@dataclass(frozen=True)
class Run:
    """One training run: everything that its score depends on. The digest identifies the weights."""

    task: str
    size: int
    variant: str
    seed: int
    updates: int
    evaluations: int
    digest: str | None
    components: dict[str, Any]

    @property
    def path(self) -> Path:
        """Name of the run's file."""
        key = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return Path(f"{self.task}-{self.size}-{self.variant}-{self.seed}-{key[:12]}.json")


@dataclass(frozen=True)
class Plan:
    """Common settings of the runs of a call."""

    weights: str
    digest: str
    elmo_width: int
    updates: int | None
    evaluations: int

    @classmethod
    def make(cls, args: argparse.Namespace) -> "Plan":
        """Make a plan from the command line and the weights."""
        bilm = formats.load(args.weights)
        return cls(args.weights, formats.digest(bilm), bilm.options.width, args.updates, args.evaluations)

    def run(self, task: str, size: int, variant: str, seed: int) -> Run:
        """Return the run with these settings."""
        settings = components(TASKS[task].component, variant, self.elmo_width)
        digest = None if variant == BASELINE else self.digest
        updates = self.updates or TASKS[task].updates
        return Run(task, size, variant, seed, updates, self.evaluations, digest, settings)

    def runs(self, task: str, args: argparse.Namespace) -> Iterator[Run]:
        """Yield all runs of a task that the command line names."""
        for size in args.sizes:
            for seed in args.seeds:
                for variant in args.variants:
                    if variant != FINE_TUNED or TASKS[task].fine_tuned:
                        yield self.run(task, size, variant, seed)


def run_missing(plan: Plan, args: argparse.Namespace) -> None:
    """Make the runs that have no file yet."""
    args.results.mkdir(parents=True, exist_ok=True)
    for name in args.tasks:
        corpus: Corpus | None = None
        for run in plan.runs(name, args):
            path = args.results / run.path
            if path.exists():
                note(f"{run.path.stem}: already done")
                continue
            corpus = corpus or TASKS[name].read(args.data)
            part = path.with_name(f"{path.name}.{os.getpid()}.part")
            part.write_text(json.dumps(measure(run, corpus, plan.weights), indent=1) + "\n", encoding="utf-8")
            part.replace(path)


# A run


@dataclass
class Best:
    """The state with the best score on the dev part (the first if several are equal), and all scores there."""

    state: bytes = b""
    update: int = 0
    scores: list[float] = field(default_factory=list)

    def see(self, score: float, update: int, nlp: Language) -> None:
        """Add the state after an update."""
        if not self.scores or score > max(self.scores):
            self.state, self.update = nlp.to_bytes(), update
        self.scores.append(score)


def measure(run: Run, corpus: Corpus, weights: str) -> Record:
    """Train, choose the best state on dev, and score it on test."""
    start = time.perf_counter()
    task = TASKS[run.task]
    nlp = make_pipeline(run.components, weights)
    sample = corpus.train_sample(run.size, run.seed)
    training = Training(nlp, make_examples(nlp.vocab, sample, task, corpus.labels), run.seed)
    best, words, seconds = train(run, training, make_examples(nlp.vocab, corpus.dev, task, corpus.labels))
    trained = make_pipeline(run.components, weights).from_bytes(best.state)
    predict(trained, corpus.dev[:WARM_UP])  # packs the weights, which a service does only once
    score, speed = test(trained, corpus.test, task, corpus.labels)
    record = {
        **asdict(run),
        "train_items": len(sample),
        "score": score,
        "dev_scores": best.scores,
        "best_update": best.update,
        "words": words,
        "training_words_per_second": words / seconds,
        "inference_words_per_second": speed,
        "mix": learned_mix(trained, task.component),
        "seconds": time.perf_counter() - start,
        "versions": versions(),
        "cpu": processor_name(),
        "threads": torch.get_num_threads(),
    }
    note(f"{run.path.stem}: {100 * score:.2f} in {record['seconds']:.0f} s, training {words / seconds:.0f} words/s")
    return record


def train(run: Run, training: Training, dev: list[Example]) -> tuple[Best, int, float]:
    """Run all updates. Returns the best state, and the words and seconds of the updates."""
    best, words, seconds = Best(), 0, 0.0
    for step, batch in zip(range(1, run.updates + 1), training.batches(), strict=False):
        start = time.perf_counter()
        training.update(batch)
        seconds += time.perf_counter() - start
        words += sum(len(example) for example in batch)
        if step * run.evaluations // run.updates > (step - 1) * run.evaluations // run.updates:
            score = training.nlp.evaluate(dev)[TASKS[run.task].metric] or 0.0
            best.see(score, step, training.nlp)
            note(f"{run.path.stem}: {step} of {run.updates} updates, dev {100 * score:.2f}")
    return best, words, seconds


def test(nlp: Language, items: Sequence[Item], task: Task, labels: Sequence[str]) -> tuple[float, float]:
    """Return the score, and the words per second of prediction."""
    predicted, seconds = predict(nlp, items)
    golds = [reference(nlp.vocab, item, task, labels) for item in items]
    examples = [Example(doc, gold) for doc, gold in zip(predicted, golds, strict=True)]
    scores = nlp.get_pipe(task.component).score(examples)  # type: ignore[attr-defined] # all of ours have it
    return float(scores[task.metric] or 0.0), n_words(items) / seconds


def predict(nlp: Language, items: Sequence[Item]) -> tuple[list[Doc], float]:
    """Run the pipeline over all items; return the Docs and the seconds."""
    docs = [make_doc(nlp.vocab, item) for item in items]
    start = time.perf_counter()
    predicted = list(nlp.pipe(docs))
    return predicted, time.perf_counter() - start


def versions() -> dict[str, str]:
    """Return the versions of the packages that a run depends on."""
    packages = {name: metadata.version(name) for name in ("spacy", "thinc", "torch", "spacy-elmo")}
    return {**packages, "python": platform.python_version()}


# The table


def make_report(plan: Plan, results: Path) -> dict[str, Any]:
    """Collect the runs in `results` that have the settings of the plan."""
    records = [json.loads(path.read_bytes()) for path in sorted(results.glob("*.json"))]
    ours = [record for record in records if is_of(plan, record)]
    if len(ours) < len(records):
        note(f"{len(records) - len(ours)} files in {results} have other settings and are left out")
    return {"weights": plan.weights, "digest": plan.digest, "encoders": ENCODERS, **tabulate(ours)}


def is_of(plan: Plan, record: Record) -> bool:
    """Return whether this is a run with the settings of the plan."""
    if record.get("task") not in TASKS or record.get("variant") not in VARIANTS:
        return False
    run = plan.run(record["task"], record["size"], record["variant"], record["seed"])
    return all(record[name] == value for name, value in asdict(run).items())


if __name__ == "__main__":
    main()
