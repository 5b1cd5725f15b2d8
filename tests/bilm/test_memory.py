"""Freed memory goes back to the system, and a batch is freed before the next one begins."""

import os
import subprocess
import sys
import weakref

import pytest

from spacy_elmo import formats
from spacy_elmo.bilm import memory

HOLES = """
import os
from pathlib import Path
import torch
from spacy_elmo.bilm.memory import FreedMemory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20

torch.ones(2**22)  # freed arrays of this size are kept from now on
arrays = [torch.ones(2**17) for _ in range(400)]  # 200 MiB
kept = arrays[::2]
del arrays[::2]
before = resident()
arrays.clear()
between = resident()
FreedMemory().add(2**30)
print(before, between, resident())
"""


@pytest.mark.skipif(memory._TRIM is None, reason="no such call in this system's C library")
def test_holes_between_arrays_are_returned():
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)}
    shown = subprocess.run([sys.executable, "-c", HOLES], env=environment, check=True, capture_output=True, text=True)
    before, between, after = map(int, shown.stdout.split())
    assert between > before - 50
    assert after < before - 80


def test_layers_of_a_batch_are_gone_before_the_next_is_begun(data, monkeypatch):
    bilm, layers, alive, returned = formats.load(data / "tiny_2l_skip"), [], [], []
    embed = bilm.embed
    monkeypatch.setattr(memory, "_TRIM", lambda _: returned.append(len(alive)))
    monkeypatch.setattr(memory, "_BYTES", 1)

    def look(words):
        alive.append([one() is not None for one in layers])
        return embed(words)

    monkeypatch.setattr(bilm, "embed", look)
    for batch in bilm.stream([["a", "b"]] * 3, max_batch_tokens=1):
        layers.append(weakref.ref(batch.layers))
        del batch
    assert alive == [[], [False], [False, False]]
    assert returned == [1, 2, 3]


def test_small_batches_are_tidied_up_behind_once_they_add_up(monkeypatch):
    calls = []
    monkeypatch.setattr(memory, "_TRIM", calls.append)
    freed = memory.FreedMemory()
    for _ in range(7):
        freed.add(memory._BYTES // 3 + 1)
    assert calls == [0, 0]
