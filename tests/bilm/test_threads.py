"""How many threads a biLM uses, torch's number of threads during and after a call, and the number in a forked
process."""

import copy
import os
import pickle
import subprocess
import sys
import threading

import pytest
import torch

from spacy_elmo.bilm import BiLM, threads
from spacy_elmo.bilm.threads import ForkSafeLock
from spacy_elmo.errors import ElmoError
from spacy_elmo.formats import digest, load


@pytest.fixture
def bilm(data) -> BiLM:
    return load(data / "tiny_2l_skip")


@pytest.mark.parametrize("wrong", [0, -1, True, 2.0, "2", "all", "", None, [1]])
def test_a_wrong_number_of_threads_is_one_clear_error(wrong, bilm):
    with pytest.raises(ElmoError, match=r'^threads is .*, expected "auto" or a whole number of at least 1$'):
        bilm.set_threads(wrong)
    assert bilm.threads == "auto"


def test_a_number_of_threads_survives_copies_and_is_no_part_of_the_weights(bilm):
    state, before = bilm.state_dict(), digest(bilm)
    bilm.set_threads(3)
    assert copy.deepcopy(bilm).threads == pickle.loads(pickle.dumps(bilm)).threads == 3
    assert list(bilm.state_dict()) == list(state)
    assert digest(bilm) == before
    assert "threads" not in bilm.options.to_dict()


@pytest.mark.parametrize(
    ("setting", "of_torch", "usable", "expected"),
    [("auto", 4, 8, 4), ("auto", 8, 2, 2), (3, 1, 8, 3), (3, 8, 8, 3), (3, 8, 2, 2), (1, 8, 8, 1)],
)
def test_threads_are_as_many_as_asked_for_and_no_more_than_the_process_may_use(
    setting, of_torch, usable, expected, bilm, monkeypatch
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: of_torch)
    monkeypatch.setattr(threads, "usable_cpus", lambda: usable)
    bilm.set_threads(setting)
    assert threads.count_threads(bilm.threads) == expected


class Clocks:
    """Fake clocks for `threads`, which stand still until a test moves them."""

    def __init__(self, monkeypatch):
        self.wall = self.cpu = 0.0
        monkeypatch.setattr(threads.time, "monotonic", lambda: self.wall)
        monkeypatch.setattr(threads.time, "perf_counter", lambda: self.wall)
        monkeypatch.setattr(threads.time, "thread_time", lambda: self.cpu)

    def call(self, short_calls, had_cpu, seconds=0.01):
        """Make a short call in which the thread has a CPU for this share of the time. Returns how many of two threads
        it used."""
        n = short_calls.count(2)
        with short_calls.measured(n):
            self.wall += seconds
            self.cpu += had_cpu * seconds
        return n


def test_short_calls_use_one_thread_while_they_have_to_wait_for_a_cpu(monkeypatch):
    clocks, short_calls = Clocks(monkeypatch), threads.ShortCalls()
    assert [clocks.call(short_calls, 1.0) for _ in range(3)] == [2, 2, 2]
    assert [clocks.call(short_calls, 0.5) for _ in range(4)] == [2, 1, 1, 1]
    tries = [clocks.call(short_calls, 0.5) for _ in range(2000)]
    assert 0 < tries.count(2) < 40  # it tries again now and then, less and less often
    clocks.wall += 2.0
    assert [clocks.call(short_calls, 1.0) for _ in range(3)] == [2, 2, 2]
    after_a_wait = [clocks.call(short_calls, had_cpu) for had_cpu in (0.5, *[1.0] * 9)]
    assert after_a_wait.count(1) < 9  # one wait alone has only a short effect


def test_where_short_times_cannot_be_told_no_call_seems_to_wait(monkeypatch):
    clocks, short_calls = Clocks(monkeypatch), threads.ShortCalls()
    monkeypatch.setattr(sys, "platform", "win32")
    assert [clocks.call(short_calls, 0.0) for _ in range(3)] == [2, 2, 2]


