"""Speed and memory of spacy-elmo beside every ELMo that still runs, in tables.

    python benchmarks/bench.py targets | encode | pipeline | processes | train | products [--help]

`targets` is what `make bench` calls. Each side runs in a process of its own (runner.py), peers in environments of their
own that are made on first use (environments.py); one that cannot be made is left out with a note. Sides are timed in
turn, repetition by repetition, behind a round that does not count. Reported are medians, of ratios those of the
repetitions. A level chooses the instruction sets of all processes alike; the JSON report names them, the processor and
the versions.
"""

import argparse
import statistics
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cases
import numpy as np
import processes
import torch
from cases import CASES, SIZES, Work
from environments import note
from harness import (
    Formatter,
    Row,
    Section,
    Worker,
    WorkerError,
    at_least,
    busy_loops,
    file_to_write,
    find_levels,
    names_of,
    numbers_of,
    ratio,
    run_levels,
    take_turns,
)
from runner import ENGINES, PIPELINES
from targets import OURS, PLAIN_LOOP, targets

PEERS = [name for name in ENGINES if name not in (OURS, PLAIN_LOOP)]
PRECISIONS = ("float32", "float16", "int8")
SLOW = "minilm"
COMPARED_SENTENCES = 32
CROWDED_SENTENCES = 6  # each may take seconds beside the busy loops
TOLERANCE = 1e-5
MIB = 2**20
GATES = ((32, 1024), (128, 1024), (128, 4096))  # rows and cells
WORDS = {"sm": 60_000, "original": 793_471}  # of the vocabulary in pretraining
TRAINING_ROWS = {"sm": 128, "original": 32}  # on a CPU; 128 on a GPU


def main() -> None:
    """Run one benchmark."""
    args = parse_arguments(sys.argv[1:])
    run_levels(COMMANDS[args.command][0], args)


def measure_targets(section: Section, args: Namespace) -> None:
    """Everything that the project has set itself a target for, level by level, and the targets: what was wanted,
    what is reached, and whether that is met (to 5%)."""
    encode(section, args)
    pipeline(section, args)
    threads(section, args)
    section.tables["gates"] = gates(section, args)
    train(section, args)
    section.targets = targets(section.tables, section.level.column)


# Encoding


def encode(section: Section, args: Namespace) -> None:
    """Sentences a second, memory, and how far apart the layers are: the engines load the same weights, and nothing is
    timed unless all give the same layers in float32 to 1e-5.

    size: original (dim 4096, projection 512), small (1024, 128), both with random weights, and the bundled model.
    case: stream  all sentences (original: 640); spacy-elmo sorts and packs them itself, the others get a sample of
                  batches of 32
          single  one sentence at a time, the same for all engines, evenly spaced in the text
          long    one document of 20,000 tokens without sentence boundaries; spacy-elmo reads it in pieces of 1,000
                  tokens, as its component cuts it, the others the beginning of it as one sequence
          pieces  the same, the others with the beginnings of these pieces as a batch

    tokens/s: of the text; BOS and EOS are computed but not counted. No call finds a word remembered.
    ms: of one sentence, of `single`; warm ms: with all its words remembered.
    times: tokens/s of spacy-elmo over that of the engine.
    of product: operations a second that the text needs (cases.py) over those of the faster large product.
    peak, over model: highest resident memory in the first run of the first case, and by how much that is more than
        with the model loaded; resident: after all cases.
    off by, layer 0, 1, 2: largest difference to spacy-elmo in float32 on the CPU, and cosine to it, mean over the
        tokens / lowest token, of 32 sentences."""
    sentences = cases.read_sentences(args.sentences)
    for size in args.sizes:
        with cases.model_directory(size) as (directory, options), ExitStack() as stack:

            def works_of(engine: str) -> dict[str, Work]:
                return {case: Work.make(size, case, engine == OURS, sentences, options) for case in args.cases}  # noqa: B023

            sides = start_sides(section, size, directory, works_of, args, stack)
            apart = compare_sides(section, size, sides, sentences[:COMPARED_SENTENCES], directory, args)
            rows = [row for case in args.cases for row in race(section, size, case, sides, args)]
            for row in rows:
                name = row["engine"]
                row |= {"resident MiB": sides[name].worker.ask("reset_peak") / MIB, **apart[name]}
            section.tables.setdefault("encode", []).extend(rows)


