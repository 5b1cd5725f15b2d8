"""States of one run in, the mean of their weights out: what a falling learning rate would have brought, without it.

    python training/en_elmo_sm/average.py STATE STATE [STATE ...] OUT

STATE: what halve.py wrote at several times of a run at a constant learning rate, the last one last, whose card OUT
takes over. OUT is a model to measure and to ship; go on with the run from the last state, not from the mean.
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
