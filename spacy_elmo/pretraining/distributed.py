"""What `torchrun` set in the environment in, the group of processes that train together out."""

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
    """The processes of a run, and this one's place among them; a run by itself is a group of one."""

    device: torch.device
    rank: int = 0
    local_rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files that there is one of."""
        return self.rank == 0

    def warn(self, text: str) -> None:
        """Say something on stderr, once for all processes."""
        if self.is_main:
            print(f"⚠ {text}", file=sys.stderr)

    def wait(self) -> None:
        """Return once all processes have come here."""
        if self.size > 1:
            distributed.barrier()

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def of_main(self, value: T) -> T:
        """The main process' value, in all of them: plain data, and tensors on the CPU."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, device=self.device)
        return box[0]

    def join_rows(self, states: Sequence[State]) -> list[State]:
        """LSTM states of the rows of all processes, in order of rank."""
        return [(self._join(hidden), self._join(cell)) for hidden, cell in states]

    def _join(self, part: Tensor) -> Tensor:
        if self.size == 1:
            return part
        parts = [torch.empty_like(part) for _ in range(self.size)]
        distributed.all_gather(parts, part.contiguous())
        return torch.cat(parts, dim=1)


@contextmanager
def join_group(device: str) -> Iterator[Group]:
    """Join the processes that `torchrun` started, over nccl on GPUs and gloo on CPUs; alone without it.

    device: "auto", "cpu", "cuda" or "cuda:1".

    Raises:
        PretrainingError: the device does not exist here.
    """
    rank, local_rank, size = (int(os.environ.get(name, least)) for name, least in _ENVIRONMENT)
    chosen = _choose_device(device, local_rank)
    if size == 1:
        yield Group(chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    # one process encodes or evaluates while the others wait; torchrun itself notices one that died
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=datetime.timedelta(hours=12))
    try:
        yield Group(chosen, rank, local_rank, size)
    finally:
        gc.collect()  # a DistributedDataParallel refers to itself, and to the group: its threads must end before Python
        distributed.destroy_process_group()


def is_elastic() -> bool:
    """Whether `torchrun` started this process, and may start it again with the same arguments."""
    return distributed.is_available() and distributed.is_torchelastic_launched()


_ENVIRONMENT = (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1))


def _choose_device(name: str, local_rank: int) -> torch.device:
    device = choose_device(name, "[training] device", PretrainingError)
    if str(device) == "cuda":  # each process of a machine has its own
        device = choose_device(f"cuda:{local_rank}", "[training] device", PretrainingError)
    return device