@dataclass
class EncodeSide:
    """An engine with a model loaded, its work by case, and memory in bytes: with the model loaded, and at the peak of
    the first case, which was the first work of the process."""

    worker: Worker
    works: dict[str, Work]
    memory: tuple[int, int] = (0, 0)

    def time(self, case: str, cold: bool = True) -> float:
        """Do the work of a case; return seconds."""
        taken: list[float] = self.worker.ask("time", calls=self.works[case].calls, cold=cold)
        return sum(taken)

    def measure_memory(self, case: str) -> None:
        """Do the work of the first case."""
        loaded = self.worker.ask("reset_peak")
        self.time(case)
        self.memory = loaded, self.worker.ask("peak")


def start_sides(
    section: Section, size: str, directory: str, works: Callable[[str], Any], args: Namespace, stack: ExitStack
) -> dict[str, EncodeSide]:
    """Start the engines and measure their memory; a peer that fails is left out."""
    pythons, sides = section.pythons(name for name in PEERS if name in args.engines), {}
    for name, engine, settings in sides_of(args):
        if engine in PEERS and engine not in pythons:
            continue
        note(f"{size}: memory of {name}")
        settings |= {"directory": directory, "threads": args.threads, "python": pythons.get(engine)}
        try:
            side = EncodeSide(section.load(stack, name, "encode", engine, **settings), works(engine))
            side.measure_memory(args.cases[0])
            sides[name] = side
        except WorkerError as error:
            if name == OURS:
                raise
            section.leave_out(f"{name}, {size}: {error}")
    return sides


def sides_of(args: Namespace) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield name, engine and settings of each side; ours in each precision."""
    on_gpu = args.device != "cpu"
    for engine in (name for name in ENGINES if name == OURS or name in args.engines):
        if engine == OURS:
            settings = {"device": args.device, "batch_tokens": args.batch_tokens}
            for precision in dict.fromkeys(("float32", *args.precisions)):
                name = OURS if precision == "float32" else f"{OURS} {precision}"
                yield name, OURS, {**settings, "precision": precision}
                if args.step_by_step:
                    yield f"{name} step by step", OURS, {**settings, "precision": precision, "graphs": False}
        elif engine == PLAIN_LOOP:
            yield engine, engine, {"device": args.device}
        elif not on_gpu:
            yield engine, engine, {}


def compare_sides(
    section: Section, size: str, sides: dict[str, EncodeSide], sentences: Sequence[Any], directory: str, args: Namespace
) -> dict[str, Row]:
    """How far each side is from ours in float32 on the CPU; stop where that is too far.

    Raises:
        SystemExit: one that should give the same layers does not.
    """
    note(f"{size}: comparing {len(sentences)} sentences")
    found = {}
    with tempfile.TemporaryDirectory() as files, ExitStack() as stack:
        reference = sides[OURS].worker
        if args.device != "cpu":
            reference = section.load(stack, OURS, "encode", OURS, directory=directory)
        expected = encoded(reference, sentences, Path(files))
        for name, side in sides.items():
            is_exact = not any(precision in name for precision in PRECISIONS)
            found[name] = difference(expected, encoded(side.worker, sentences, Path(files)), is_exact)
            if is_exact and not (worst := found[name]["off by"]) <= TOLERANCE:
                sys.exit(f"{size}: {OURS} and {name} differ by {worst:.1e}, more than {TOLERANCE}; nothing timed")
    return found


def encoded(worker: Any, sentences: Sequence[Any], directory: Path) -> list[Any]:
    """The layers of sentences, as a process of runner.py gives them."""
    file = directory / "layers.npz"
    worker.ask("encode", sentences=sentences, to=str(file))
    with np.load(file) as arrays:
        return [arrays[str(number)] for number in range(len(sentences))]


def difference(expected: Sequence[Any], found: Sequence[Any], is_exact: bool) -> Row:
    """Largest difference of layers of sentences, infinite where shapes differ; mean and lowest cosine of each layer, as
    text where they should not be the same."""
    if [one.shape for one in expected] != [one.shape for one in found]:
        return {"off by": float("inf")}
    one, other = (np.concatenate(layers, axis=1) for layers in (expected, found))
    worst = float(np.abs(one - other).max())
    cosines = [cosine(*pair) for pair in zip(one, other, strict=True)]
    as_text = {f"layer {n}": f"{mean:.6f} / {lowest:.4f}" for n, (mean, lowest) in enumerate(cosines)}
    return {"off by": worst, "cosines": cosines, **({} if is_exact else as_text)}


def cosine(one: Any, other: Any) -> tuple[float, float]:
    """Mean and lowest cosine of the rows of two arrays `[n_tokens, width]`."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    each = (one * other).sum(1) / np.sqrt((one**2).sum(1) * (other**2).sum(1))
    return float(each.mean()), float(each.min())