def test_a_number_that_was_asked_for_is_used_whatever_else_runs(monkeypatch, bilm):
    found = []
    monkeypatch.setattr(BiLM._short_calls, "count", lambda n: 1)
    monkeypatch.setattr(threads, "usable_cpus", lambda: 4)
    embed = bilm.embed
    monkeypatch.setattr(bilm, "embed", lambda words: found.append(torch.get_num_threads()) or embed(words))
    before = torch.get_num_threads()
    for setting in ("auto", 3):
        bilm.set_threads(setting)
        bilm.encode([["a"]])
    assert found == [1, 3]
    assert torch.get_num_threads() == before


# Test torch's own number in a separate process, because OMP_NUM_THREADS is 1 in this one.

SCOPES = """
import sys, threading
import torch
from spacy_elmo.bilm import threads
from spacy_elmo.bilm.threads import torch_threads

if sys.argv[1] == "whole process":
    threads._scope = lambda: threads._whole_process

def numbers():  # torch's, OpenMP's and MKL's
    lines = torch.__config__.parallel_info().splitlines()
    found = [int(line.split(":")[-1]) for line in lines if "get_num_threads() :" in line or "_max_threads() :" in line]
    assert len(set(found)) == 1, lines
    return found[0]

def in_thread(function, *args):
    found = []
    thread = threading.Thread(target=lambda: found.append(function(*args)))
    thread.start()
    thread.join(30)
    return found[0]
"""

NESTED = """
for before in (2, 3):
    with torch_threads(before):
        pass
    torch.set_num_threads(before)
    with torch_threads(5):
        assert numbers() == 5
        with torch_threads(1), torch_threads(1):
            assert numbers() == 1
        assert numbers() == 5
        with torch_threads(5):
            pass
        assert numbers() == 5
        try:
            with torch_threads(1):
                raise KeyError
        except KeyError:
            assert numbers() == 5
    assert numbers() == before
    one, other = torch_threads(1), torch_threads(4)
    one.__enter__(), other.__enter__()
    assert numbers() == 4
    one.__exit__(None, None, None)
    assert numbers() == 4
    other.__exit__(None, None, None)
    assert numbers() == in_thread(numbers) == before
"""

OVERLAPPING = """
class Call(threading.Thread):
    def __init__(self, n, own):  # own: the thread's number outside the call; None: that of a new thread
        super().__init__()
        self.n, self.own, self.inside, self.after = n, own, [], None
        self.is_in, self.may_end = threading.Event(), threading.Event()
        self.start()
        self.is_in.wait(30)

    def run(self):
        if self.own:
            torch.set_num_threads(self.own)
        self.own = numbers()
        with torch_threads(self.n):
            self.inside.append(numbers())
            self.is_in.set()
            self.may_end.wait(30)
            self.inside.append(numbers())
        self.after = numbers()

    def end(self):
        self.may_end.set()
        self.join(30)
        assert self.inside == [self.n, self.n], self.inside
        assert self.after == self.own, (self.after, self.own)

for own in (None, 6):
    for first_out in (0, 1):
        torch.set_num_threads(3)
        assert numbers() == 3
        calls = [Call(1, None), Call(2, own)]
        assert numbers() == 3  # of a thread that has no call open
        assert sys.argv[1] == "whole process" or calls[1].own == (own or 3)
        if own:
            torch.set_num_threads(3)  # for threads to come
        calls[first_out].end()
        calls[1 - first_out].end()
        assert numbers() == in_thread(numbers) == 3
"""

# A thread uses torch for the first time while another is inside a call. torch.set_num_threads would leave it at that
# number.
NEWCOMER = """
torch.set_num_threads(3)
with torch_threads(1):
    found, is_over, thread = [], threading.Event(), threading.Thread(
        target=lambda: (found.append(numbers()), is_over.wait(30), found.append(numbers())))
    thread.start()
    while not found:
        pass
is_over.set()
thread.join(30)
assert found == [3, 3], found
"""

