"""Make a run that continues from a state of halve.py, also on another machine.

    python training/en_elmo_sm/resume.py STATE RUN
    python -m spacy elmo pretrain CORPUS RUN --config training/en_elmo_sm/pretrain.cfg --resume

It continues at the same place in the same text. Adam gets its second moments back, approximated from the means of rows
and columns. Its first moments are zero, without a correction for that. So its first ten steps or so are short, and it
needs no new warm-up.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from halve import NAME, product

from spacy_elmo.pretraining.checkpoint import NAME as CHECKPOINT
from spacy_elmo.pretraining.checkpoint import Checkpoint
from spacy_elmo.pretraining.evaluation import Evaluator
from spacy_elmo.pretraining.language_model import LanguageModel


def resume(state: Path, run: Path) -> None:
    """Write the checkpoint of a run that continues from `state`; `pretrain` writes the other files."""
    if (run / CHECKPOINT).exists():
        sys.exit(f"{run}: this directory already holds a run")
    kept = Evaluator.load(state, "cpu")
    model = LanguageModel(kept.bilm, kept.softmax)
    progress = torch.load(state / NAME, weights_only=True)
    squares = progress.pop("squares")
    saved = Checkpoint(
        **progress,
        model=model.state_dict(),
        optimizer=optimizer_of(model, squares, progress["step"]),
        states=zero_states(model, progress["rows"]),
        since_log=torch.zeros(2, dtype=torch.float64),
    )
    run.mkdir(parents=True, exist_ok=True)
    saved.write(run / CHECKPOINT)


def optimizer_of(model: LanguageModel, squares: dict[int, list[torch.Tensor]], step: int) -> dict[str, Any]:
    """Return the state of Adam."""
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters)
    for number, parameter in enumerate(parameters):
        moments = {"exp_avg": torch.zeros_like(parameter), "exp_avg_sq": product(squares[number])}
        optimizer.state[parameter] = {"step": torch.tensor(float(step)), **moments}
    state: dict[str, Any] = optimizer.state_dict()
    return state


def zero_states(model: LanguageModel, rows: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return hidden states and cells of zeros for each layer."""
    lstm = model.bilm.options.lstm
    return [(torch.zeros(2, rows, lstm.projection_dim), torch.zeros(2, rows, lstm.dim)) for _ in range(lstm.n_layers)]


if __name__ == "__main__":
    resume(*(Path(argument) for argument in sys.argv[1:]))