def race(section: Section, size: str, case: str, sides: Mapping[str, EncodeSide], args: Namespace) -> Iterator[Row]:
    """Run the engines in turn; yield a row for each."""
    is_first, is_single = case == args.cases[0], case == "single"
    turns = {name: partial(side.time, case) for name, side in sides.items()}
    warm = {name: partial(s.time, case, cold=False) for name, s in sides.items() if is_single and name.startswith(OURS)}
    turns |= {f"{name}, warm": turn for name, turn in warm.items()}
    first = len(section.products)
    seconds = take_turns(f"{size}, {case}", turns, args.repeats, section.measure_products, warm_up=not is_first)
    fastest = [max(rates.values()) for rates in section.products[first:]]
    speeds = {name: [side.works[case].tokens / one for one in seconds[name]] for name, side in sides.items()}
    for name, side in sides.items():
        work, taken, (loaded, peak) = side.works[case], seconds[name], side.memory
        yield {
            "size": size,
            "case": case,
            "engine": name,
            "tokens": work.tokens,
            "seconds": taken,
            "tokens/s": float(statistics.median(speeds[name])),
            "ms": 1e3 * statistics.median(taken) / len(work.calls) if is_single else None,
            "warm ms": 1e3 * statistics.median(seconds[f"{name}, warm"]) / len(work.calls) if name in warm else None,
            "times": None if name == OURS else ratio(speeds[OURS], speeds[name]),
            "of product": None if args.device != "cpu" else ratio([work.operations / one for one in taken], fastest),
            "peak MiB": peak / MIB if is_first else None,
            "over model MiB": (peak - loaded) / MIB if is_first else None,
        }


# Pipelines


def pipeline(section: Section, args: Namespace) -> None:
    """Words a second of whole pipelines from raw text: NER over the bundled ELMo, over spaCy's tok2vec, over a MiniLM.

    The texts are the lines of sentences.txt, each a Doc, through `nlp.pipe` in batches of 128; MiniLM, being slow,
    gets an evenly spaced sample.

    times: words/s of ELMo over those of the pipeline."""
    texts = cases.read_texts(args.sentences)
    pythons = section.pythons(name for name in args.pipelines if name == SLOW)
    chosen = [name for name in PIPELINES if name == "elmo" or (name in args.pipelines and (name != SLOW or pythons))]
    works = {name: cases.evenly_spaced(texts, args.sample) if name == SLOW else texts for name in chosen}
    words: dict[str, int] = {}

    def run(name: str, worker: Worker) -> float:
        answer = worker.ask("time", texts=works[name])
        words[name] = answer["words"]
        return float(answer["seconds"])

    with ExitStack() as stack:
        turns = {}
        for name in chosen:
            note(f"{name}: loading")
            settings = {"python": pythons.get(name), "threads": args.threads}
            turns[name] = partial(run, name, section.load(stack, f"{name} + ner", "pipeline", name, **settings))
        seconds = take_turns("pipelines", turns, args.repeats, section.measure_products)
    speeds = {name: [words[name] / taken for taken in seconds[name]] for name in chosen}
    section.tables["pipeline"] = [
        {
            "pipeline": name,
            "texts": len(works[name]),
            "words": words[name],
            "words/s": float(statistics.median(speeds[name])),
            "times": None if name == "elmo" else ratio(speeds["elmo"], speeds[name]),
            "seconds": seconds[name],
        }
        for name in chosen
    ]


