"""Settings in, optimizer and learning rate out."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from spacy_elmo.pretraining.config import OptimizerConfig


def make_optimizer(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Adagrad (as TensorFlow's: an accumulator that starts above zero instead of an epsilon), Adam or AdamW."""
    if config.name == "adagrad":
        parameters = list(parameters)
        on_cpu = all(parameter.device.type == "cpu" for parameter in parameters)
        return torch.optim.Adagrad(
            parameters,
            config.learning_rate,
            initial_accumulator_value=config.initial_accumulator,
            fused=on_cpu or None,  # older releases of torch have it for CPUs only
        )
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(
        parameters,
        config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )


def learning_rate(config: OptimizerConfig, step: int, n_steps: int) -> float:
    """Learning rate of a step, counted from 0: up to its highest in `warmup_steps`, then down to 0 at `n_steps`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, n_steps - config.warmup_steps)
    left = {"none": 1.0, "linear": 1.0 - done, "cosine": 0.5 + 0.5 * math.cos(math.pi * done)}[config.decay]
    return config.learning_rate * left
