"""Compare the configs of `init-config` with other kinds of pipelines on several data sets; print a table of scores.

    python experiments/heads.py --results DIR [--part dev] [--help]

- tok2vec: `python -m spacy init config --pipeline ...`: hashed features, for texts TextCatBOW.v3
- tfidf: only for texts: logistic regression on tf-idf of uni- and bigrams, with C chosen on the dev part
- default, accuracy: `python -m spacy elmo init-config --pipeline ...`, without and with `--optimize accuracy`
- minilm: `python -m spacy init config --gpu`, with a 6-layer MiniLM as the transformer, fine-tuned
- minilm_frozen: the same with a frozen transformer, trained like `accuracy` and for as long
- FILE.cfg: a config to try

Each run trains with `python -m spacy train`, on one thread, for at most --minutes of processor time. (minilm trains
until the score on the dev part no longer rises, at most four hours.) Then it scores model-best on the dev and on the
test part. A run leaves a file in --results. It runs again only if its config or its biLM has changed, so you can stop
at any time and call again. The table shows the scores of all files in --results on --part. Choose heads by `dev`; read
`test` only once, at the end.

score: in percent, mean and standard deviation over the seeds.
over tok2vec, over default: mean difference and its standard error, over the seeds. If both have only one seed in
    common, the error is from 1,000 bootstrap samples of the part.
minutes: processor time of a training, mean. words/s: of the whole pipeline on the part, median.
"""

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))  # the peers' environments

import corpora
import spacy
from corpora import Corpus, Item
from environments import SideError, note, pip_arguments, python_of
from harness import names_of, positive
from scores import bootstrap, count, difference, f1
from side import units
from spacy.cli.init_config import init_config
from spacy.tokens import Doc, DocBin
from thinc.api import Config

from spacy_elmo import formats
from spacy_elmo.tools.init_config import build
from spacy_elmo.tools.machine import processor_name

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SIDE = Path(__file__).with_name("side.py")
KINDS = ("tok2vec", "tfidf", "default", "accuracy", "minilm", "minilm_frozen")
PARTS = ("dev", "test")  # that are scored
SIZES = (100, 10)  # percent of the training data
CS = (1.0, 10.0, 100.0)  # inverse strengths of the regularization of `tfidf`
FINE_TUNING = 240  # most minutes for `minilm`

Record = dict[str, Any]


@dataclass(frozen=True)
class DataSet:
    """A data set: how to read it, the component that learns it, its metric and the number of seeds."""

    read: Callable[[Path], Corpus]
    component: str
    metric: str
    seeds: int


SETS = {
    "wnut17": DataSet(corpora.read_wnut17, "ner", "F1", 3),
    "uner_ewt": DataSet(corpora.read_uner_ewt, "ner", "F1", 3),
    "ud_ewt": DataSet(corpora.read_ud_ewt, "tagger", "accuracy", 1),
    "scicite": DataSet(corpora.read_scicite, "textcat", "macro F1", 3),
    "banking77": DataSet(corpora.read_banking77, "textcat", "accuracy", 3),
    "hate_offensive": DataSet(corpora.read_hate_offensive, "textcat", "macro F1", 1),
    "spam": DataSet(corpora.read_spam, "textcat", "macro F1", 1),
}


def main() -> None:
    """Make the missing runs; print the table of all runs."""
    args = parse_arguments()
    try:
        failed = run_missing(args)
    except FileNotFoundError as error:
        sys.exit(
            f"{error.filename}: no such file; the corpora are not part of the project, name their folder with --data"
        )
    records = [json.loads(path.read_bytes()) for path in sorted(args.results.glob("*.json"))]
    print("\n".join(table([{**record, **record[args.part]} for record in records])))
    sys.exit(f"{failed} runs failed, see above" if failed else 0)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--results", type=Path, required=True, metavar="DIR", help="directory of the runs' files")
    add("--part", choices=PARTS, default=PARTS[0], help="part whose scores the table shows")
    add("--sets", type=names_of(SETS), default=list(SETS), metavar="A,B", help="data sets to run")
    add("--kinds", type=kinds, default=list(KINDS), metavar="A,B", help="kinds to run; FILE.cfg is a config to try")
    add("--sizes", type=lambda text: [int(size) for size in text.split(",")], default=SIZES, help="percent of the data")
    add("--seeds", type=positive, default=3, help="largest number of seeds; some sets and kinds have one")
    add("--minutes", type=float, default=30.0, help="processor time for a training")
    add("--data", type=Path, default=DATA, help="directory of the corpora")
    add("--weights", default=formats.BUNDLED, help="the biLM: a name, directory or file")
    return parser.parse_args()


