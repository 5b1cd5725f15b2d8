import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from helpers.embedding import LINES, SENTENCES, assert_same, contents
from spacy_elmo.errors import ElmoError
from spacy_elmo.tools import embed as tool
from spacy_elmo.tools.embed import embed_file
from spacy_elmo.tools.embedding import spool as spools
from spacy_elmo.tools.embedding.encoder import Encoder
from spacy_elmo.tools.embedding.files import WRITERS


@pytest.mark.parametrize("settings", [{}, {"force": True}, {"resume": True}])
@pytest.mark.parametrize("is_directory", [True, False])
def test_what_lies_in_the_place_of_the_spool_and_is_not_ours_stays(text, model, tmp_path, settings, is_directory):
    place = tmp_path / "out.h5.part"
    if is_directory:
        place.mkdir()
    mine = place / "mine.txt" if is_directory else place
    mine.write_text("mine")
    with pytest.raises(ElmoError, match=r"out\.h5\.part: not from a run of embed"):
        embed_file(text, tmp_path / "out.h5", model=model, **settings)
    assert mine.read_text() == "mine"


def test_existing_file_is_kept_unless_forced(text, model, tmp_path):
    out = tmp_path / "out.h5"
    out.write_text("precious")
    for resume in (False, True):
        with pytest.raises(ElmoError, match=r"out\.h5: exists already; --force"):
            embed_file(text, out, model=model, resume=resume)
    assert out.read_text() == "precious"
    embed_file(text, out, model=model, force=True)
    assert len(contents(out)) == len(LINES) + 1


@pytest.mark.parametrize(("name", "words"), [("folder.h5", "directory"), ("no/out.h5", "make it"), ("o.txt", "suffix")])
def test_output_that_cannot_be_is_an_error(text, model, tmp_path, name, words):
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(ElmoError, match=words):
        embed_file(text, tmp_path / name, model=model)


fork = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")


STEPS = (
    (spools.os, "fsync"),
    (spools.os, "truncate"),
    (spools.shutil, "rmtree"),
    (Path, "open"),
    (Path, "mkdir"),
    (Path, "touch"),
    (Path, "rename"),
    (Path, "replace"),
    (Path, "unlink"),
    (h5py.Group, "create_dataset"),
)


def killed_at(step, work):
    """Run `work` in a process that kills itself at the given step; whether it came to that."""

    def run():
        left = iter(range(step))

        def dying(call):
            def counted(*args, **kwargs):
                if next(left, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)

            return counted

        for place, name in STEPS:
            setattr(place, name, dying(getattr(place, name)))
        work()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("force", [False, True])
def test_run_killed_at_any_step_goes_on_to_the_same_file(text, model, tmp_path, force):
    settings = {"model": model, "batch_size": 2}
    embed_file(text, tmp_path / "whole.h5", **settings)
    out = tmp_path / "out.h5"
    step = 0
    while True:
        if force:
            out.write_text("old")
        if not killed_at(step, lambda: embed_file(text, out, force=force, **settings)):
            break
        if spools.directory_of(out).exists() or not out.exists() or out.read_bytes() == b"old":
            embed_file(text, out, resume=True, force=force, **settings)
        assert_same(tmp_path / "whole.h5", out)
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {"text.txt", "whole.h5", "out.h5"}
        out.unlink()
        step += 1
    assert step > 20


@fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_interrupted_run_is_neither_dropped_nor_taken_for_another_unasked(text, model, tmp_path):
    out, settings = tmp_path / "out.h5", {"model": model, "batch_size": 1}
    assert killed_at(25, lambda: embed_file(text, out, **settings))
    with pytest.raises(ElmoError, match="--resume goes on, --force begins anew"):
        embed_file(text, out, **settings)
    with pytest.raises(ElmoError, match="run differs in --layers and --float16;"):
        embed_file(text, out, resume=True, layers="top", float16=True, **settings)
    text.write_text("Something else\n")
    with pytest.raises(ElmoError, match="run differs in the text;"):
        embed_file(text, out, resume=True, **settings)
    embed_file(text, out, force=True, **settings)
    assert contents(out).keys() == {"0", "sentence_to_index"}


