"""A run in, its state in float16 out: small enough to keep in the repository, to measure and to go on from.

    python training/en_elmo_sm/halve.py RUN VOCABULARY STATE

RUN: directory of a run of `pretrain`; its last checkpoint is read, so it may be going on. VOCABULARY: its vocab.txt.
STATE is a model directory as any other (`evaluate`, `ship.py`), and its `run.pt` is what resume.py goes on with: how
far the run has come, and Adam's second moments, of each matrix the means of its rows and of its columns (Shazeer and
Stern 2018, Adafactor). First moments and the states of the LSTM are left out: they are there again after some steps.
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
LARGE = ("model", "optimizer", "states", "since_log", "average")  # of a checkpoint; the rest is a few numbers


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
    """The model of a checkpoint."""
    bilm = BiLM(BiLMOptions.from_dict(saved.options, saved.source), seed=None)
    model = LanguageModel(bilm, Softmax(*saved.model["softmax.weight"].shape, seed=None))
    model.requires_grad_(False).load_state_dict(saved.model)
    return model


def card_of(saved: Checkpoint) -> dict[str, Any]:
    """What the model has read, and whom it owes what."""
    cards = [json.loads((HERE / name).read_text(encoding="utf-8")) for name in ("card.json", "next/card.json")]
    terms = cards[0] | cards[1]
    before = (saved.origin or {}).get("tokens_seen_before", 0)
    return {
        **{name: terms[name] for name in ("name", "license", "attribution")},
        "tokens_seen": saved.step * saved.tokens_per_step,
        **({"tokens_seen_before": before} if before else {}),
    }


def progress_of(saved: Checkpoint) -> dict[str, Any]:
    """The small parts of a checkpoint, and factors of the optimizer's second moments, by parameter."""
    progress = {one.name: getattr(saved, one.name) for one in fields(saved) if one.name not in (*LARGE, "source")}
    optimizer = saved.optimizer["state"]
    return {**progress, "squares": {number: factors(one["exp_avg_sq"]) for number, one in optimizer.items()}}


def factors(squares: Tensor) -> list[Tensor]:
    """Means over the last axis and over the one before; of a vector, itself."""
    return [squares] if squares.ndim < 2 else [squares.mean(-1), squares.mean(-2)]


def product(means: list[Tensor]) -> Tensor:
    """What `factors` has of a matrix, as a matrix again: of rank one, with the same means."""
    if len(means) == 1:
        return means[0]
    rows, columns = means
    total = rows.mean(-1, keepdim=True)[..., None].clamp(min=torch.finfo(rows.dtype).tiny)
    return rows[..., :, None] / total * columns[..., None, :]


if __name__ == "__main__":
    halve(*(Path(argument) for argument in sys.argv[1:]))