def kinds(text: str) -> list[str]:
    """Parse comma-separated kinds and names of configs."""
    found = text.split(",")
    configs = [Path(name) for name in found if name.endswith(".cfg")]
    names_of(KINDS)(",".join(name for name in found if not name.endswith(".cfg")) or KINDS[0])
    stems = [path.stem for path in configs]
    for path in configs:
        if not path.is_file():
            raise argparse.ArgumentTypeError(f"{path}: no such config")
        if path.stem in KINDS or stems.count(path.stem) > 1:
            raise argparse.ArgumentTypeError(f"{path}: its runs would have the names of other runs; rename it")
    return found


# What to run


@dataclass(frozen=True)
class Run:
    """One training and its scores.

    digest: of its config; model: the digest of the biLM or the version of the transformer, None without either.
    """

    data: str
    size: int
    kind: str
    seed: int
    digest: str
    model: str | None

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.data}-{self.size}-{self.kind}-{self.seed}.json"


def wanted(task: DataSet, args: argparse.Namespace) -> Iterator[tuple[int, int, str]]:
    """Yield the requested sizes, seeds and kinds of a data set; transformers have one seed and all of the data."""
    for size in args.sizes:
        for seed in range(min(task.seeds, args.seeds)):
            for kind in args.kinds:
                if kind.startswith("minilm") and (size, seed) != (100, 0):
                    continue
                if kind != "tfidf" or task.component == "textcat":
                    yield size, seed, kind


@cache
def configure(kind: str, component: str, weights: str) -> tuple[Config | None, str, str | None]:
    """Return the config of a kind, its digest without local names, and the model under it."""
    if kind == "tfidf":
        return None, digest_of(f"C in {CS}"), None
    if kind.startswith("minilm"):
        config = Config().from_str(call(python_of("minilm"), SIDE, "minilm", component), interpolate=False)
        name = config["components"]["transformer"]["model"]["name"]
        if kind == "minilm_frozen":
            config["training"] = build([component], weights=weights, optimize="accuracy")["training"]
            config["training"] |= {"frozen_components": ["transformer"], "annotating_components": ["transformer"]}
        return config, digest_of(text_of(config).replace(name, "")), pip_arguments("minilm")[-1][-1]
    if kind == "tok2vec":
        config = init_config(lang="en", pipeline=[component], optimize="efficiency", gpu=False, silent=True)
    elif kind.endswith(".cfg"):
        config = Config().from_disk(kind, interpolate=False)
    else:
        config = build([component], weights=weights, optimize="accuracy" if kind == "accuracy" else "speed")
    if "elmo" not in config["components"]:
        return config, digest_of(text_of(config)), None
    weights = config["components"]["elmo"]["model"]["weights"]
    return config, digest_of(text_of(config).replace(json.dumps(weights), "")), digest_of_model(weights)


def text_of(config: Config) -> str:
    """Return a config as in its file."""
    return str(config.to_str(interpolate=False))


def digest_of(text: str) -> str:
    """Return a short digest that tells configs apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@cache
def digest_of_model(weights: str) -> str:
    """Return the digest of a biLM."""
    return formats.digest(formats.load(weights))


def run_missing(args: argparse.Namespace) -> int:
    """Make the runs without a file, or with a file of another config or biLM. Returns how many failed."""
    args.results.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name in args.sets:
        for size, seed, kind in wanted(SETS[name], args):
            try:
                config, digest, model = configure(kind, SETS[name].component, args.weights)
                run = Run(name, size, Path(kind).stem, seed, digest, model)
                path = args.results / run.name
                if not path.exists() or not asdict(run).items() <= json.loads(path.read_bytes()).items():
                    write(path, measure(run, config, args))
            except SideError as error:
                note(f"{name}-{size}-{kind}-{seed}: {error}")
                failed += 1
    return failed


def write(path: Path, record: Record) -> None:
    """Write the file of a run, completely or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(record) + "\n", encoding="utf-8")
    part.replace(path)
    note(f"{path.name}: {record['dev']['score']:.2f} on the dev part, trained for {record['minutes']:.1f} minutes")


