"""Models and sentences in, a table of encoding speed and memory out: spacy-elmo beside a plain loop.

    python benchmarks/inference.py [--sizes original,small,bundled] [--repeats N] [--threads N]
                                   [--sentences N] [--plain-tokens N] [--json FILE]

The plain loop is ELMo written down directly with torch's own operators, as AllenNLP has it: batches of 32
sentences in the given order, the character CNN on every position of the padded batch, then one time step
after the other for each layer and direction. Before anything is timed it must give the numbers of
`BiLM.encode`. Being slow, it runs on an evenly spaced sample of its batches.

Each repetition measures the machine's float32 matrix product (SGEMM, 2048 x 2048 x 2048), spacy-elmo with an
empty word table (cold), the plain loop, and spacy-elmo again with the table kept (warm). Reported are medians:

tokens/s: tokens of the text; BOS and EOS are computed but not counted.
of SGEMM: operations a second as a share of the SGEMM rate. Operations are those of the matrix products (a
    multiplication and an addition each); biases, activations and gates are free. They are counted twice:
    needed: what the text requires. The character CNN once for each distinct word, BOS and EOS among them,
        and in its windows only the positions that hold a character or a border of the word; the highways and
        the projection once for each distinct word; the LSTMs for every token, BOS and EOS included.
    nominal: what the architecture says word by word. The whole character CNN for every token (BOS and EOS
        included) at all windows of the full character width; the LSTMs as above. No sentence padding. It can
        pass 1 where repeated words are not computed again.
peak memory: highest resident memory of a process that does one cold run and nothing else, once its model
    is loaded; and by how much that is more than the loaded model.
ratio: tokens/s of spacy-elmo over that of the plain loop, each repetition by itself.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plain_loop import PlainLoop, Sentences

import spacy_elmo
from spacy_elmo import formats
from spacy_elmo.bilm import BiLM, BiLMOptions, CharCNNOptions, LSTMOptions, characters

SENTENCES = Path(__file__).with_name("sentences.txt")
PLAIN_TOKENS = {"original": 4_000, "small": 12_000, "bundled": 20_000}
REPEATS = {"original": 2, "small": 3, "bundled": 3}
PLAIN_BATCH = 32
CHECKED_SENTENCES = 2 * PLAIN_BATCH
TOLERANCE = 1e-5
SGEMM_SIZE = 2048
FILTERS = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))


def main() -> None:
    """Run the benchmark, or, called by itself, one memory measurement."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    if args.memory:
        size, implementation = args.memory
        print(json.dumps(peak_memory(size, implementation, read_sentences(args.sentences), args.plain_tokens)))
        return
    report = run(args)
    print(render(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--sizes", type=sizes, default="original,small,bundled", help="models, comma-separated")
    parser.add_argument("--repeats", type=positive, help=f"repetitions of each measurement; None is {REPEATS}")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--sentences", type=positive, default=2_000, help="first N sentences of the file")
    parser.add_argument("--plain-tokens", type=positive, help=f"sample of the plain loop; None is {PLAIN_TOKENS}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return number


def sizes(text: str) -> list[str]:
    """Parse names of models."""
    names = text.split(",")
    if unknown := [name for name in names if name not in PLAIN_TOKENS]:
        raise argparse.ArgumentTypeError(f"unknown size {unknown[0]!r}; expected {', '.join(PLAIN_TOKENS)}")
    return names


def read_sentences(count: int) -> list[list[str]]:
    """Return the first `count` sentences, each a list of tokens."""
    return [line.split(" ") for line in SENTENCES.read_text(encoding="utf-8").splitlines()[:count]]


def load(size: str) -> BiLM:
    """Return the model of this name; all but the bundled one have random weights."""
    if size == "bundled":
        return formats.load("en_elmo_sm")
    dim, projection_dim, n_highway = {"original": (4096, 512, 2), "small": (1024, 128, 1)}[size]
    lstm = LSTMOptions(dim, projection_dim, n_layers=2, cell_clip=3.0, proj_clip=3.0, use_skip_connections=True)
    return BiLM(BiLMOptions(lstm, CharCNNOptions(FILTERS, n_highway=n_highway)), seed=0).requires_grad_(False)


# Measuring


@dataclass
class Runs:
    """Seconds of every repetition, and the SGEMM rate beside it in operations a second."""

    sgemm: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)


@dataclass
class Row:
    """One line of the table. Sizes of memory are in bytes; what does not apply is None."""

    model: str
    implementation: str
    tokens: int
    tokens_per_second: float
    of_sgemm_needed: float
    of_sgemm_nominal: float
    peak_memory: int
    memory_over_model: int
    seconds: list[float]
    warm_tokens_per_second: float | None = None
    ratio: float | None = None


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every model; return the machine, the versions and the rows."""
    sentences = read_sentences(args.sentences)
    rows: list[Row] = []
    sgemm: list[float] = []
    for size in args.sizes:
        runs, new_rows = measure(size, sentences, args)
        rows += new_rows
        sgemm += runs.sgemm
    return {
        "versions": {
            "torch": torch.__version__,
            "spacy-elmo": spacy_elmo.__version__,
            "python": platform.python_version(),
        },
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "sentences": len(sentences),
        "tokens": n_tokens(sentences),
        "distinct_words": len({word for sentence in sentences for word in sentence}),
        "sgemm_gflops": statistics.median(sgemm) / 1e9,
        "rows": [asdict(row) for row in rows],
    }


def measure(size: str, sentences: Sentences, args: argparse.Namespace) -> tuple[Runs, list[Row]]:
    """Check that both implementations agree, then time them in turn and measure their memory."""
    bilm = load(size)
    plain = PlainLoop(bilm)
    check(size, bilm, plain, sentences[:CHECKED_SENTENCES])
    batches = plain_sample(size, sentences, args.plain_tokens)
    sample = [sentence for batch in batches for sentence in batch]
    runs = Runs()
    repeats = args.repeats or REPEATS[size]
    for repetition in range(repeats):
        note(f"{size}: repetition {repetition + 1} of {repeats}")
        runs.sgemm.append(sgemm_rate())
        bilm.clear_word_table()
        runs.cold.append(seconds(lambda: run_ours(bilm, sentences)))
        runs.plain.append(seconds(lambda: run_plain(plain, batches)))
        runs.warm.append(seconds(lambda: run_ours(bilm, sentences)))
    note(f"{size}: memory")
    ours_row = make_row(size, "spacy-elmo", bilm.options, sentences, runs.cold, runs.sgemm, args)
    plain_row = make_row(size, "plain loop", bilm.options, sample, runs.plain, runs.sgemm, args)
    ours_row.warm_tokens_per_second = n_tokens(sentences) / statistics.median(runs.warm)
    scale = n_tokens(sentences) / n_tokens(sample)
    ours_row.ratio = statistics.median(scale * b / a for a, b in zip(runs.cold, runs.plain, strict=True))
    return runs, [ours_row, plain_row]


def make_row(
    model: str,
    implementation: str,
    options: BiLMOptions,
    sentences: Sentences,
    times: list[float],
    sgemm: list[float],
    args: argparse.Namespace,
) -> Row:
    """Reduce the repetitions of one implementation to medians, and measure its memory."""
    time_, rate = statistics.median(times), statistics.median(sgemm)
    memory = memory_in_subprocess(model, implementation, args)
    return Row(
        model=model,
        implementation=implementation,
        tokens=n_tokens(sentences),
        tokens_per_second=n_tokens(sentences) / time_,
        of_sgemm_needed=needed_operations(options, sentences) / time_ / rate,
        of_sgemm_nominal=nominal_operations(options, sentences) / time_ / rate,
        peak_memory=memory["peak"],
        memory_over_model=memory["peak"] - memory["loaded"],
        seconds=times,
    )


def seconds(action: Callable[[], None]) -> float:
    """Time one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def run_ours(bilm: BiLM, sentences: Sentences) -> None:
    """Encode all sentences, dropping each batch."""
    for batch in bilm.stream(sentences):
        _ = batch.layers


def run_plain(plain: PlainLoop, batches: Sequence[Sentences]) -> None:
    """Encode all batches, dropping each."""
    for batch in batches:
        plain(batch)


def sgemm_rate(n_products: int = 5) -> float:
    """Operations a second of a square float32 matrix product: the median of a few."""
    left, right = torch.randn(2, SGEMM_SIZE, SGEMM_SIZE)
    out = left @ right
    times = [seconds(lambda: void(torch.mm(left, right, out=out))) for _ in range(n_products)]
    return float(2 * SGEMM_SIZE**3 / statistics.median(times))


def void(_: object) -> None:
    """Drop a result."""


def plain_sample(size: str, sentences: Sentences, tokens: int | None) -> list[Sentences]:
    """Return an evenly spaced sample of the plain loop's batches, about `tokens` tokens in all."""
    batches = [sentences[start : start + PLAIN_BATCH] for start in range(0, len(sentences), PLAIN_BATCH)]
    share = (tokens or PLAIN_TOKENS[size]) / n_tokens(sentences)
    count = min(len(batches), max(1, round(share * len(batches))))
    return [batches[(2 * number + 1) * len(batches) // (2 * count)] for number in range(count)]


def n_tokens(sentences: Sentences) -> int:
    """Tokens of the text, without BOS and EOS."""
    return sum(len(sentence) for sentence in sentences)


def check(size: str, bilm: BiLM, plain: PlainLoop, sentences: Sentences) -> None:
    """Stop unless the plain loop gives the numbers of `encode`, BOS and EOS included."""
    note(f"{size}: comparing {len(sentences)} sentences")
    expected = bilm.encode(sentences, keep_boundaries=True)
    worst = 0.0
    for start in range(0, len(sentences), PLAIN_BATCH):
        layers = plain(sentences[start : start + PLAIN_BATCH]).numpy()
        for row, ours in enumerate(expected[start : start + PLAIN_BATCH]):
            worst = max(worst, float(np.abs(layers[:, row, : ours.shape[1]] - ours).max()))
    note(f"{size}: largest difference {worst:.1e}")
    if not worst <= TOLERANCE:
        sys.exit(f"{size}: spacy-elmo and the plain loop differ by {worst:.1e}, more than {TOLERANCE}; nothing timed")


# Counting operations


def needed_operations(options: BiLMOptions, sentences: Sentences) -> int:
    """Operations the text requires; see the head of this file."""
    words = {characters.BOS, characters.EOS, *(word for sentence in sentences for word in sentence)}
    cnn = char_cnn_options(options)
    ids = (characters.token_ids(word, cnn.max_characters_per_token) for word in words)
    convolutions = sum(
        2 * number * cnn.embedding_dim * positions_in_windows(len(word), size, cnn.max_characters_per_token)
        for word in ids
        for size, number in cnn.filters
    )
    return convolutions + len(words) * word_operations(options) + lstm_operations(options, sentences)


def nominal_operations(options: BiLMOptions, sentences: Sentences) -> int:
    """Operations of the architecture, word by word; see the head of this file."""
    cnn = char_cnn_options(options)
    full = cnn.max_characters_per_token
    convolutions = sum(2 * number * cnn.embedding_dim * (full - size + 1) * size for size, number in cnn.filters)
    tokens = n_tokens(sentences) + 2 * len(sentences)
    return tokens * (convolutions + word_operations(options)) + lstm_operations(options, sentences)


def positions_in_windows(length: int, size: int, full: int) -> int:
    """Positions of a word that fall into the windows starting in it, counted once for each window."""
    return sum(min(size, length - start) for start in range(min(length, full - size + 1)))


def word_operations(options: BiLMOptions) -> int:
    """Operations of the highways and the projection for one word."""
    cnn, width = char_cnn_options(options), options.lstm.projection_dim
    projection = cnn.n_filters * width if cnn.n_filters != width else 0
    return 2 * (cnn.n_highway * 2 * cnn.n_filters**2 + projection)


def lstm_operations(options: BiLMOptions, sentences: Sentences) -> int:
    """Operations of all LSTM layers, both directions, BOS and EOS included."""
    lstm = options.lstm
    projection = lstm.dim * lstm.projection_dim if lstm.dim != lstm.projection_dim else 0
    per_token = 2 * lstm.n_layers * 2 * (2 * lstm.projection_dim * 4 * lstm.dim + projection)
    return (n_tokens(sentences) + 2 * len(sentences)) * per_token


def char_cnn_options(options: BiLMOptions) -> CharCNNOptions:
    """Return the options of the character CNN, which every model here has."""
    assert options.char_cnn is not None
    return options.char_cnn


# Memory


def memory_in_subprocess(model: str, implementation: str, args: argparse.Namespace) -> dict[str, int]:
    """Run this file anew for one implementation; return its resident memory in bytes, loaded and peak."""
    command = [sys.executable, __file__, "--memory", model, implementation]
    command += [f"--threads={args.threads}", f"--sentences={args.sentences}"]
    if args.plain_tokens:
        command.append(f"--plain-tokens={args.plain_tokens}")
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    memory: dict[str, int] = json.loads(result.stdout)
    return memory


def peak_memory(size: str, implementation: str, sentences: Sentences, tokens: int | None) -> dict[str, int]:
    """Run one implementation once; return resident memory in bytes: the model loaded, and the peak from then on."""
    bilm: BiLM | None = load(size)
    assert bilm is not None
    if implementation == "spacy-elmo":
        loaded = reset_peak()
        run_ours(bilm, sentences)
    else:
        plain = PlainLoop(bilm)
        bilm = None  # the loop has copied the weights
        loaded = reset_peak()
        run_plain(plain, plain_sample(size, sentences, tokens))
    return {"loaded": loaded, "peak": max_resident()}


def reset_peak() -> int:
    """Forget the peak of loading (where the system can: Linux) and return the resident memory now."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")
    return max_resident()


def max_resident() -> int:
    """Highest resident memory of this process so far, in bytes.

    On Linux not `ru_maxrss`, which starts at what the parent process had.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# Output


def note(text: str) -> None:
    """Tell on the error stream what is going on."""
    print(text, file=sys.stderr, flush=True)


def cpu_name() -> str:
    """Name of the processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def render(report: dict[str, Any]) -> str:
    """Lay the report out as text."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    header = "model     implementation  tokens/s     warm  of SGEMM needed  nominal  peak MiB  over model  ratio"
    lines = [
        f"{versions}; {report['cpu']}, {report['threads']} threads; SGEMM {report['sgemm_gflops']:.0f} GFLOP/s",
        f"{report['sentences']} sentences, {report['tokens']} tokens, {report['distinct_words']} distinct words; "
        "medians of "
        + ", ".join(f"{row['model']} {len(row['seconds'])}" for row in report["rows"] if row["ratio"])
        + " repetitions",
        "",
        header,
        *(render_row(row) for row in report["rows"]),
        "",
        "The plain loop ran on an evenly spaced sample of its batches: "
        + ", ".join(f"{row['model']} {row['tokens']} tokens" for row in report["rows"] if row["ratio"] is None)
        + ".",
    ]
    return "\n".join(lines)


def render_row(row: dict[str, Any]) -> str:
    """Lay one row out as text."""
    warm, ratio = row["warm_tokens_per_second"], row["ratio"]
    return (
        f"{row['model']:<9} {row['implementation']:<14} {row['tokens_per_second']:>9.0f}"
        f"{f'{warm:.0f}' if warm else '-':>9}{row['of_sgemm_needed']:>17.3f}{row['of_sgemm_nominal']:>9.3f}"
        f"{row['peak_memory'] / 2**20:>10.0f}{row['memory_over_model'] / 2**20:>12.0f}"
        f"{f'{ratio:.1f}' if ratio else '-':>7}"
    )


if __name__ == "__main__":
    main()
