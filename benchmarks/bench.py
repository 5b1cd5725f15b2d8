"""Speed and memory of spacy-elmo beside every ELMo that still runs, in tables.

    python benchmarks/bench.py targets | encode | pipeline | processes | train [--help]

`targets` is what `make bench` calls. Each side runs in a process of its own (runner.py), peers in environments of their
own that are made on first use (environments.py); one that cannot be had is left out with a note. Sides are timed in
turn, repetition by repetition, behind a round that does not count. Reported are medians: tokens/s of the text (BOS and
EOS are computed but not counted), ms of a call, and times: tokens/s of the first side over those of this one. A level
chooses the instruction sets of all processes alike; the report names them, the processor and the versions.
"""

import argparse
import statistics
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from typing import Any

import cases
import memory
import numpy as np
import torch
from environments import note
from harness import Report, Row, busy_loops, ratio, run_levels, take_turns

from harness import file_to_write, find_levels, names_of, positive  # isort: skip # parsers of options
from runner import ENGINES, PIPELINES
from targets import OURS, PLAIN_LOOP, targets

PEERS = [name for name in ENGINES if name not in (OURS, PLAIN_LOOP)]
PRECISIONS = ("float32", "float16", "int8")
SAMPLES = {"minilm": 400}  # texts of a pipeline that is slow
COMPARED_SENTENCES, TOLERANCE = 32, 1e-5
# A turn of a second or two: long enough for the processor to be shared out fairly, and for pauses of short calls.
CROWDED_CALLS = {"original": 10, "manylangs": 10, "small": 120, "bundled": 180}
GATES = ((32, 1024), (128, 1024), (128, 4096))  # rows and cells
PROCESSES = ((1, None), (4, "fork"), (4, "spawn"))
WORDS = {"sm": 60_000, "original": 793_471}  # of the vocabulary in pretraining
TRAINING_ROWS = {"sm": 128, "original": 32}  # on a CPU; 128 on a GPU


def measure_targets(report: Report, args: Namespace) -> None:
    """All that the project has set itself a target for, and the targets: what was wanted, what is reached, and whether
    that is met (to 5%). Where it is not, also the machine's limit, and how much of that the stream or the sentence
    behind the figure reaches: for a stream the rate of a time step's product with 128 rows, for a sentence the
    bandwidth at which as much memory is read as the weights of a layer take."""
    args.cases = ["stream", "single"]
    for measure in (encode, pipeline, threads, gates, train):
        measure(report, args)
    for row, behind in targets(report.tables, report.level):
        limit = find_limit(report, args, *behind) if row[""] == "MISSED" and behind else {}
        report.tables["targets"].append({**row, **limit})