# A run


def measure(run: Run, config: Config | None, args: argparse.Namespace) -> Record:
    """Train and score on both parts.

    Raises:
        SideError: a command failed.
    """
    task, corpus = SETS[run.data], read(run.data, args.data)
    sample = corpus.train_sample(run.size, run.seed)
    parts: dict[str, Sequence[Item]] = {part: getattr(corpus, part) for part in PARTS}
    gold = {part: docs(items, task.component, corpus.labels) for part, items in parts.items()}
    if config is None:
        found = regress(sample, parts)
    else:
        with tempfile.TemporaryDirectory() as folder:
            for name, some in {"train": docs(sample, task.component, corpus.labels), **gold}.items():
                DocBin(docs=some).to_disk(Path(folder) / f"{name}.spacy")
            for part, items in parts.items():
                bare = [Doc(doc.vocab, words=item.words) for doc, item in zip(gold[part], items, strict=True)]
                DocBin(docs=bare).to_disk(bare_file(Path(folder), part))
            found = train(run, config, Path(folder), minutes_of(run, args))
    for part, annotated in gold.items():
        golds = [units(doc, task.component) for doc in annotated]
        counts = count(golds, found[part].pop("units"), task.metric == "macro F1")
        found[part] |= {"score": float(f1(counts.sum(0))), "bootstrap": bootstrap(counts)}
    return {**asdict(run), "train_items": len(sample), "cpu": processor_name(), **found}


def bare_file(folder: Path, name: str) -> Path:
    """Return the file of the Docs of a part without annotation."""
    return folder / f"{name}.bare.spacy"


@cache
def read(name: str, data: Path) -> Corpus:
    """Return a corpus; it is read once."""
    return SETS[name].read(data)


def minutes_of(run: Run, args: argparse.Namespace) -> float:
    """Return how many minutes a run may train.

    Raises:
        SideError: it must take as long as another run, which is not there yet.
    """
    if run.kind == "minilm":
        return FINE_TUNING
    if run.kind == "minilm_frozen":
        path = args.results / run.name.replace(run.kind, "accuracy")
        if not path.exists():
            raise SideError(f"must train as long as {path.name}, which is not there yet; run that first")
        return float(json.loads(path.read_bytes())["minutes"])
    return float(args.minutes)


def train(run: Run, config: Config, folder: Path, minutes: float) -> Record:
    """Train with spaCy's command; return the best pipeline's predictions for each part and its cost.

    folder: with train.spacy, dev.spacy, and the Docs to predict; minutes: most time to train.
    """
    python, task = python_of("minilm") if run.kind.startswith("minilm") else Path(sys.executable), SETS[run.data]
    config, path = config.copy(), folder / "run.cfg"
    config["training"]["before_update"] = {"@callbacks": "experiments.limit.v1", "minutes": minutes}
    config.to_disk(path, interpolate=False)
    if run.kind == "minilm_frozen":  # spaCy does not initialize frozen components
        call(python, SIDE, "initialize", path, folder / "transformer")
        config["components"]["transformer"] = {"source": str(folder / "transformer")}
        config.to_disk(path, interpolate=False)
    options = {"output": folder / "out", "code": SIDE, "system.seed": run.seed}
    options |= {f"paths.{name}": folder / f"{name}.spacy" for name in ("train", "dev")}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    call(python, "-m", "spacy", "train", path, *(f"--{name}={value}" for name, value in options.items()))
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    taken = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60
    best = folder / "out" / "model-best"
    found: Record = {
        part: json.loads(call(python, SIDE, "predict", best, bare_file(folder, part), task.component)) for part in PARTS
    }
    return {**found, "minutes": taken, "seconds": seconds, "limit": minutes, "is_cut": taken > minutes}


