import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
import spacy

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
    with pytest.raises(ElmoError, match=r"out\.h5\.part: not from embed"):
        embed_file(text, tmp_path / "out.h5", model=model, **settings)
    assert mine.read_text() == "mine"


@pytest.mark.skipif(sys.platform == "win32", reason="links need a permission there")
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_in_the_place_of_the_file_stays_and_what_it_names_is_written(text, model, tmp_path, exists):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "out.h5"
    link.symlink_to("elsewhere/target")
    if exists:
        target.write_text("precious")
        with pytest.raises(ElmoError, match="already exists; add --force"):
            embed_file(text, link, model=model)
    embed_file(text, link, model=model, force=exists)
    assert link.is_symlink()
    assert list(target.parent.iterdir()) == [target]
    embed_file(text, tmp_path / "plain.h5", model=model)
    assert_same(target, tmp_path / "plain.h5")


@pytest.mark.skipif(sys.platform == "win32", reason="links need a permission there")
@pytest.mark.parametrize(
    ("names", "message"), [("out.h5", "cannot be written"), ("no/out.h5", "there is no directory")]
)
def test_a_link_that_leads_nowhere_is_an_error_and_stays(text, model, tmp_path, names, message):
    link = tmp_path / "out.h5"
    link.symlink_to(names)
    with pytest.raises(ElmoError, match=rf"out\.h5: {message}"):
        embed_file(text, link, model=model)
    assert [path.name for path in tmp_path.glob("out*")] == ["out.h5"]
    assert link.is_symlink()


def test_existing_file_is_kept_unless_forced(text, model, tmp_path):
    out = tmp_path / "out.h5"
    out.write_text("precious")
    for resume in (False, True):
        with pytest.raises(ElmoError, match=r"out\.h5: already exists; add --force"):
            embed_file(text, out, model=model, resume=resume)
    assert out.read_text() == "precious"
    embed_file(text, out, model=model, force=True)
    assert len(contents(out)) == len(LINES) + 1


@pytest.mark.parametrize(
    ("name", "words"), [("folder.h5", "directory"), ("no/out.h5", "create it first"), ("o.txt", "unknown format")]
)
def test_output_that_cannot_be_is_an_error(text, model, tmp_path, name, words):
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(ElmoError, match=words):
        embed_file(text, tmp_path / name, model=model)


fork = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")


STEPS = (
    (spools.os, "fsync"),
    (spools.os, "truncate"),
    (Path, "open"),
    (Path, "mkdir"),
    (Path, "touch"),
    (Path, "write_text"),
    (Path, "rename"),
    (Path, "replace"),
    (Path, "unlink"),
    (h5py.Group, "create_dataset"),
)


def killed_at(step, work):
    """Run `work` in a process that kills itself at the given step. Returns whether it did."""

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
    with pytest.raises(ElmoError, match="add --resume to continue, or --force to start again"):
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
    with spools.directory_of(out).joinpath("index").open("r+b") as index:
        index.truncate(3 * 12 + 5)  # in the middle of the second window, and of a number
    seen = []
    encode = Encoder.__call__
    monkeypatch.setattr(Encoder, "__call__", lambda self, some: seen.append(some) or encode(self, some))
    embed_file(text, out, resume=True, **settings)
    assert seen == [SENTENCES[2:4], SENTENCES[4:6]]
    assert_same(tmp_path / "whole.h5", out)


