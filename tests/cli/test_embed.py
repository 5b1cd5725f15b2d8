import json
import os
import signal
import subprocess
import sys

import h5py
import pytest

from spacy_elmo.tools.embedding.spool import Spool
from spacy_elmo.tools.embedding.text import Text

without_windows = pytest.mark.skipif(sys.platform == "win32", reason="there is no /dev/stdin")


@pytest.fixture
def embed(elmo, tmp_path, data):
    """Run the command in tmp_path on a small text. Returns exit status, stdout and stderr."""
    (tmp_path / "text.txt").write_text("One is here .\nTwo are\nTwo are\n")

    def run(*args, out="out.hdf5"):
        return elmo("embed", tmp_path / "text.txt", tmp_path / out, "--model", data / "tiny_2l_skip", *args)

    return run


def test_writes_the_file_and_says_what_is_in_it(embed, tmp_path):
    status, printed, progress = embed("--layers", "top")
    assert status == 0
    assert "out.hdf5: 3 lines, 8 tokens, the top layer, 32 wide, float32" in printed
    assert "embedding" in progress
    with h5py.File(tmp_path / "out.hdf5") as file:
        assert [file[name].shape for name in "012"] == [(4, 32), (2, 32), (2, 32)]
        assert json.loads(file["sentence_to_index"][0]) == {"One is here .": "0", "Two are": "2"}


def test_json_is_one_object(embed, tmp_path):
    status, printed, said = embed("--json", "--quiet", "--layers", "1", "--float16")
    assert (status, said) == (0, "")
    assert json.loads(printed) == {
        "lines": 3,
        "tokens": 8,
        "layers": "1",
        "width": 32,
        "dtype": "float16",
        "bytes": (tmp_path / "out.hdf5").stat().st_size,
    }


def test_quiet_prints_nothing(embed):
    assert embed("--quiet") == (0, "", "")


def test_raw_text_and_tables_are_a_warning_and_what_to_do(elmo, embed, tmp_path, data):
    assert "⚠" not in embed()[2]
    for name, seen in (("raw.txt", "looks like raw text"), ("table.csv", "looks like a table")):
        (tmp_path / name).write_text("It rained.\nIt didn't.\n")
        asked = ("embed", tmp_path / name, tmp_path / f"{name}.npz", "--model", data / "tiny_2l_skip")
        status, _, said = elmo(*asked)
        assert status == 0
        (warning,) = [line for line in said.splitlines() if line.startswith("⚠")]
        assert seen in warning
        assert "--pipeline" in warning
        assert "⚠" not in elmo(*asked, "--force", "--pipeline", "en")[2]


@pytest.mark.parametrize("name", ["-", pytest.param("/dev/stdin", marks=without_windows)])
def test_a_pipe_is_read_as_a_file_is(embed, tmp_path, data, name):
    assert embed("--quiet", out="file.npz")[0] == 0
    arguments = ["embed", name, "pipe.npz", "--model", str(data / "tiny_2l_skip"), "--quiet"]
    command = [sys.executable, "-m", "spacy", "elmo", *arguments]
    subprocess.run(command, input=(tmp_path / "text.txt").read_bytes(), check=True, cwd=tmp_path)
    assert (tmp_path / "pipe.npz").read_bytes() == (tmp_path / "file.npz").read_bytes()


def test_second_run_is_one_line_and_status_1_unless_forced(embed):
    embed("--quiet")
    status, printed, said = embed()
    assert (status, printed) == (1, "")
    assert len(said.splitlines()) == 1
    assert "--force" in said
    assert embed("--quiet", "--force")[0] == 0
    assert embed("--quiet", "-f")[0] == 0


@pytest.fixture
def ctrl_c():
    """Make Ctrl-C work even where the tests run in the background with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_that_is_stopped_says_how_to_go_on(embed, ctrl_c, monkeypatch, number):
    add = Spool.add
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "add", lambda spool, some: add(spool, some) or os.kill(os.getpid(), number))
        status, printed, said = embed("--quiet", "--batch-size", "1")
    assert (status, printed) == (128 + number, "")
    assert len(said.splitlines()) == 1
    assert "out.hdf5: stopped; finished vectors are kept in" in said
    assert "add --resume to the same command" in said
    assert embed("--quiet", "--batch-size", "1", "--resume") == (0, "", "")


def test_run_that_is_stopped_before_anything_is_done_promises_nothing(embed, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Text, "survey", stop)
    status, _, said = embed()
    assert status == 130
    assert said.strip().endswith("out.hdf5: stopped")


@pytest.mark.parametrize("out", ["out.txt", "nowhere/out.h5"])
def test_impossible_output_is_one_line_and_status_1(embed, out):
    status, _, said = embed(out=out)
    assert status == 1
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("wrong", [["--batch-size", "0"], ["--engine", "fast"], ["--what"]])
def test_wrong_usage_is_status_2(embed, wrong):
    assert embed(*wrong)[0] == 2


def test_help_has_an_example(elmo):
    done = elmo("embed", "--help")
    assert done.status == 0
    assert "python -m spacy elmo embed" in done.stdout
