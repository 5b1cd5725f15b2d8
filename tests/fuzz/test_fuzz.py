"""Try a few hostile files of every kind, and check that the fuzzer notices what it must."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
KINDS = sorted(file.stem for file in (HERE / "kinds").glob("*.py"))

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it needs Linux's limits")


def run(out, *arguments):
    command = [sys.executable, HERE, "--out", out, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def results(out):
    """Return the results of each kind, by case number."""
    found = {}
    for file in out.glob("*.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        found[file.name.split("-")[0]] = {line["key"]: line["result"] for line in lines}
    return found


def test_a_few_files_of_every_kind_are_read_or_refused(tmp_path):
    done = run(tmp_path, "--cases", 6)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {kind: len(cases) for kind, cases in results(tmp_path).items()} == dict.fromkeys(KINDS, 6)
    rows = [line.split("|") for line in done.stdout.splitlines()[2:] if line.startswith("|")]
    assert [row[1].strip() for row in rows] == KINDS
    assert {row[2].strip() for row in rows} == {"6"}
    assert done.stdout.splitlines()[:2] == documented()[:2]


def documented():
    """Return the lines of the table in the docs."""
    page = (HERE.parents[1] / "docs" / "reliability.md").read_text(encoding="utf8")
    return [line for line in page[page.index("| kind |") :].splitlines() if line.startswith("|")][: len(KINDS) + 2]


def test_the_table_in_the_docs_has_each_kind_by_its_name_and_nothing_is_lost():
    (
        names,
        *_,
    ) = zip(*(line.split("|")[1:] for line in documented()[2:]), strict=True)
    assert [name.strip(" `") for name in names] == KINDS


# What a reader does with a file, and the fuzzer's message; None: nothing is wrong.
READERS = {
    "refuses": ("raise ElmoError('no')", None),
    "loads": ("pass", None),
    "raises": ("{}['key']", "KeyError: 'key'"),
    "misreads": ("assert False, 'other values'", "AssertionError: other values"),
    "talks": ("raise ElmoError('x' * 2000)", "a message of 2,000 characters"),
    "talks_in_lines": ("raise type('Loud', (ElmoError,), {'__str__': lambda _: 'two\\nlines'})", "more than one line"),
    "sleeps_not": ("while True: pass", "TooSlowError"),
    "eats": ("bytes(2**32)", "MemoryError"),
    "starts": ("os.system('true')", "os.system"),
    "writes": ("open('/tmp/../dev/shm/spacy-elmo-fuzz', 'w')", "open /dev/shm/spacy-elmo-fuzz"),
    "leaves": ("tempfile.mkstemp()", "left tmp"),
    "changes": ("(folder / 'file').unlink()", "changed its input files"),
    "dies": ("os.kill(os.getpid(), signal.SIGSEGV)", "died of SIGSEGV"),
    "hangs": (
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPROF])\n        while True: pass",
        "died of SIGXCPU",
    ),
}
MODULE = """
import os, signal, tempfile
from spacy_elmo.errors import ElmoError

class Kind:
    def __init__(self, seeds):
        pass

    def make(self, rng, folder):
        (folder / "file").write_text(str(rng.random()))
        return rng.random() < 0.5

    def honest(self):
        yield {{"honest": b""}}

    def read(self, folder, behind):
        if (folder / "honest").exists():
            return
        {}
"""


def test_nothing_is_tried_of_a_kind_whose_undamaged_files_are_refused(tmp_path):
    (tmp_path / "strict.py").write_text(MODULE.format("pass").replace("return\n", "raise ElmoError('too strict')\n"))
    done = run(tmp_path / "out", "--folder", tmp_path, "--kinds", "strict", "--cases", 1)
    assert (done.returncode, results(tmp_path / "out")) == (1, {})
    assert "too strict" in done.stderr


@pytest.fixture
def kinds(tmp_path):
    """Return a folder of kinds whose readers do what `READERS` says."""
    folder = tmp_path / "kinds"
    folder.mkdir()
    for name, (code, _) in READERS.items():
        (folder / f"{name}.py").write_text(MODULE.format(code))
    return folder


def test_what_a_reader_does_wrong_is_noticed(kinds, tmp_path):
    done = run(tmp_path / "out", "--folder", kinds, "--cases", 1, "--seconds", 1)
    assert done.returncode == 1, done.stderr
    found = results(tmp_path / "out")
    assert found.keys() == READERS.keys()
    for name, (_, what) in READERS.items():
        result = found[name][0]
        assert result["end"] == ("lost" if what else {"refuses": "refused", "loads": "loaded"}[name]), (name, result)
        assert (what or "") in result.get("what", ""), (name, result)
        assert f"{name} 0: " in done.stdout or what is None


def test_it_goes_on_where_it_was_stopped_and_a_case_is_the_same_again(kinds, tmp_path):
    def outcome(out):
        return {number: result["behind"] for number, result in results(out)["loads"].items()}

    whole = ("--folder", kinds, "--kinds", "loads", "--cases", 20)
    run(tmp_path / "one", *whole)
    run(tmp_path / "two", *whole[:-1], 7)
    file = next((tmp_path / "two").iterdir())
    file.write_text(file.read_text()[:-5])  # as if the run was killed
    run(tmp_path / "two", *whole)
    assert sorted(outcome(tmp_path / "one")) == list(range(20))
    assert outcome(tmp_path / "one") == outcome(tmp_path / "two")
    assert len(file.read_text().splitlines()) == 20


def test_what_was_lost_is_tried_again(kinds, tmp_path, monkeypatch):
    (kinds / "mended.py").write_text(MODULE.format("assert 'MENDED' in os.environ, 'not yet'"))
    arguments = ("--folder", kinds, "--kinds", "mended", "--cases", 1)
    assert run(tmp_path / "out", *arguments).returncode == 1
    monkeypatch.setenv("MENDED", "1")
    assert run(tmp_path / "out", *arguments).returncode == 0


def test_results_of_other_code_are_not_used(kinds, tmp_path):
    arguments = ("--folder", kinds, "--kinds", "loads", "--cases", 1)
    assert run(tmp_path / "out", *arguments).returncode == 0
    (kinds / "loads.py").write_text(MODULE.format("{}['key']"))
    assert run(tmp_path / "out", *arguments).returncode == 1
