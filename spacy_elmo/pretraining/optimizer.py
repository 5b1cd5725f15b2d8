"""Optimizer and learning rate of a run."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from spacy_elmo.errors import PretrainingError
from spacy_elmo.pretraining.checkpoint import check_tensor
from spacy_elmo.pretraining.config import OptimizerConfig

# What each optimizer stores for a parameter: a number of steps, and tensors of the parameter's shape.
_MEMORY = {
    "adagrad": {"step", "sum"},
    "adam": {"step", "exp_avg", "exp_avg_sq"},
    "adamw": {"step", "exp_avg", "exp_avg_sq"},
}


def make_optimizer(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Make Adagrad (like TensorFlow's: its accumulator starts above zero instead of an epsilon), Adam or AdamW."""
    if config.name == "adagrad":
        parameters = list(parameters)
        on_cpu = all(parameter.device.type == "cpu" for parameter in parameters)
        return torch.optim.Adagrad(
            parameters,
            config.learning_rate,
            initial_accumulator_value=config.initial_accumulator,
            fused=on_cpu or None,  # older releases of torch have this for CPUs only
        )
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(
        parameters,
        config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any], name: str, source: str) -> None:
    """Load the saved state of an optimizer of the same name; the settings stay those of the config.

    Raises:
        PretrainingError: the state belongs to another optimizer or other parameters.
    """
    memory, settings = saved["state"], optimizer.state_dict()["param_groups"]
    parameters = optimizer.param_groups[0]["params"]
    if memory and memory.keys() != set(range(len(parameters))):  # Adam has none before its first step
        raise PretrainingError(f"{source}: optimizer does not have {len(parameters)} parameters; is the file damaged?")
    for number, kept in memory.items():
        what = f"{source}: optimizer, parameter {number}"
        if not isinstance(kept, dict) or kept.keys() != _MEMORY[name]:
            raise PretrainingError(f"{what}: expected {', '.join(sorted(_MEMORY[name]))}; is the file damaged?")
        for key, value in kept.items():
            check_tensor(value, torch.zeros(()) if key == "step" else parameters[number], f"{what}: {key}")
    optimizer.load_state_dict({"state": memory, "param_groups": settings})


def learning_rate(config: OptimizerConfig, step: int, n_steps: int) -> float:
    """Return the learning rate of a step, counted from 0: it rises in `warmup_steps`, then falls to 0 at `n_steps`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, n_steps - config.warmup_steps)
    left = {"none": 1.0, "linear": 1.0 - done, "cosine": 0.5 + 0.5 * math.cos(math.pi * done)}[config.decay]
    return config.learning_rate * left
