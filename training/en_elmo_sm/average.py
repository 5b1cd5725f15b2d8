"""Average the weights of several states of a run, which replaces a falling learning rate.

    python training/en_elmo_sm/average.py STATE STATE [STATE ...] OUT

STATE: output of halve.py at several times of a run with a constant learning rate, the latest one last. OUT gets the
card of the last state. OUT is a model to measure and ship. To continue the run, use the last state, not the mean.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from spacy_elmo import formats
from spacy_elmo.pretraining.evaluation import Evaluator


def average(states: Sequence[Path], out: Path) -> None:
    """Write the mean of `states` to `out`, in float16.

    Raises:
        ElmoError: a state cannot be read.
    """
    models = [Evaluator.load(state, "cpu") for state in states]
    mean = models[-1]
    with torch.no_grad():
        for module in ("bilm", "softmax"):
            tensors = [getattr(model, module).state_dict() for model in models]
            means = {name: sum(one[name] for one in tensors) / len(tensors) for name in tensors[0]}
            getattr(mean, module).load_state_dict(means)
    formats.write(mean.bilm, out, "float16", mean.vocabulary.words, mean.softmax)


if __name__ == "__main__":
    *states, out = map(Path, sys.argv[1:])
    average(states, out)