# Threads, gates, products


def threads(section: Section, args: Namespace) -> None:
    """One sentence with default settings, threads = 1 and threads = 2, on an idle machine and beside a busy loop on
    every processor. default over it: time."""
    sentences = cases.read_sentences(args.sentences)
    for size in args.sizes:
        calls = cases.calls_of(size, "single", True, sentences)[:CROWDED_SENTENCES]
        with cases.model_directory(size) as (directory, _), ExitStack() as stack:
            sides = {}
            for setting in ("auto", 1, 2):
                worker = section.load(stack, OURS, "encode", OURS, directory=directory, own_threads=setting)
                sides["default" if setting == "auto" else f"threads = {setting}"] = worker
            for machine in ("idle", "busy"):
                with busy_loops() if machine == "busy" else ExitStack():
                    rows = race_threads(f"{size}, {machine}", sides, calls, args.repeats)
                section.tables.setdefault("threads", []).extend({"size": size, "machine": machine, **r} for r in rows)


def race_threads(about: str, sides: Mapping[str, Worker], calls: list[Any], repeats: int) -> Iterator[Row]:
    """Run the settings in turn; yield a row for each."""

    def run(worker: Worker) -> float:
        return float(sum(worker.ask("time", calls=calls, cold=True)))

    seconds = take_turns(about, {name: partial(run, worker) for name, worker in sides.items()}, repeats)
    for name, taken in seconds.items():
        over = None if name == "default" else ratio(seconds["default"], taken)
        ms = 1e3 * statistics.median(taken) / len(calls)
        yield {"setting": name, "ms": ms, "default over it": over, "seconds": taken}


def gates(section: Section, args: Namespace) -> list[Row]:
    """The compiled update of the gates beside that by torch's operators."""
    rows = []
    for n_rows, dim in GATES:
        found = section.machine.ask("gates", rows=n_rows, dim=dim, repeats=args.repeats)
        if found is None:
            section.leave_out("gates: nothing is compiled here")
            break
        in_us = {f"{name} us": 1e6 * taken for name, taken in found.items()}
        rows.append({"rows": n_rows, "dim": dim, **in_us, "ratio": found["compiled"] / found["torch"]})
    return rows


def products(section: Section, args: Namespace) -> None:
    """The products of a time step at the original size, `rows` x 512 by 512 x 16,384 in both directions: each way to
    make them, in shares of the faster of torch's and oneDNN's 2048 x 2048 float32 product; and the gates' update."""
    section.measure_products()
    section.tables["products"] = section.machine.ask("products", rows=args.rows, repeats=args.repeats)
    section.tables["gates"] = gates(section, args)


# Pretraining


def train(section: Section, args: Namespace) -> None:
    """A pretraining step beside a plain one in torch's own operators (peers/plain.py), both with the settings of
    `Config.of_size`, on sentences.txt over and over; timed once both give the same loss, states and gradients.

    The vocabulary has 60,000 words for `sm`, the original's 793,471 for `original`. Rows are 128 x 20 words, of
    `original` 32 on a CPU, where it takes some 15 GB. On a GPU, `original` is not timed beside the plain step.

    tokens/s: words predicted by one direction; distinct words: different ones in a step, borders included.
    times: tokens/s of spacy-elmo over that of the plain step."""
    on_gpu = args.device != "cpu"
    steps = args.steps or (20 if on_gpu else 1)
    for model in args.models:
        rows = args.train_rows or (128 if on_gpu else TRAINING_ROWS[model])
        settings = {"size": model, "words": WORDS[model], "rows": rows, "precision": args.precision}
        with ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            note(f"{model}: making text and model, comparing a step")
            settings |= {"directory": directory, "threads": args.threads, "device": args.device}
            worker = section.load(stack, "pretraining", "train", **settings)
            about = worker.ask("about")
            turns = {side: partial(worker.ask, "time", side=side, steps=steps) for side in about["sides"]}
            seconds = take_turns(model, turns, args.repeats)
        for side, taken in seconds.items():
            others = seconds.get("plain step") if side == OURS else None
            row = {"model": model, "step": side, "precision": args.precision, "rows": rows}
            row |= {"words": WORDS[model], "distinct words": about["distinct words"]}
            row["tokens/s"] = steps * about["tokens"] / statistics.median(taken)
            row |= {"times": ratio(others, taken) if others else None, "seconds": taken}
            section.tables.setdefault("train", []).append(row)


