"""The benchmark of memory sees what processes have for themselves, and what they share only once."""

import mmap
import os
import time
from pathlib import Path

import pytest

from spacy_elmo import formats

MIB = 2**20

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="reads memory where Linux tells it: /proc/PID/smaps_rollup"
)


def test_shared_memory_counts_once_and_that_of_one_process_is_its_own(import_benchmark):
    processes = import_benchmark("processes")
    shared = mmap.mmap(-1, 40 * MIB)
    shared.write(b"x" * 40 * MIB)
    before = processes.Seen()
    before.look(os.getpid())
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:  # it reads what is shared and has 20 MiB more
        own = bytes(range(256)) * (20 * MIB // 256)
        os.write(told, bytes([shared[0] + len(own[:1])]))
        time.sleep(60)
        os._exit(0)
    try:
        os.read(ready, 1)
        seen = processes.Seen()
        seen.look(os.getpid())
        assert child in processes.children(os.getpid())
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert 15 * MIB < seen.in_all - before.in_all < 40 * MIB
    assert 15 * MIB < seen.of_child < 40 * MIB < before.of_itself
    assert before.of_child == 0


@pytest.fixture
def section(import_benchmark):
    harness = import_benchmark("harness")
    return harness.Section(harness.Level("native", None), None)


@pytest.mark.parametrize(("method", "count"), [("", 1), ("fork", 2)])
def test_a_row_is_measured_while_the_pipeline_runs(import_benchmark, section, data, method, count):
    processes = import_benchmark("processes")
    row = processes.measure(section, str(data / "tiny_2l_skip"), method, count, ["We sat here ."] * 1_000, 1)
    assert row["words/s"] > 0
    assert row["MiB in all"] > row["MiB of one"] > 10


def test_the_stream_is_looked_at_ten_times(import_benchmark, section, data, monkeypatch):
    monkeypatch.setattr(formats, "BUNDLED", str(data / "tiny_2l_skip"))
    looks = import_benchmark("processes").stream(section, 2_000, threads=1)
    assert [row["texts"] for row in looks] == list(range(200, 2_001, 200))
    assert all(row["MiB"] > 100 for row in looks)
