"""Speed and memory of spacy-elmo compared with every ELMo that still runs, as tables.

    python benchmarks/bench.py targets | encode | pipeline | processes | train [--help]

`make bench` calls `targets`. Each side runs in its own process (runner.py). Peers run in their own environments, which
are made on first use (environments.py). A peer that cannot be installed is left out with a note. The sides take turns,
repetition by repetition, after a warm-up round that does not count.

The report has medians: tokens/s of the text (BOS and EOS are computed but not counted), ms of a call, and times:
tokens/s of the first side over those of this side. A level chooses the same instruction sets for all processes. The
report names them, the processor and the versions.
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
SAMPLES = {"minilm": 400}  # number of texts for a slow pipeline
COMPARED_SENTENCES, TOLERANCE = 32, 1e-5
# A turn takes a second or two: long enough to share the processor fairly, and for the pauses of short calls.
CROWDED_CALLS = {"original": 10, "manylangs": 10, "small": 120, "bundled": 180}
GATES = ((32, 1024), (128, 1024), (128, 4096))  # rows and cells
PROCESSES = ((1, None), (4, "fork"), (4, "spawn"))
WORDS = {"sm": 60_000, "original": 793_471}  # of the vocabulary in pretraining
TRAINING_ROWS = {"sm": 128, "original": 32}  # on a CPU; 128 on a GPU


def measure_targets(report: Report, args: Namespace) -> None:
    """Everything that has a target, and for each target what is wanted, what is reached, and whether it is met (to 5%).

    If a target is missed, the table also has the limit of the machine, and the share of it that the stream or the
    sentence reaches. For a stream, the limit is the rate of a time step's product with 128 rows. For a sentence, it is
    the bandwidth of reading as much memory as the weights of a layer take."""
    args.cases = ["stream", "single"]
    for measure in (encode, pipeline, threads, gates, train):
        measure(report, args)
    for row, behind in targets(report.tables, report.level):
        limit = find_limit(report, args, *behind) if row[""] == "MISSED" and behind else {}
        report.tables["targets"].append({**row, **limit})


def find_limit(report: Report, args: Namespace, size: str, case: str) -> Row:
    """Return the limit of the machine for a case, and the share of it that our engine reaches."""
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
    """Tokens per second, memory, and the difference of the layers. The engines load the same weights. Nothing is timed
    unless all give the same layers in float32 to 1e-5.

    size: original (dim 4096, projection 512), small (1024, 128), both with random weights, and the bundled model.
          manylangs, only on request and only for spacy-elmo: a random model of ELMoForManyLangs (4096, 512), with
                  150,000 words and 15,000 characters
    case: stream  all sentences (original: 640). spacy-elmo sorts and packs them itself. The others get a sample of
                  batches of 32
          single  one sentence at a time, the same for all engines, evenly spaced in the text
          long    one document of 20,000 tokens without sentence boundaries. spacy-elmo reads it in pieces of 1,000
                  tokens, as its component does. The others read its beginning as one sequence
          pieces  the same, but the others read the beginnings of these pieces as a batch
    side: no words are cached. The exception is "spacy-elmo, warm" in `single`, where all words are cached.

    of product: operations per second that the text needs (cases.py) over those of a product of 2048 x 2048 float32
        matrices, torch's (MKL) or oneDNN's, whichever is faster. The first row has both.
    peak: highest resident memory in the first run of the first case; resident: after all cases.
    off by, layer 0, 1, 2: largest difference from spacy-elmo in float32 on the CPU, and cosine with it (mean over the
        tokens / lowest token), for 32 sentences."""
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
    """An engine with a loaded model, its input for each case, and what is measured in addition to speed."""

    worker: Any
    calls: dict[str, list[Any]]
    about: Row
    is_cold: bool = True  # no words are cached

    def time(self, case: str) -> float:
        """Run a case; return the seconds."""
        return float(self.worker.ask("time", calls=self.calls[case], is_cold=self.is_cold))


def start_sides(report: Report, size: str, args: Namespace, stack: ExitStack) -> Iterator[tuple[str, Side]]:
    """Start the engines, measure their memory, and compare their layers with ours in float32 on the CPU.

    Our engine runs in each precision. Peers do not support GPUs, and only run on a CPU.
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
    """Return the largest difference of the layers of sentences. If they need not be the same, also return the mean and
    lowest cosine of the tokens in each layer.

    Raises:
        SystemExit: the layers should be the same to 1e-5, but are not.
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
        # Each single sentence counts alone. In one text, a repeated word is only needed once.
        texts = side.calls[case] if is_single else [[one for call in side.calls[case] for one in call]]
        operations = sum(cases.needed_operations(options, text) for text in texts)
        rates = [operations / taken for taken in row["seconds"]]
        row["of product"] = ratio(rates, row["products"]) if args.device == "cpu" else None
        yield {**row, **side.about, "peak MiB": side.about["peak MiB"] if is_first else None}


# Pipelines


def pipeline(report: Report, args: Namespace) -> None:
    """Words per second of whole pipelines from raw text: NER on top of the bundled ELMo, spaCy's tok2vec, and a MiniLM.

    The texts are the lines of sentences.txt, each as a Doc. They go through `nlp.pipe` in batches of 128. MiniLM is
    slow, so it gets an evenly spaced sample."""
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

    Each row is a new interpreter. It makes a pipeline of `elmo` alone, and runs `nlp.pipe` over the first sentences of
    sentences.txt, each as a text. Its memory is measured from outside, several times per second:

    MiB in all: highest sum over the process and its children. Shared memory counts once (the kernel's proportional set
        size). Python and its libraries are included.
    MiB of one: largest amount that one of the children does not share. With one process, it is that of the process.
    words/s: including the start of the processes, which takes most of the time if there are few texts."""
    if not memory.IS_TOLD:
        sys.exit("this benchmark needs Linux: it reads memory from /proc/PID/smaps_rollup, which does not exist here")
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
    """One sentence with default settings, threads = 1 and threads = 2, on an idle machine and with a busy loop on every
    processor."""
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
    """The compiled update of the gates compared with torch's operators."""
    for rows, dim in GATES:
        found = report.machine.ask("gates", rows=rows, dim=dim, count=args.repeats)
        in_us = {f"{name} us": 1e6 * taken for name, taken in found.items()}
        over = found.get("compiled", float("nan")) / found["torch"]
        report.tables["gates"].append({"rows": rows, "dim": dim, **in_us, "ratio": over})


