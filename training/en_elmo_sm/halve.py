"""A trained model in, the same in float16 out: small enough to keep in the repository and to go on from.

    python training/en_elmo_sm/halve.py RUN training/en_elmo_sm/state

Weights, softmax, vocabulary, options and card, readable as any model (`evaluate`, `pretrain --init-from`).
"""

import json
import sys
from pathlib import Path

from spacy_elmo import formats
from spacy_elmo.formats import softmax_hdf5
from spacy_elmo.pretraining.evaluation import Evaluator


def halve(run: Path, out: Path) -> None:
    """Copy the model in `run` to `out`, its numbers rounded to float16."""
    model = Evaluator.load(run)
    terms = json.loads((Path(__file__).parent / "card.json").read_text(encoding="utf-8"))
    model.bilm.card |= {name: terms[name] for name in ("license", "attribution")}
    formats.write(model.bilm, out, "float16")
    softmax_hdf5.write(model.softmax, out / softmax_hdf5.NAME, "float16")
    (out / "vocab.txt").write_text(model.vocabulary.text(), encoding="utf-8")


if __name__ == "__main__":
    halve(Path(sys.argv[1]), Path(sys.argv[2]))