def interrupted(out, text, **settings):
    """Leave the files of a run that stops when all vectors are done and the output is being written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tool, "writer_for", lambda *_: full_disk)
        with pytest.raises(ElmoError, match="No space left"):
            embed_file(text, out, **settings)
    return spools.directory_of(out)


def flip(content, at):
    return content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :]


CHANGES = {
    "a bit flipped": lambda content, pick: flip(content, pick.randrange(len(content))),
    "cut off": lambda content, pick: content[: pick.randrange(len(content))],
    "a piece taken out": lambda content, pick: content[: (at := pick.randrange(len(content)))] + content[at + 12 :],
    "a piece put in": lambda content, pick: content[: (at := pick.randrange(len(content)))] + b"{" * 12 + content[at:],
    "pieces exchanged": lambda content, pick: content[len(content) // 2 :] + content[: len(content) // 2],
    "nested deeply": lambda content, pick: b"[" * 50_000,
    "a large number": lambda content, pick: content[:12] + b"\xff" * 7 + b"\x7f" + content[20:],
    "emptied": lambda content, pick: b"",
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["vectors", "index", "job.json"])
def test_what_was_changed_is_made_again_or_refused_but_never_taken(text, model, tmp_path, name, change):
    out, settings, pick = tmp_path / "out.h5", {"model": model, "batch_size": 2}, random.Random(f"{name} {change}")
    embed_file(text, tmp_path / "whole.h5", **settings)
    for _ in range(3):
        file = interrupted(out, text, force=True, **settings) / name
        file.write_bytes(CHANGES[change](file.read_bytes(), pick))
        refused = ""
        try:
            embed_file(text, out, resume=True, **settings)
        except ElmoError as error:
            refused = str(error)
            embed_file(text, out, force=True, **settings)
        assert not refused or (name == "job.json" and re.search(r"out\.h5\.part.*start again with --force", refused))
        assert_same(tmp_path / "whole.h5", out)
        out.unlink()


def test_vectors_of_another_job_are_not_taken_under_the_name_of_this_one(text, model, tmp_path):
    """The text, model and sizes are the same, and only the layers differ."""
    out, settings = tmp_path / "out.h5", {"model": model}
    embed_file(text, tmp_path / "whole.h5", layers="top", **settings)
    other = interrupted(tmp_path / "other.h5", text, layers="0", **settings)
    directory = interrupted(out, text, layers="top", **settings)
    for name in ("vectors", "index"):
        (other / name).replace(directory / name)
    embed_file(text, out, layers="top", resume=True, **settings)
    assert_same(tmp_path / "whole.h5", out)


@pytest.mark.parametrize(
    ("other", "words"), [({"layers": "top"}, "--layers"), ({"model": "tiny_2l_clip"}, "the model")]
)
def test_run_killed_before_its_file_is_moved_is_not_taken_for_another(text, model, data, tmp_path, other, words):
    out, settings = tmp_path / "out.h5", {"model": model}
    with pytest.MonkeyPatch.context() as patch:
        replace = Path.replace
        patch.setattr(Path, "replace", lambda path, target: 1 / 0 if target == out else replace(path, target))
        with pytest.raises(ZeroDivisionError):
            embed_file(text, out, **settings)
    asked = settings | other
    asked["model"] = str(data / asked["model"])
    with pytest.raises(ElmoError, match=rf"out\.h5\.part: the interrupted run differs in {words}; "):
        embed_file(text, out, resume=True, **asked)
    assert not out.exists()
    embed_file(text, tmp_path / "whole.h5", **settings)
    embed_file(text, out, resume=True, **settings)
    assert_same(tmp_path / "whole.h5", out)
    assert not spools.directory_of(out).exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links need a permission there")
def test_run_through_a_link_that_was_killed_before_its_file_is_moved_is_resumed_by_either_name(text, model, tmp_path):
    link, target = tmp_path / "link.h5", tmp_path / "target.h5"
    link.symlink_to(target)
    with pytest.MonkeyPatch.context() as patch:
        replace = Path.replace
        patch.setattr(Path, "replace", lambda path, place: 1 / 0 if place == target else replace(path, place))
        with pytest.raises(ZeroDivisionError):
            embed_file(text, link, model=model)
    embed_file(text, target, model=model, resume=True)
    embed_file(text, tmp_path / "whole.h5", model=model)
    assert_same(tmp_path / "whole.h5", target)
    assert sorted(path.name for path in tmp_path.glob("*.h5*")) == ["link.h5", "target.h5", "whole.h5"]


def test_run_killed_when_its_file_is_moved_is_done_and_another_file_in_its_place_is_kept(text, model, tmp_path):
    out, settings = tmp_path / "out.h5", {"model": model}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spools, "_clear", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            embed_file(text, out, **settings)
    part, made = spools.directory_of(out), out.read_bytes()
    shutil.copytree(part, tmp_path / "kept")
    report = embed_file(text, out, resume=True, **settings)
    assert (report.tokens, report.bytes, out.read_bytes()) == (sum(map(len, SENTENCES)), len(made), made)
    assert not part.exists()
    shutil.copytree(tmp_path / "kept", part)
    out.unlink()
    out.write_bytes(bytes(len(made)))
    with pytest.raises(ElmoError, match="already exists"):
        embed_file(text, out, resume=True, **settings)
    assert out.read_bytes() == bytes(len(made))


def test_what_changes_while_the_file_is_written_is_an_error_and_no_file(text, model, tmp_path):
    out, settings = tmp_path / "out.h5", {"model": model}
    with pytest.MonkeyPatch.context() as patch:
        finish = spools.Spool.finish

        def damaged(spool, write, wishes):
            vectors = spools.directory_of(out) / "vectors"
            vectors.write_bytes(flip(vectors.read_bytes(), 5000))
            finish(spool, write, wishes)

        patch.setattr(spools.Spool, "finish", damaged)
        with pytest.raises(ElmoError, match=r"out\.h5\.part: its line \d was changed.*--resume"):
            embed_file(text, out, **settings)
    assert not out.exists()
    embed_file(text, out, resume=True, **settings)
    embed_file(text, tmp_path / "whole.h5", **settings)
    assert_same(tmp_path / "whole.h5", out)


def test_spool_of_another_version_is_refused_in_one_line(text, model, tmp_path):
    out = tmp_path / "out.h5"
    job = interrupted(out, text, model=model) / "job.json"
    job.write_text(job.read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(ElmoError, match=r"out\.h5\.part: from another version of spacy-elmo.*--force") as error:
        embed_file(text, out, model=model, resume=True)
    assert "\n" not in str(error.value)
    embed_file(text, out, model=model, force=True)


@pytest.mark.parametrize("names", [[], ["job.json.new"]])
def test_run_killed_before_it_began_or_after_all_was_done_leaves_nothing_in_the_way(text, model, tmp_path, names):
    place = tmp_path / "out.h5.part"
    place.mkdir()
    for name in names:
        (place / name).touch()
    embed_file(text, tmp_path / "out.h5", model=model)
    assert not place.exists()


@pytest.mark.parametrize("settings", [{}, {"force": True}, {"resume": True}])
def test_second_run_on_one_output_is_told_so_and_the_first_goes_on(text, model, tmp_path, monkeypatch, settings):
    out, errors, add = tmp_path / "out.h5", [], spools.Spool.add

    def meanwhile(spool, arrays):
        add(spool, arrays)
        if not errors:
            with pytest.raises(ElmoError) as error:
                embed_file(text, out, model=model, batch_size=2, **settings)
            errors.append(str(error.value))

    monkeypatch.setattr(spools.Spool, "add", meanwhile)
    embed_file(text, out, model=model, batch_size=2)
    assert errors == [f"{out}: another process is writing this file; wait until it ends, or name another file"]
    embed_file(text, tmp_path / "whole.h5", model=model, batch_size=2)
    assert_same(tmp_path / "whole.h5", out)
    assert {path.name for path in tmp_path.iterdir()} == {"text.txt", "whole.h5", "out.h5"}


def test_spool_that_another_run_removes_in_that_moment_is_made_again(text, model, tmp_path, monkeypatch):
    """The other run ends between the attempt to make the directory and the next check."""
    out, mkdir = tmp_path / "out.h5", Path.mkdir
    place = spools.directory_of(out)
    place.mkdir()

    def made_too_late(path, *arguments, **settings):
        if path == place and place.exists():
            place.rmdir()
            raise FileExistsError(17, "File exists", str(place))  # pathlib raises this then, even with `exist_ok`
        mkdir(path, *arguments, **settings)

    monkeypatch.setattr(Path, "mkdir", made_too_late)
    embed_file(text, out, model=model)
    assert len(contents(out)) == len(LINES) + 1
    assert not place.exists()


def test_file_is_on_the_disk_before_it_takes_its_place(text, model, tmp_path, monkeypatch):
    out, forced, moved, fsync, replace = tmp_path / "out.h5", [], [], os.fsync, Path.replace

    def move(path, target):
        if target == out:
            moved.append(path.stat().st_ino in forced)
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", lambda file: [forced.append(os.fstat(file).st_ino), fsync(file)])
    monkeypatch.setattr(Path, "replace", move)
    embed_file(text, out, model=model)
    assert moved == [True]


@pytest.mark.parametrize("settings", [{}, {"resume": True}])
def test_run_that_is_refused_leaves_no_directory(text, model, tmp_path, settings):
    out, beginning = tmp_path / "out.h5", spools.refuse_existing
    with pytest.MonkeyPatch.context() as patch:  # another run makes the file after the first check
        patch.setattr(spools, "refuse_existing", lambda *arguments: [out.touch(), beginning(*arguments)])
        with pytest.raises(ElmoError, match="already exists"):
            embed_file(text, out, model=model, **settings)
    assert {path.name for path in tmp_path.iterdir()} == {"text.txt", "out.h5"}


@pytest.mark.parametrize(("word", "parts"), [("NewYork", ["New", "York"]), ("NewYork.", ["New", "York."])])
def test_pipeline_that_splits_otherwise_than_in_the_interrupted_run_is_an_error(word, parts, tmp_path, model):
    text, out, pipeline = tmp_path / "raw.txt", tmp_path / "out.h5", tmp_path / "nlp"
    text.write_text("In NewYork.\n")
    nlp = spacy.blank("en")
    nlp.to_disk(pipeline)
    interrupted(out, text, model=model, pipeline=str(pipeline))
    nlp.tokenizer.add_special_case(word, [{"ORTH": part} for part in parts])
    nlp.to_disk(pipeline)
    with pytest.raises(ElmoError, match="differs in the words that --pipeline splits the text into; use the same"):
        embed_file(text, out, model=model, pipeline=str(pipeline), resume=True)


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
    """Most of this file is HDF5's own tables, which are flushed when the file is closed."""
    rooms = [60_000, 110_000, 140_000]
    (tmp_path / "text.txt").write_text("".join(f"w{n}\n" for n in range(300)))
    call = [sys.executable, "-c", LIMITED, str(tmp_path), model, *map(str, rooms)]
    done = subprocess.run(call, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for room, said in zip(rooms, done.stdout.splitlines(), strict=True):
        assert f"{room}.h5: cannot be written" in said
        assert "--resume" in said
        left = {path.name for path in (tmp_path / f"{room}.h5.part").iterdir()}
        assert left == {"job.json", "index", "vectors"}


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
