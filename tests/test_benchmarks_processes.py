"""The memory benchmark counts the private memory of each process, and shared memory only once."""

import mmap
import os
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

MIB = 2**20

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="reads memory where Linux tells it: /proc/PID/smaps_rollup"
)


def test_shared_memory_counts_once_and_that_of_one_process_is_its_own(import_benchmark):
    looks, me = [], os.getpid()
    look = import_benchmark("memory").look
    shared = mmap.mmap(-1, 40 * MIB)
    shared.write(b"x" * 40 * MIB)
    look(me, looks)
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:  # it reads the shared memory and has 20 MiB more
        own = bytes(range(256)) * (20 * MIB // 256)
        os.write(told, bytes([shared[0] + len(own[:1])]))
        time.sleep(60)
        os._exit(0)
    try:
        os.read(ready, 1)
        look(me, looks)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    before, seen = looks
    assert seen.keys() - before.keys() == {child}  # from Python 3.14 on, other tests leave a fork server
    in_all = [sum(share for share, _ in processes.values()) for processes in looks]
    assert 15 < in_all[1] - in_all[0] < 40
    assert 15 < seen[child][1] < 40 < before[me][1]


def test_rows_are_measured_while_the_pipelines_run(import_benchmark, data, monkeypatch):
    bench, harness = import_benchmark("bench"), import_benchmark("harness")
    monkeypatch.setattr(import_benchmark("cases"), "write_model", lambda size: (str(data / "tiny_2l_skip"), None))
    monkeypatch.setattr(bench, "PROCESSES", ((1, None), (2, "fork")))
    with ExitStack() as stack:
        report = harness.Report("native", 1, stack)
        bench.processes(report, bench.parse_arguments(["processes", "--sizes=small", "--threads=1"]))
    assert [(row["processes"], row["method"]) for row in report.tables["processes"]] == [(1, ""), (2, "fork")]
    for row in report.tables["processes"]:
        assert row["words/s"] > 0
        assert row["MiB in all"] > row["MiB of one"] > 10