# Pretraining


def train(report: Report, args: Namespace) -> None:
    """A pretraining step compared with a plain step in torch's own operators (peers/plain.py). Both use the settings of
    `Config.of_size`, and repeat sentences.txt. A test checks that both have the same loss, states and gradients.

    The vocabulary has 60,000 words for `sm`, and the original's 793,471 for `original`. A batch has 128 rows of 20
    words. For `original` on a CPU it has 32 rows, which take some 15 GB. On a GPU, the plain step of `original` is not
    timed. tokens are those that one direction predicts."""
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
    "cases": {"type": names_of(cases.CASES), "default": ",".join(cases.CASES), "help": "what to encode"},
    "engines": {"type": names_of(ENGINES), "default": ",".join(PEERS), "help": f"engines to compare with {OURS}"},
    "precisions": {"type": names_of(PRECISIONS), "default": "float32", "help": f"of {OURS}, in addition to float32"},
    "device": {"default": "cpu", "help": "device of encode and train: cpu or cuda"},
    "batch-tokens": {"type": positive, "default": 4096, "help": f"number of tokens that {OURS} encodes at once"},
    "sentences": {"type": positive, "default": 2_000, "help": "use the first N sentences of sentences.txt"},
    "models": {"type": names_of(WORDS), "default": "sm", "help": f"models to train, of {', '.join(WORDS)}"},
    "precision": {"choices": ("float32", "bfloat16"), "default": "float32", "help": "of the products in training"},
    "repeats": {"type": positive, "default": 5, "help": "number of repetitions of each measurement"},
    "threads": {"type": positive, "default": torch.get_num_threads(), "help": "number of threads of every process"},
    "level": {"type": find_levels, "default": "native", "help": "avx512, avx2, native, or all (of this machine)"},
    "json": {"type": file_to_write, "metavar": "FILE", "help": "also write the report to this file"},
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