MANY = """
import random
sys.setswitchinterval(1e-5)
torch.set_num_threads(3)
errors = []
are_there = threading.Barrier(6)
def work(seed):
    draw = random.Random(seed)
    torch.get_num_threads(), are_there.wait(30)  # or they keep what they meet
    try:
        for _ in range(300):
            with torch_threads(n := draw.randint(1, 4)):
                assert torch.get_num_threads() == n
                with torch_threads(m := draw.randint(1, 4)):
                    assert torch.get_num_threads() == m
            assert sys.argv[1] != "one thread" or torch.get_num_threads() == 3
    except BaseException as error:
        errors.append(repr(error))
workers = [threading.Thread(target=work, args=[seed]) for seed in range(6)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join(60)
assert not errors, errors
assert numbers() == in_thread(numbers) == 3
"""

# The real size of a second Python thread's team of threads
TEAM = """
from pathlib import Path

def team(n):
    def running():
        return {path.name for path in Path("/proc/self/task").iterdir()}
    with torch_threads(n):
        before = running()
        torch.ones(2**20).mul_(2.0)
        a = torch.ones(512, 512)
        a @ a
        return len(running() - before)

if Path("/proc/self/task").exists():
    torch.set_num_threads(2)
    assert in_thread(team, 1) == 0
    assert in_thread(team, 4) == 3
    torch.set_num_threads(4)
    assert in_thread(team, 1) == 0
"""

FORKED_INSIDE = """
import os, signal
torch.set_num_threads(2)
torch.ones(2**18).mul_(2.0)
with torch_threads(3):
    torch.ones(2**18).mul_(2.0)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        with torch_threads(2):
            torch.ones(2**18).mul_(2.0)  # would wait for threads that there are no more
            assert torch.get_num_threads() == 1
if child == 0:
    torch.ones(2**18).mul_(2.0)
    assert threads.count_threads(2) == threads.count_threads("auto") == 1
    os._exit(torch.get_num_threads() != 1)
assert torch.get_num_threads() == 2
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

UNTOUCHED = """
before = numbers()
assert threads.count_threads("auto") <= before
assert numbers() == before
with torch_threads(before):
    assert numbers() == before
assert numbers() == in_thread(numbers) == before
"""


@pytest.mark.parametrize("scope", ["one thread", "whole process"])
def test_torch_has_the_number_inside_a_call_and_its_own_afterwards(scope, tmp_path):
    if scope == "one thread" and not isinstance(threads._scope(), threads._OneThread):
        pytest.skip("torch's number can be changed for all threads only")
    parts = [SCOPES, UNTOUCHED, NESTED, OVERLAPPING, MANY, TEAM, *([NEWCOMER] if scope == "one thread" else [])]
    if hasattr(os, "fork"):
        parts.append(FORKED_INSIDE)
    script = tmp_path / "script.py"  # so that a traceback shows the lines
    script.write_text("".join(parts), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    subprocess.run([sys.executable, script, scope], env=environment, check=True, timeout=120)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="known of torch's builds for Linux only")
def test_on_linux_a_call_changes_the_number_of_its_own_thread_only():
    assert isinstance(threads._scope(), threads._OneThread)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_lock_that_another_thread_holds_is_open_in_a_forked_process():
    lock, is_held, may_end = ForkSafeLock(), threading.Event(), threading.Event()

    def hold():
        with lock:
            is_held.set()
            may_end.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    is_held.wait(30)
    child = os.fork()
    if child == 0:
        threading.Timer(10, os._exit, [1]).start()  # a lock that stays held must not block the tests
        with lock, lock:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    may_end.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_lock_keeps_other_threads_out():
    lock, entered = ForkSafeLock(), threading.Event()

    def enter():
        with lock:
            entered.set()

    with lock:
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.2)
    assert entered.wait(30)
    thread.join()


FORKED_BESIDE_THREADS = """
import os, signal
import torch
from spacy_elmo.bilm.threads import keep_to_one_thread_after_fork

torch.set_num_threads(2)
torch.ones(2**18).mul_(2.0)
keep_to_one_thread_after_fork()
assert torch.get_num_threads() == 2
child = os.fork()
if child == 0:
    signal.alarm(20)
    for _ in range(2):
        torch.set_num_threads(2)
        keep_to_one_thread_after_fork()
        torch.ones(2**18).mul_(2.0)  # would wait for a thread that there is no more
    os._exit(torch.get_num_threads() != 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_keeps_to_one_thread():
    subprocess.run([sys.executable, "-c", FORKED_BESIDE_THREADS], check=True, timeout=120)
