"""Write the state of a run in float16, small enough to keep in the repository, to measure and to continue from.

    python training/en_elmo_sm/halve.py RUN VOCABULARY STATE

RUN: directory of a run of `pretrain`, which may still be training: its last checkpoint is read.
VOCABULARY: the run's vocab.txt.
STATE: a model directory like any other (for `evaluate`, `ship.py`). resume.py continues from its `run.pt`. This has the
    progress of the run and Adam's second moments: for each matrix the means of its rows and of its columns (Shazeer
    and Stern 2018, Adafactor). It omits first moments and LSTM states, which recover after some steps.
"""

import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spacy_elmo import formats
from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.pretraining.checkpoint import NAME as CHECKPOINT
from spacy_elmo.pretraining.checkpoint import Checkpoint
from spacy_elmo.pretraining.language_model import LanguageModel
from spacy_elmo.pretraining.vocabulary import Vocabulary

HERE = Path(__file__).parent
NAME = "run.pt"
LARGE = ("model", "optimizer", "states", "since_log", "average")  # parts of a checkpoint; the rest is a few numbers


def halve(run: Path, vocabulary: Path, out: Path) -> None:
    """Write the state of `run` to `out`."""
    saved, words = Checkpoint.read(run / CHECKPOINT), Vocabulary.from_file(vocabulary)
    if saved.vocabulary != words.digest:
        sys.exit(f"{vocabulary}: not the vocabulary of {run}")
    model = model_of(saved)
    model.bilm.card = card_of(saved)
    out.mkdir(parents=True, exist_ok=True)
    formats.write(model.bilm, out, "float16", words.words, model.softmax)
    torch.save(progress_of(saved), out / NAME)


def model_of(saved: Checkpoint) -> LanguageModel:
    """Return the model of a checkpoint."""
    bilm = BiLM(BiLMOptions.from_dict(saved.options, saved.source), seed=None)
    model = LanguageModel(bilm, Softmax(*saved.model["softmax.weight"].shape, seed=None))
    model.requires_grad_(False).load_state_dict(saved.model)
    return model


def card_of(saved: Checkpoint) -> dict[str, Any]:
    """Return the model's card: what it has read, its licence and attribution."""
    terms = json.loads((HERE / "card.json").read_text(encoding="utf-8"))
    before = (saved.origin or {}).get("tokens_seen_before", 0)
    return {
        **{name: terms[name] for name in ("name", "license", "attribution")},
        "tokens_seen": saved.step * saved.tokens_per_step,
        **({"tokens_seen_before": before} if before else {}),
    }


def progress_of(saved: Checkpoint) -> dict[str, Any]:
    """Return the small parts of a checkpoint, and factors of the optimizer's second moments, by parameter."""
    progress = {one.name: getattr(saved, one.name) for one in fields(saved) if one.name not in (*LARGE, "source")}
    optimizer = saved.optimizer["state"]
    return {**progress, "squares": {number: factors(one["exp_avg_sq"]) for number, one in optimizer.items()}}


def factors(squares: Tensor) -> list[Tensor]:
    """Return the means over the last axis and over the one before it; for a vector, the vector itself."""
    return [squares] if squares.ndim < 2 else [squares.mean(-1), squares.mean(-2)]


def product(means: list[Tensor]) -> Tensor:
    """Rebuild a matrix from its `factors`: of rank one, with the same means."""
    if len(means) == 1:
        return means[0]
    rows, columns = means
    total = rows.mean(-1, keepdim=True)[..., None].clamp(min=torch.finfo(rows.dtype).tiny)
    return rows[..., :, None] / total * columns[..., None, :]


if __name__ == "__main__":
    halve(*(Path(argument) for argument in sys.argv[1:]))