def test_resumed_run_encodes_only_what_is_missing(text, model, tmp_path, monkeypatch):
    out, settings = tmp_path / "out.h5", {"model": model, "batch_size": 2}
    embed_file(text, tmp_path / "whole.h5", **settings)
    with monkeypatch.context() as patch:
        patch.setattr(tool, "writer_for", lambda *_: full_disk)
        with pytest.raises(ElmoError, match=r"No space left.*kept in out\.h5\.part.*--resume"):
            embed_file(text, out, **settings)
    assert not out.exists()
    with spools.directory_of(out).joinpath("lengths").open("r+b") as lengths:
        lengths.truncate(3 * 8 + 5)  # in the middle of the second window, and of a number
    seen = []
    encode = Encoder.__call__
    monkeypatch.setattr(Encoder, "__call__", lambda self, some: seen.append(some) or encode(self, some))
    embed_file(text, out, resume=True, **settings)
    assert seen == [SENTENCES[2:4], SENTENCES[4:6]]
    assert_same(tmp_path / "whole.h5", out)


def full_disk(path, *_):
    path.write_text("half")
    raise OSError(28, "No space left on device")


def test_carried_state_of_a_resumed_run_is_that_of_one_run(text, model, tmp_path, monkeypatch):
    out, settings = tmp_path / "out.h5", {"model": model, "batch_size": 2, "carry_state": True}
    embed_file(text, tmp_path / "whole.h5", **settings)
    with monkeypatch.context() as patch:
        add, calls = spools.Spool.add, iter("ab")
        patch.setattr(spools.Spool, "add", lambda self, some: next(calls) and add(self, some))
        with pytest.raises(StopIteration):
            embed_file(text, out, **settings)
    embed_file(text, out, resume=True, **settings)
    assert_same(tmp_path / "whole.h5", out)


SPOOLED = sum(map(len, SENTENCES)) * 3 * 32 * 4  # bytes


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on files")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("room", [SPOOLED // 2, SPOOLED], ids=["for half the spool", "for the spool, not the file"])
def test_file_system_that_is_full_leaves_no_file_and_can_be_resumed(text, model, tmp_path, suffix, room):
    if suffix in (".parquet", ".arrow"):
        pytest.importorskip("pyarrow")
    out, said = tmp_path / f"out{suffix}", tmp_path / "said"

    def run():
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        try:
            embed_file(text, out, model=model, batch_size=2)
        except ElmoError as error:
            said.write_text(str(error))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert "cannot be written" in said.read_text()
    assert not out.exists()
    assert not (tmp_path / f"out{suffix}.part" / out.name).exists()  # half a file
    assert (tmp_path / f"out{suffix}.part/vectors").stat().st_size <= room
    embed_file(text, out, model=model, batch_size=2, resume=True)
    embed_file(text, tmp_path / f"whole{suffix}", model=model, batch_size=2)
    assert out.read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on files")
def test_disk_that_fills_while_hdf5_is_written_is_one_error_and_no_crash(tmp_path, model):
    """HDF5's own tables, flushed when the file is closed, are most of this one."""
    rooms = [60_000, 110_000, 140_000]
    (tmp_path / "text.txt").write_text("".join(f"w{n}\n" for n in range(300)))
    call = [sys.executable, "-c", LIMITED, str(tmp_path), model, *map(str, rooms)]
    done = subprocess.run(call, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for room, said in zip(rooms, done.stdout.splitlines(), strict=True):
        assert f"{room}.h5: cannot be written" in said
        assert "--resume" in said
        left = {path.name for path in (tmp_path / f"{room}.h5.part").iterdir()}
        assert left == {"job.json", "lengths", "vectors"}


LIMITED = """
import resource, sys
from spacy_elmo.errors import ElmoError
from spacy_elmo.tools.embed import embed_file
folder, model, *rooms = sys.argv[1:]
for room in map(int, rooms):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try:
        embed_file(f"{folder}/text.txt", f"{folder}/{room}.h5", model=model, layers="top")
    except ElmoError as error:
        print(error)
"""
