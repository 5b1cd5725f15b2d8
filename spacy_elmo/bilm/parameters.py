"""How all modules here create parameters."""

import torch
from torch import nn


def empty_parameter(*shape: int) -> nn.Parameter:
    """Return an uninitialized float32 parameter on the CPU, whatever torch defaults the process has set."""
    return nn.Parameter(torch.empty(*shape, dtype=torch.float32, device="cpu"))
