"""The group of processes that train together, from the environment variables that `torchrun` sets."""

import datetime
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed

from spacy_elmo.bilm.time_steps import State
from spacy_elmo.errors import PretrainingError
from spacy_elmo.support.device import choose_device

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """The processes of a run, and this process's place among them; a single process is a group of one."""

    device: torch.device
    rank: int = 0
    local_rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the shared files."""
        return self.rank == 0

    def warn(self, text: str) -> None:
        """Print a warning on stderr, once for all processes."""
        if self.is_main:
            print(f"⚠ {text}", file=sys.stderr)

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self.size > 1:
            distributed.barrier()

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def of_main(self, value: T) -> T:
        """Return the main process' value in all processes: plain data, or tensors on the CPU."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, device=self.device)
        return box[0]

    def join_rows(self, states: Sequence[State]) -> list[State]:
        """Return the LSTM states of the rows of all processes, in order of rank."""
        return [(self._join(hidden), self._join(cell)) for hidden, cell in states]

    def _join(self, part: Tensor) -> Tensor:
        if self.size == 1:
            return part
        parts = [torch.empty_like(part) for _ in range(self.size)]
        distributed.all_gather(parts, part.contiguous())
        return torch.cat(parts, dim=1)


@contextmanager
def join_group(device: str) -> Iterator[Group]:
    """Join the processes that `torchrun` started, over nccl on GPUs and gloo on CPUs; without it, a group of one.

    device: "auto", "cpu", "cuda" or "cuda:1".

    Raises:
        PretrainingError: this machine has no such device.
    """
    rank, local_rank, size = (int(os.environ.get(name, least)) for name, least in _ENVIRONMENT)
    chosen = _choose_device(device, local_rank)
    if size == 1:
        yield Group(chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    # The timeout is long because processes wait while one encodes or evaluates; torchrun notices one that died.
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=datetime.timedelta(hours=12))
    try:
        yield Group(chosen, rank, local_rank, size)
    finally:
        # A DistributedDataParallel refers to itself and to the group, whose threads must end before Python does.
        gc.collect()
        distributed.destroy_process_group()


def is_elastic() -> bool:
    """Return whether `torchrun` started this process, and may start it again with the same arguments."""
    return distributed.is_available() and distributed.is_torchelastic_launched()


_ENVIRONMENT = (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1))


def _choose_device(name: str, local_rank: int) -> torch.device:
    device = choose_device(name, "[training] device", PretrainingError)
    if str(device) == "cuda":  # each process of a machine has its own GPU
        device = choose_device(f"cuda:{local_rank}", "[training] device", PretrainingError)
    return device
