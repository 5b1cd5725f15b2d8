"""Turn a trained model into the bundled model: float16 weights, attribution, and a card with its measurements.

    python training/en_elmo_sm/ship.py STATE HELDOUT MASC BLIMP [OUT]

STATE: output of halve.py; HELDOUT: `heldout/` of the prepared corpus, one file per source; MASC: tokenized text, one
sentence per line; BLIMP: directory of its .jsonl files. Takes about half an hour on two cores.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from spacy_elmo import formats
from spacy_elmo.tools.evaluate import evaluate_model

HERE = Path(__file__).parent
BUNDLED = HERE.parents[1] / "spacy_elmo" / "models" / "en_elmo_sm"


def perplexities(state: Path, text: Path) -> dict[str, Any]:
    """Measure perplexities from zero state, as the model is used, and with carried state; rounded."""
    figures = evaluate_model(str(state), str(text), None, show_progress=True)
    zero = figures["zero_state"]
    return {
        "predictions": figures["tokens"],
        **{direction: round(zero[f"{direction}_perplexity"], 1) for direction in ("forward", "backward")},
        "mean": round(zero["perplexity"], 1),
        "mean_carried_state": round(figures["perplexity"], 1),
    }


def rounded(accuracies: dict[str, Any]) -> dict[str, Any]:
    """Convert accuracies to percent."""
    return {
        name: rounded(value) if isinstance(value, dict) else round(100 * value, 1) for name, value in accuracies.items()
    }


def ship(state: Path, heldout: Path, masc: Path, blimp: Path, out: Path) -> None:
    """Measure the model in `state` and write it to `out` with its card."""
    bilm = formats.load(state)
    seen = bilm.card["tokens_seen"] + bilm.card.get("tokens_seen_before", 0)
    card = json.loads((HERE / "card.json").read_text(encoding="utf-8"))
    card["tokens_seen"] = seen
    card["heldout_perplexity"] = {path.stem: perplexities(state, path) for path in sorted(heldout.iterdir())}
    card["masc_perplexity"] = perplexities(state, masc)
    card["blimp_accuracy"] = rounded(evaluate_model(str(state), None, str(blimp), show_progress=True)["blimp"])
    bilm.card = card
    formats.write(bilm, out, "float16")
    shutil.copyfile(HERE / "ATTRIBUTION.md", out / "ATTRIBUTION.md")


if __name__ == "__main__":
    ship(*(Path(argument) for argument in sys.argv[1:5]), Path(sys.argv[5]) if len(sys.argv) > 5 else BUNDLED)
