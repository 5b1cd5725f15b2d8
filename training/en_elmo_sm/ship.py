"""Turn a trained model into the bundled model: float16 weights, attribution, and a card with its measurements.

    python training/en_elmo_sm/ship.py STATE MIX DATA [--only NAME] [--threads N]

STATE: a model with its softmax, from halve.py or average.py. MIX: output of mix.py. DATA: the folder of licensed texts
    and evaluation sets.

The weights and the card go to spacy_elmo/models/en_elmo_sm, the softmax and its vocabulary to `state`. The card has
perplexities, BLiMP, probes and senses (experiments/probe.py) and the speed. Measuring takes about two hours on one
core. Each figure is kept in STATE/measured, so that you can stop and call again, and share the work: `--only NAME`
measures one figure and stops.
"""

import argparse
import json
import lzma
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path += [str(ROOT / "experiments"), str(ROOT / "benchmarks")]

import probe  # noqa: E402 # found through the path above

from spacy_elmo import formats  # noqa: E402
from spacy_elmo.pretraining.evaluation import Evaluator  # noqa: E402
from spacy_elmo.pretraining.text import read_sentences  # noqa: E402
from spacy_elmo.tools.evaluate import evaluate_model  # noqa: E402
from spacy_elmo.tools.machine import processor_name  # noqa: E402

BUNDLED = ROOT / "spacy_elmo" / "models" / "en_elmo_sm"
MASC = "heldout/masc/masc_tokenized.txt.xz"
SHARE_READ = 0.9855  # of the mix, as metrics.jsonl says


def ship(state: Path, mix: Path, data: Path) -> None:
    """Write the model in `state` with its card to the package, and its softmax to `HERE / "state"`."""
    bilm = formats.open_model(state).bilm()
    card = json.loads((HERE / "card.json").read_text(encoding="utf-8"))
    card["words_by_source"]["second mix"] = words_by_source(mix, SHARE_READ)
    card["tokens_seen"] = bilm.card["tokens_seen"] + bilm.card.get("tokens_seen_before", 0)
    card.update({name: measured(name, state, mix, data) for name in MEASURES})
    bilm.card = card
    formats.write(bilm, BUNDLED, "float16")
    shutil.copyfile(HERE / "ATTRIBUTION.md", BUNDLED / "ATTRIBUTION.md")
    (HERE / "state").mkdir(exist_ok=True)
    for name in ("softmax.hdf5", "vocab.txt"):
        shutil.copyfile(state / name, HERE / "state" / name)


def measured(name: str, state: Path, mix: Path, data: Path) -> Any:
    """Return one measurement, which is kept in `state / "measured"`."""
    kept = state / "measured" / f"{name}.json"
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps(MEASURES[name](state, mix, data)), encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8"))


def words_by_source(mix: Path, share: float) -> dict[str, int]:
    """Return how many words of each source were read, to ten thousand, if this share of all was read."""
    rows = json.loads((mix / "report.json").read_text(encoding="utf-8"))
    return {row["source"]: int(round(row["read"] * share, -4)) for row in rows}


def heldout(state: Path, mix: Path, data: Path) -> dict[str, dict[str, Any]]:
    """Measure perplexity from zero state, as the model is used, on the held-out text of each source."""
    evaluator = Evaluator.load(state, "cpu")
    return {path.stem: of_sentences(evaluator, path) for path in sorted((mix / "corpus" / "heldout").iterdir())}


def masc(state: Path, mix: Path, data: Path) -> dict[str, Any]:
    """Measure perplexities on MASC, from zero state and with carried state."""
    with masc_text(data) as text:
        figures = evaluate_model(str(state), str(text), None, show_progress=True)
    zero = figures["zero_state"]
    return {
        "predictions": figures["tokens"],
        **{direction: round(zero[f"{direction}_perplexity"], 1) for direction in ("forward", "backward")},
        "mean": round(zero["perplexity"], 1),
        "mean_carried_state": round(figures["perplexity"], 1),
        "unknown_share": round(figures["unknown_share"], 4),
    }


def masc_of_62000_words(state: Path, mix: Path, data: Path) -> float | None:
    """Measure perplexity on MASC over the words of the first bundled model; all others count as `<UNK>`."""
    restricted = probe.over_reference_words(Evaluator.load(state, "cpu"))
    with masc_text(data) as text:
        return of_sentences(restricted, text)["mean"] if restricted else None


def blimp(state: Path, mix: Path, data: Path) -> dict[str, Any]:
    """Measure accuracy on BLiMP's pairs, in percent."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(data / "lm/blimp.tar.xz") as archive:
        archive.extractall(folder, filter="data")
        return rounded(evaluate_model(str(state), None, folder, show_progress=True)["blimp"])


def probes(state: Path, mix: Path, data: Path) -> list[dict[str, Any]]:
    """Return the scores of linear probes and senses for each layer, on development parts."""
    scores = probe.score_vectors(formats.open_model(state).bilm().encode, data)
    return [{"layer": layer, **rounded(row, 1)} for layer, row in scores.items()]


def speed(state: Path, mix: Path, data: Path) -> dict[str, Any]:
    """Measure words per second of `encode` on a text that the model has not read."""
    bilm = formats.open_model(state).bilm()
    with masc_text(data) as text:
        sentences = [words for words, _ in read_sentences([text])][:5_000]
    bilm.encode(sentences[:500])  # the weights are packed at the first call
    start = time.perf_counter()
    bilm.encode(sentences)
    words = sum(map(len, sentences)) / (time.perf_counter() - start)
    return {"words_per_second": round(words, -2), "threads": torch.get_num_threads(), "processor": processor_name()}


MEASURES: dict[str, Callable[[Path, Path, Path], Any]] = {
    "heldout_perplexity": heldout,
    "masc_perplexity": masc,
    "masc_perplexity_of_62,000_words": masc_of_62000_words,
    "blimp_accuracy": blimp,
    "probes": probes,
    "speed": speed,
}


@contextmanager
def masc_text(data: Path) -> Iterator[Path]:
    """Unpack MASC. Its lines `# path` are the borders of documents."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "masc.txt"
        with lzma.open(data / MASC, "rt", encoding="utf-8") as source, text.open("w", encoding="utf-8") as out:
            out.writelines("\n" if line.startswith("# ") else line for line in source)
        yield text


def of_sentences(evaluator: Evaluator, text: Path) -> dict[str, Any]:
    """Measure perplexity from zero state."""
    sentences = [words for words, _ in read_sentences([text])]
    predictions = sum(len(words) + 1 for words in sentences)
    perplexities = probe.zero_state(evaluator, sentences)
    unknown = sum(map(evaluator.count_unknown, sentences))
    return {
        "predictions": predictions,
        "forward": round(perplexities.forward_perplexity, 1),
        "backward": round(perplexities.backward_perplexity, 1),
        "mean": round(perplexities.perplexity, 1),
        "unknown_share": round(unknown / max(1, predictions - len(sentences)), 4),
    }


def rounded(scores: dict[str, Any], percent: float = 100) -> dict[str, Any]:
    """Round scores to a tenth, after multiplying by `percent`."""
    return {
        name: rounded(value, percent) if isinstance(value, dict) else round(percent * value, 1)
        for name, value in scores.items()
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("state", "mix", "data"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--only", choices=MEASURES, help="measure this and stop")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.only:
        print(measured(args.only, args.state, args.mix, args.data))
    else:
        ship(args.state, args.mix, args.data)