def call(python: Path, *arguments: object) -> str:
    """Run a Python command on one thread; return its output.

    Raises:
        SideError: its exit status is not 0; with its last line of output.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    command = [str(python), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        said = (done.stderr + done.stdout).strip().splitlines()
        raise SideError(f"{command[1]} {command[2]} …: exit status {done.returncode}: {said[-1] if said else ''}")
    return done.stdout


def docs(items: Iterable[Item], component: str, labels: Sequence[str]) -> list[Doc]:
    """Make Docs with the gold annotation."""
    vocab, annotated = spacy.blank("en").vocab, []
    for item in items:
        names = {"ner": "ents", "tagger": "tags"}
        tags: dict[str, Any] = {names[component]: list(item.gold)} if component in names else {}
        doc = Doc(vocab, words=item.words, **tags)
        doc.cats = {label: float(label == item.gold) for label in labels}
        annotated.append(doc)
    return annotated


def regress(sample: Sequence[Item], parts: Mapping[str, Sequence[Item]]) -> Record:
    """Fit logistic regressions on tf-idf; return the predictions for each part of the one that is best on the dev part.

    Raises:
        SideError: scikit-learn is not installed.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import f1_score
    except ImportError:
        raise SideError("it needs scikit-learn; install the extra viz") from None
    start = time.process_time()
    vectorizer = TfidfVectorizer(analyzer=uni_and_bigrams, sublinear_tf=True)
    x, dev = vectorizer.fit_transform([item.words for item in sample]), parts["dev"]
    dev_x = vectorizer.transform([item.words for item in dev])
    fitted = [LogisticRegression(C=c, max_iter=1_000).fit(x, [item.gold for item in sample]) for c in CS]
    best = max(fitted, key=lambda one: f1_score([item.gold for item in dev], one.predict(dev_x), average="macro"))
    trained = time.process_time() - start
    found: Record = {"C": best.C, "minutes": trained / 60, "seconds": trained, "is_cut": False}
    for part, items in parts.items():
        begun = time.perf_counter()
        predicted = best.predict(vectorizer.transform([item.words for item in items]))
        speed = corpora.n_words(items) / (time.perf_counter() - begun)
        found[part] = {"units": [[str(label)] for label in predicted], "words_per_second": speed}
    return found


def uni_and_bigrams(words: Sequence[str]) -> list[str]:
    """Return words and pairs of neighbors, in lower case."""
    lower = [word.lower() for word in words]
    return [*lower, *(f"{one} {other}" for one, other in pairwise(lower))]


# The table


def table(records: Sequence[Record]) -> Iterator[str]:
    """Yield the lines of a Markdown table, and the total time of the runs.

    Raises:
        SystemExit: runs of one row have different configs or models.
    """
    yield "| set | data | kind | score | over tok2vec | over default | minutes | words/s |"
    yield "|---|--:|---|--:|--:|--:|--:|--:|"
    named = {**dict.fromkeys(KINDS), **dict.fromkeys(record["kind"] for record in records)}
    for data, task in SETS.items():
        for size in sorted({record["size"] for record in records}, reverse=True):
            by_kind = {kind: by_seed(records, data, size, kind) for kind in named}
            for kind, found in by_kind.items():
                if found:
                    yield row([f"{data}, {task.metric}", f"{size}%", kind], found, by_kind)
    yield ""
    yield f"{len(records)} runs, {sum(record['minutes'] for record in records) / 60:.1f} hours of training"


def row(first: list[str], found: dict[int, Record], by_kind: dict[str, dict[int, Record]]) -> str:
    """Format a line of the table."""
    runs = list(found.values())
    overs = (
        "" if found is other else shown(difference(found, other)) for other in (by_kind["tok2vec"], by_kind["default"])
    )
    minutes = f"{statistics.fmean(run['minutes'] for run in runs):.1f}"
    speed = f"{statistics.median(run['words_per_second'] for run in runs):,.0f}"
    return f"| {' | '.join([*first, spread([run['score'] for run in runs]), *overs, minutes, speed])} |"


def by_seed(records: Sequence[Record], data: str, size: int, kind: str) -> dict[int, Record]:
    """Return the runs of a row by seed."""
    found = {one["seed"]: one for one in records if (one["data"], one["size"], one["kind"]) == (data, size, kind)}
    if len({(one["digest"], one["model"]) for one in found.values()}) > 1:
        sys.exit(f"{data}, {size}%, {kind}: the seeds have different configs or models; run the remaining seeds")
    return found


def spread(scores: Sequence[float]) -> str:
    """Format mean and standard deviation."""
    deviation = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    return f"{statistics.fmean(scores):.1f}{deviation}"


def shown(found: tuple[float, float] | None) -> str:
    """Format a difference and its standard error."""
    return "" if found is None else f"{found[0]:+.1f} ± {found[1]:.1f}"


if __name__ == "__main__":
    main()
