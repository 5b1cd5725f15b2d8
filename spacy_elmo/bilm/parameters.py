"""Parameters as all modules here make them."""

import torch
from torch import nn


def empty_parameter(*shape: int) -> nn.Parameter:
    """Float32 on the CPU, whatever defaults the process has set for torch; its values are not set."""
    return nn.Parameter(torch.empty(*shape, dtype=torch.float32, device="cpu"))