# Command line

POSITIVE = at_least(1)
OPTIONS: dict[str, dict[str, Any]] = {
    "sizes": {"type": names_of(SIZES), "default": list(SIZES), "help": "models, comma-separated"},
    "cases": {"type": names_of(CASES), "default": list(CASES), "help": "comma-separated"},
    "engines": {"type": names_of(ENGINES), "default": PEERS, "help": f"beside {OURS}, comma-separated"},
    "precisions": {"type": names_of(PRECISIONS), "default": ["float32"], "help": "of spacy-elmo, comma-separated"},
    "device": {"default": "cpu", "help": "cpu or cuda"},
    "batch-tokens": {"type": POSITIVE, "default": 4096, "help": "that spacy-elmo works on at once"},
    "step-by-step": {
        "action": "store_true",
        "default": False,
        "help": "on a GPU, also without captured blocks of time steps",
    },
    "pipelines": {"type": names_of(PIPELINES), "default": list(PIPELINES), "help": "comma-separated"},
    "sample": {"type": POSITIVE, "default": 400, "help": f"texts for {SLOW}"},
    "sentences": {"type": POSITIVE, "default": 2_000, "help": "first N sentences of sentences.txt"},
    "rows": {"type": numbers_of(POSITIVE), "default": [1, 4, 16, 32, 128, 256], "help": "comma-separated"},
    "models": {"type": names_of(WORDS), "default": ["sm"], "help": f"of {', '.join(WORDS)}; comma-separated"},
    "train-rows": {"type": POSITIVE, "help": f"of a batch; None is {TRAINING_ROWS} on a CPU, 128 on a GPU"},
    "steps": {"type": POSITIVE, "help": "of a repetition; None is 1 on a CPU, 20 on a GPU"},
    "precision": {"choices": ("float32", "bfloat16"), "default": "float32", "help": "of the products in training"},
    **processes.OPTIONS,
    "repeats": {"type": POSITIVE, "default": 5, "help": "repetitions of each measurement"},
    "threads": {"type": POSITIVE, "default": torch.get_num_threads(), "help": "of every process"},
    "level": {"type": find_levels, "default": "native", "help": "avx512, avx2, native or all of this machine"},
    "json": {"type": file_to_write, "metavar": "FILE", "help": "also write the report here"},
}
OF_ALL = ("repeats", "threads", "level", "json")
COMMANDS: dict[str, tuple[Callable[[Section, Namespace], None], tuple[str, ...], dict[str, Any]]] = {
    "targets": (measure_targets, ("sizes", "sentences", "sample"), {"cases": ["stream", "single"], "level": "all"}),
    "encode": (
        encode,
        ("sizes", "cases", "engines", "precisions", "device", "batch-tokens", "step-by-step", "sentences"),
        {},
    ),
    "pipeline": (pipeline, ("pipelines", "sample", "sentences"), {}),
    "processes": (processes.processes, ("sizes", "sentences", *processes.OPTIONS), {"threads": 1}),
    "train": (train, ("models", "train-rows", "steps", "precision", "device"), {}),
    "products": (products, ("rows",), {}),
}


def parse_arguments(arguments: Sequence[str]) -> Namespace:
    """Read the command line; options that a command does not have are at their defaults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Formatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (function, options, defaults) in COMMANDS.items():
        about = function.__doc__ or ""
        sub = commands.add_parser(name, help=about.split(":")[0], description=about, formatter_class=Formatter)
        sub.set_defaults(**{one.replace("-", "_"): settings.get("default") for one, settings in OPTIONS.items()})
        for option in (*options, *OF_ALL):
            sub.add_argument(f"--{option}", **OPTIONS[option])
        sub.set_defaults(**defaults)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
