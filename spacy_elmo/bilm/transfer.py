"""Copies tensors between the CPU and a GPU through pinned memory, which torch reuses."""

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy from the CPU to a device. Neither waits for the other."""
    return x.contiguous().pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def floats_on_cpu(x: Tensor) -> Tensor:
    """Copy to the CPU as float32, after the GPU has finished. A float32 tensor on the CPU is returned as it is."""
    x = x.float()
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x) if x.is_cuda else x