def find_limit(report: Report, args: Namespace, size: str, case: str) -> Row:
    """The machine's limit for a case, and the share of it that ours reaches."""
    options = cases.write_model(size)[1]
    calls, lstm = cases.calls_of(size, case, True, cases.read_sentences(args.sentences)), options.lstm
    (row,) = (r for r in report.tables["encode"] if (r["size"], r["case"], r["side"]) == (size, case, OURS))
    if case == "stream":
        needed, unit = cases.needed_operations(options, calls[0]), "GFLOP/s"
        shape = {"rows": 128, "n_in": lstm.projection_dim, "n_out": 4 * lstm.dim}
        rate = max(report.machine.ask("rates", **shape).values())
    else:
        needed, unit = sum(cases.needed_bytes(options, sentence) for (sentence,) in calls), "GB/s"
        rate = report.machine.ask("bandwidth", n_bytes=4 * cases.n_weights(options)[2] // lstm.n_layers)
    return {"limit": f"{rate / 1e9:.0f} {unit}", "of limit": needed / statistics.median(row["seconds"]) / rate}


# Encoding


def encode(report: Report, args: Namespace) -> None:
    """Sentences a second, memory, and how far apart the layers are: the engines load the same weights, and nothing is
    timed unless all give the same layers in float32 to 1e-5.

    size: original (dim 4096, projection 512), small (1024, 128), both with random weights, and the bundled model.
          manylangs, if you ask for it and for ours alone: a random model of ELMoForManyLangs' (4096, 512), with 150,000
                  words and 15,000 characters
    case: stream  all sentences (original: 640); spacy-elmo sorts and packs them itself, the others get a sample of
                  batches of 32
          single  one sentence at a time, the same for all engines, evenly spaced in the text
          long    one document of 20,000 tokens without sentence boundaries; spacy-elmo reads it in pieces of 1,000
                  tokens, as its component cuts it, the others the beginning of it as one sequence
          pieces  the same, the others with the beginnings of these pieces as a batch
    side: no call finds a word remembered, but for `single` those of spacy-elmo, warm, which finds all.

    of product: operations a second that the text needs (cases.py) over those of the faster product of 2048 x 2048
        float32 matrices, torch's (MKL) or oneDNN's, which stand in the first row.
    peak: highest resident memory in the first run of the first case; resident: after all cases.
    off by, layer 0, 1, 2: largest difference to spacy-elmo in float32 on the CPU, and cosine to it, mean over the
        tokens / lowest token, of 32 sentences."""
    for size in args.sizes:
        with ExitStack() as stack:
            sides = dict(start_sides(report, size, args, stack))
            rows = [row for case in args.cases for row in race(report, size, case, sides, args)]
            for row in rows:
                row["resident MiB"] = memory.peak(
                    sides[row["side"].removesuffix(", warm")].worker.pid, is_from_now=True
                )
            report.tables["encode"] += rows


@dataclass(frozen=True)
class Side:
    """An engine with a model loaded, what it is to encode by case, and what is found beside its speed."""

    worker: Any
    calls: dict[str, list[Any]]
    about: Row
    is_cold: bool = True  # no word is remembered

    def time(self, case: str) -> float:
        """Do the work of a case; return seconds."""
        return float(self.worker.ask("time", calls=self.calls[case], is_cold=self.is_cold))


def start_sides(report: Report, size: str, args: Namespace, stack: ExitStack) -> Iterator[tuple[str, Side]]:
    """Start the engines, measure their memory, and compare their layers with those of ours in float32 on the CPU.

    Ours run in each precision, peers, which know no GPU, on a CPU only.
    """
    ours = {"device": args.device, "batch_tokens": args.batch_tokens}
    settings: dict[str, Row] = {OURS: {**ours, "precision": "float32"}}
    settings |= {f"{OURS} {one}": {**ours, "precision": one} for one in args.precisions if one != "float32"}
    engines = args.engines if size not in cases.OURS_ALONE else ()
    settings |= {one: {} for one in engines if one in PEERS and args.device == "cpu"}
    settings |= {one: {"device": args.device} for one in engines if one == PLAIN_LOOP}
    sentences, expected = cases.read_sentences(args.sentences), None
    for name, own in settings.items():
        note(f"{size}: memory and layers of {name}")
        engine, of_all = OURS if "precision" in own else name, {"directory": cases.write_model(size)[0]}
        worker = report.start(stack, "encode", engine, threads=args.threads, **of_all, **own)
        if not worker:
            continue
        side = Side(worker, {case: cases.calls_of(size, case, engine == OURS, sentences) for case in args.cases}, {})
        memory.peak(worker.pid, is_from_now=True)
        side.time(args.cases[0])
        side.about["peak MiB"] = memory.peak(worker.pid)
        found = worker.ask("encode", sentences=sentences[:COMPARED_SENTENCES])
        if expected is None and args.device != "cpu":
            reference = report.start(stack, "encode", OURS, threads=args.threads, **of_all)
            expected = reference.ask("encode", sentences=sentences[:COMPARED_SENTENCES])
        expected = expected or found
        side.about.update(compare(f"{size}, {name}", expected, found, own.get("precision", "float32") == "float32"))
        yield name, side


def compare(about: str, expected: Sequence[Any], found: Sequence[Any], is_exact: bool) -> Row:
    """Largest difference of layers of sentences; mean and lowest cosine of the tokens in each layer, where they are not
    the same.

    Raises:
        SystemExit: they should be, to 1e-5.
    """
    have_shapes = [one.shape for one in expected] == [one.shape for one in found]
    one, other = (np.concatenate(layers, axis=1).astype(np.float64) for layers in (expected, found))
    off = float(np.abs(one - other).max()) if have_shapes else float("inf")
    if is_exact and not off <= TOLERANCE:
        sys.exit(f"{about}: its layers differ from {OURS}'s by {off:.1e}, more than {TOLERANCE}; nothing timed")
    cosines = () if is_exact else (one * other).sum(2) / np.sqrt((one**2).sum(2) * (other**2).sum(2))
    return {"off by": off, **{f"layer {n}": f"{each.mean():.6f} / {each.min():.4f}" for n, each in enumerate(cosines)}}


def race(report: Report, size: str, case: str, sides: dict[str, Side], args: Namespace) -> Iterator[Row]:
    """Run the engines in turn; yield a row for each."""
    is_first, is_single, about = case == args.cases[0], case == "single", {"size": size, "case": case}
    if is_single:
        warm = {f"{name}, warm": replace(side, is_cold=False) for name, side in sides.items() if name.startswith(OURS)}
        sides = sides | warm
    turns = {name: partial(side.time, case) for name, side in sides.items()}
    tokens = {name: sum(map(cases.n_tokens, side.calls[case])) for name, side in sides.items()}
    n_calls, options = len(sides[OURS].calls[case]), cases.write_model(size)[1]
    for row in take_turns(about, turns, tokens, args.repeats, n_calls, report.machine, warm_up=not is_first):
        side = sides[row["side"]]
        # A single sentence stands for itself; in what is one text, a word that comes twice is needed once.
        texts = side.calls[case] if is_single else [[one for call in side.calls[case] for one in call]]
        operations = sum(cases.needed_operations(options, text) for text in texts)
        rates = [operations / taken for taken in row["seconds"]]
        row["of product"] = ratio(rates, row["products"]) if args.device == "cpu" else None
        yield {**row, **side.about, "peak MiB": side.about["peak MiB"] if is_first else None}


# Pipelines


def pipeline(report: Report, args: Namespace) -> None:
    """Words a second of whole pipelines from raw text: NER over the bundled ELMo, over spaCy's tok2vec, over a MiniLM.

    The texts are the lines of sentences.txt, each a Doc, through `nlp.pipe` in batches of 128; MiniLM, being slow,
    gets an evenly spaced sample."""
    texts, words = [" ".join(words) for words in cases.read_sentences(args.sentences)], {}

    def run(name: str, worker: Any) -> float:
        sample = cases.evenly_spaced(texts, SAMPLES.get(name, len(texts)))
        words[name], seconds = worker.ask("time", texts=sample)
        return float(seconds)

    with ExitStack() as stack:
        turns = {}
        for name in PIPELINES:
            note(f"{name}: loading")
            if worker := report.start(stack, "pipeline", name, threads=args.threads):
                turns[name] = partial(run, name, worker)
        report.tables["pipeline"] = take_turns({"size": "bundled"}, turns, words, args.repeats, machine=report.machine)


def processes(report: Report, args: Namespace) -> None:
    """Memory of `nlp.pipe` in one process and in four, forked and spawned. Linux only.

    Each row is a new interpreter that makes the pipeline, `elmo` alone, and runs `nlp.pipe` over the first sentences of
    sentences.txt, each a text. Its memory is looked at from outside, several times a second:

    MiB in all: highest sum over the process and its children. What they share counts once (the kernel's proportional
        set size), Python and its libraries included.
    MiB of one: largest amount that one of the children shares with nobody; where there is one process, of that.
    words/s: with starting the processes, which is most of it where texts are few."""
    if not memory.IS_TOLD:
        sys.exit("this benchmark reads memory where Linux tells it: /proc/PID/smaps_rollup, which is not here")
    texts = [" ".join(words) for words in cases.read_sentences(args.sentences)]
    for size in args.sizes:
        for count, method in PROCESSES:
            note(f"{size}: {count} {method or ''}")
            settings: Any = {"weights": cases.write_model(size)[0], "method": method, "threads": args.threads}
            looks: list[dict[int, tuple[float, float]]] = []
            with ExitStack() as stack:
                worker = report.start(stack, "pipeline", "elmo", **settings)
                watch = partial(memory.look, worker.pid, looks)
                words, seconds = worker.ask("time", watch, texts=texts, n_process=count)
            row = {"size": size, "processes": count, "method": method or "", "words/s": words / seconds}
            row["MiB in all"] = max(sum(share for share, _ in seen.values()) for seen in looks)
            alone = [(pid, own) for seen in looks for pid, (_, own) in seen.items()]
            row["MiB of one"] = max(own for pid, own in alone if count == 1 or pid != worker.pid)
            report.tables["processes"].append(row)


# Threads and gates


def threads(report: Report, args: Namespace) -> None:
    """One sentence with default settings, threads = 1 and threads = 2, on an idle machine and beside a busy loop on
    every processor."""
    sentences = cases.read_sentences(args.sentences)
    for size in args.sizes:
        calls = [*islice(cycle(cases.calls_of(size, "single", True, sentences)), CROWDED_CALLS[size])]
        tokens, turns = sum(map(cases.n_tokens, calls)), {}
        with ExitStack() as stack:
            for name, setting in (("default", "auto"), ("threads = 1", 1), ("threads = 2", 2)):
                settings: Any = {"directory": cases.write_model(size)[0], "own_threads": setting, "threads": None}
                worker = report.start(stack, "encode", OURS, **settings)
                turns[name] = partial(worker.ask, "time", calls=calls)
            for machine in ("idle", "busy"):
                with busy_loops() if machine == "busy" else ExitStack():
                    about = {"size": size, "machine": machine}
                    rows = take_turns(about, turns, dict.fromkeys(turns, tokens), args.repeats, len(calls))
                report.tables["threads"] += rows


def gates(report: Report, args: Namespace) -> None:
    """The compiled update of the gates beside that by torch's operators."""
    for rows, dim in GATES:
        found = report.machine.ask("gates", rows=rows, dim=dim, count=args.repeats)
        in_us = {f"{name} us": 1e6 * taken for name, taken in found.items()}
        over = found.get("compiled", float("nan")) / found["torch"]
        report.tables["gates"].append({"rows": rows, "dim": dim, **in_us, "ratio": over})


# Pretraining


def train(report: Report, args: Namespace) -> None:
    """A pretraining step beside a plain one in torch's own operators (peers/plain.py), both with the settings of
    `Config.of_size`, on sentences.txt over and over. A test holds both to the same loss, states and gradients.

    The vocabulary has 60,000 words for `sm`, the original's 793,471 for `original`. Rows are 128 x 20 words, of
    `original` 32 on a CPU, where it takes some 15 GB. On a GPU, `original` is not timed beside the plain step.
    tokens are those that one direction predicts."""
    on_gpu = args.device != "cpu"
    steps = 20 if on_gpu else 1
    for size in args.models:
        rows = 128 if on_gpu else TRAINING_ROWS[size]
        about: Row = {"size": size, "words": WORDS[size], "rows": rows, "precision": args.precision}
        with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
            note(f"{size}: making text and models")
            settings: Any = {**about, "directory": directory, "device": args.device, "threads": args.threads}
            worker = report.start(stack, "train", **settings)
            sides, tokens = worker.ask("about")
            turns = {side: partial(worker.ask, "time", side=side, steps=steps) for side in sides}
            report.tables["train"] += take_turns(
                about, turns, dict.fromkeys(turns, steps * tokens), args.repeats, steps
            )


# Command line

COMMANDS: dict[str, Callable[[Report, Namespace], None]] = {
    "targets": measure_targets,
    "encode": encode,
    "pipeline": pipeline,
    "processes": processes,
    "train": train,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "sizes": {"type": names_of(cases.SIZES + cases.OURS_ALONE), "default": ",".join(cases.SIZES), "help": "models"},
    "cases": {"type": names_of(cases.CASES), "default": ",".join(cases.CASES), "help": "what is encoded"},
    "engines": {"type": names_of(ENGINES), "default": ",".join(PEERS), "help": f"that encode beside {OURS}"},
    "precisions": {"type": names_of(PRECISIONS), "default": "float32", "help": f"of {OURS} beside float32"},
    "device": {"default": "cpu", "help": "of encode and train: cpu or cuda"},
    "batch-tokens": {"type": positive, "default": 4096, "help": f"that {OURS} encodes at once"},
    "sentences": {"type": positive, "default": 2_000, "help": "first N sentences of sentences.txt"},
    "models": {"type": names_of(WORDS), "default": "sm", "help": f"to train, of {', '.join(WORDS)}"},
    "precision": {"choices": ("float32", "bfloat16"), "default": "float32", "help": "of the products in training"},
    "repeats": {"type": positive, "default": 5, "help": "repetitions of each measurement"},
    "threads": {"type": positive, "default": torch.get_num_threads(), "help": "of every process"},
    "level": {"type": find_levels, "default": "native", "help": "avx512, avx2, native or all of this machine"},
    "json": {"type": file_to_write, "metavar": "FILE", "help": "also write the report here"},
}


def parse_arguments(arguments: Sequence[str]) -> Namespace:
    """Read the command line."""
    about = "\n\n".join(f"{name}: {function.__doc__}" for name, function in COMMANDS.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=COMMANDS, help="see below")
    for option, settings in OPTIONS.items():
        parser.add_argument(f"--{option}", **settings)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    args = parse_arguments(sys.argv[1:])
    run_levels(COMMANDS[args.command], args)
