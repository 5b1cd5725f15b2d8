"""Tensors on one side in, the same on the other out: between the CPU and a GPU, by way of memory that a GPU reads and
writes by itself (pinned), which torch keeps for the next time."""

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy from the CPU; neither waits for the other."""
    return x.contiguous().pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def floats_on_cpu(x: Tensor) -> Tensor:
    """Copy to the CPU as float32, once the GPU is done with it; what is there already as such is no copy."""
    x = x.float()
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x) if x.is_cuda else x
