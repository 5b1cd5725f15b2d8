"""Files and folders appear whole or not at all, whatever other processes do there."""

import os
import threading
from pathlib import Path

import pytest

from spacy_elmo.support import files
from spacy_elmo.support.files import (
    INCOMING,
    clear_abandoned,
    link_or_copy,
    read_whole,
    recover,
    replacing,
    settled,
    write_text,
    write_whole,
)
from spacy_elmo.support.locks import locked

NAMES = ("one", "two", "folder")


@pytest.fixture(params=["in one step", "by .incoming", "without links"])
def way(request, monkeypatch):
    """How an existing folder is replaced: with the system's own calls, or without them."""
    if request.param != "in one step":
        monkeypatch.setattr(files, "exchange", lambda one, other: False)
    if request.param == "without links":
        monkeypatch.setattr(os, "link", fails)
    return request.param


def fails(*_, **__):
    raise OSError(1, "Operation not permitted")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def contents(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def state_of(folder):
    return {name: (folder / name).read_text() for name in NAMES if (folder / name).is_file()}


def fill(folder, /, **texts):
    for name, text in texts.items():
        (folder / name).write_text(text)


@pytest.fixture
def folder(tmp_path):
    """Make a folder with an old state, and a file that does not belong to it."""
    made = tmp_path / "made"
    made.mkdir()
    fill(made, one="old", two="old", notes="mine")
    return made


# --- files ---


def test_a_file_is_replaced_only_by_a_whole_one(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write_half(file):
        file.write(b"half of the n")
        assert path.read_text() == "old"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_whole(path, write_half)
    assert path.read_text() == "old"
    write_whole(path, lambda file: file.write(b"new"))
    assert path.read_text() == "new"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_to_a_file_stays_one_and_what_it_names_is_written_whole(tmp_path, exists):
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "target"
    if exists:
        target.write_text("old")
    link = tmp_path / "link"
    link.symlink_to("elsewhere/target")

    def write(file):
        file.write(b"new")
        assert target.exists() == exists  # the old file is there until the new one is complete

    write_whole(link, write)
    assert (link.is_symlink(), target.read_text()) == (True, "new")
    assert [len(list(folder.iterdir())) for folder in (tmp_path, target.parent)] == [2, 1]


def test_a_link_to_itself_is_an_error_and_stays(tmp_path):
    link = tmp_path / "link"
    link.symlink_to("link")
    with pytest.raises(OSError, match="symbolic links"):
        write_whole(link, lambda file: file.write(b"new"))
    assert link.is_symlink()


def test_text_keeps_its_line_ends(tmp_path):
    write_text(tmp_path / "file", "ä\nb\r\n")
    assert (tmp_path / "file").read_bytes() == b"\xc3\xa4\nb\r\n"


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(names(tmp_path)) or fsync(number))
    write_text(tmp_path / "file", "text")
    assert "file" not in synced[0]
    assert "file" in synced[-1]


def test_eight_threads_write_one_file_and_it_is_always_whole(tmp_path):
    texts = [str(number) * 10_000 for number in range(8)]
    in_threads([lambda text=text: write_text(tmp_path / "file", text) for text in texts], times=20)
    assert (tmp_path / "file").read_text() in texts
    assert names(tmp_path) == ["file"]


# --- folders ---


def test_a_folder_appears_whole(tmp_path):
    path = tmp_path / "new" / "folder"
    with replacing(path, NAMES) as new:
        fill(new, one="new")
        assert not path.exists()
    assert contents(path) == {"one": "new"}
    assert names(path.parent) == ["folder"]


def test_an_empty_folder_is_filled(tmp_path, way):
    with replacing(tmp_path / "empty", NAMES):
        pass
    with replacing(tmp_path / "empty", NAMES) as new:
        fill(new, one="new")
    assert contents(tmp_path / "empty") == {"one": "new"}


def test_all_that_belongs_together_is_replaced(tmp_path, way):
    for state in ("old", "new"):
        with replacing(tmp_path / "made", NAMES) as new:
            (new / "folder").mkdir()
            fill(new / "folder", **{state: state})
            fill(new, **{"one": state, "two": state} if state == "old" else {"one": state})
    assert contents(tmp_path / "made") == {"one": "new", "folder/new": "new"}
    assert names(tmp_path) == ["made"]


def test_what_else_lies_there_stays(folder, way):
    (folder / "mine").mkdir()
    fill(folder / "mine", too="mine")
    with replacing(folder, NAMES) as new:
        fill(new, one="new")
    assert contents(folder) == {"one": "new", "notes": "mine", "mine/too": "mine"}
    assert names(folder) == ["mine", "notes", "one"]
    assert names(folder.parent) == ["made"]


def test_a_folder_takes_the_place_of_a_file_but_no_file_that_of_a_folder(tmp_path, way):
    (tmp_path / "made").mkdir()
    fill(tmp_path / "made", one="old")
    with replacing(tmp_path / "made", NAMES) as new:
        (new / "one").mkdir()
    with pytest.raises(IsADirectoryError, match="made/one"), replacing(tmp_path / "made", NAMES) as new:
        fill(new, one="new")
    assert (tmp_path / "made/one").is_dir()
    assert names(tmp_path) == ["made"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_was_not_finished_leaves_the_old_state_and_nothing_else(folder, way, error):
    def stopped():
        with replacing(folder, NAMES) as new:
            fill(new, one="half")
            raise error

    with pytest.raises(type(error)):
        stopped()
    assert contents(folder) == {"one": "old", "two": "old", "notes": "mine"}
    assert names(folder.parent) == ["made"]


def test_the_working_directory_is_not_taken_away(folder, monkeypatch):
    (folder / "notes").unlink()
    monkeypatch.chdir(folder)
    with replacing(Path(), NAMES) as new:
        fill(new, one="new")
    assert contents(Path.cwd()) == {"one": "new"}


def test_a_link_to_a_folder_stays_one_and_so_do_its_permissions(folder, way):
    (folder / "notes").unlink()
    folder.chmod(0o750)
    (folder.parent / "link").symlink_to("made")
    with replacing(folder.parent / "link", NAMES) as new:
        fill(new, one="new")
    assert (folder.parent / "link").is_symlink()
    assert contents(folder) == {"one": "new"}
    assert folder.stat().st_mode & 0o777 == 0o750


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "made").touch()
    with pytest.raises(OSError, match="made"), replacing(tmp_path / "made", NAMES):
        pass
    assert names(tmp_path) == ["made"]


# --- several at once ---


def test_eight_threads_replace_one_folder_and_readers_see_one_state(tmp_path, way):
    path, over = tmp_path / "made", threading.Event()
    seen, numbers = [], iter(range(10**6))

    def write():
        number = next(numbers)
        with replacing(path, NAMES) as new:
            fill(new, one=str(number), **{"two": str(number)} if number % 2 else {})

    def read():
        while not over.is_set():
            if path.is_dir():
                seen.append(read_whole(path, NAMES, state_of))

    write()
    reader = threading.Thread(target=read)
    reader.start()
    try:
        in_threads([write] * 8, times=5)
    finally:
        over.set()
        reader.join()
    assert seen
    for state in (*seen, contents(path)):
        assert state == {"one": state["one"], **({"two": state["one"]} if int(state["one"]) % 2 else {})}
    assert names(path) in (["one"], ["one", "two"])
    assert names(tmp_path) == ["made"]


def in_threads(calls, times):
    """Let each thread make its call several times. Raises what any of them raised."""
    errors = []

    def run(call):
        try:
            for _ in range(times):
                call()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_a_reader_reads_again_what_was_replaced_meanwhile(folder, way):
    read = []

    def slowly(place):
        one = (place / "one").read_text()
        if not read:
            with replacing(folder, NAMES) as new:
                fill(new, one="new", two="new")
        read.append((one, (place / "two").read_text()))
        return read[-1]

    assert read_whole(folder, NAMES, slowly) == ("new", "new")
    assert read == [("old", "new"), ("new", "new")]


def test_what_a_reader_raises_is_raised_if_nothing_was_replaced(folder):
    attempts = []
    with pytest.raises(FileNotFoundError):
        read_whole(folder, NAMES, lambda place: attempts.append(place) or (place / "absent").read_text())
    assert len(attempts) == 1


def test_a_folder_that_is_replaced_all_the_time_is_read_under_the_lock(folder):
    def read(place):
        try:
            with locked(folder, wait=False):
                fill(place, one=(place / "one").read_text() + "+")
        except BlockingIOError:
            return "locked"
        return "free"

    assert read_whole(folder, NAMES, read) == "locked"


# --- after a process was killed ---


def leave_half_done(folder):
    """Leave a folder as if the process had been killed after it put the first file in place."""
    (folder / INCOMING).mkdir()
    fill(folder / INCOMING, one="new", folder="new")
    (folder / "one").unlink()
    link_or_copy(folder / INCOMING / "one", folder / "one")


NEW = {"one": "new", "folder": "new", "notes": "mine"}


def test_a_half_done_replacement_is_finished_by_the_next_reader(folder, way):
    leave_half_done(folder)
    assert settled(folder, NAMES) == folder
    assert contents(folder) == NEW


def test_a_half_done_replacement_is_finished_by_the_next_writer(folder, way):
    leave_half_done(folder)
    recover(folder, NAMES)
    assert contents(folder) == NEW
    leave_half_done(folder)
    with replacing(folder, NAMES) as new:
        fill(new, two="newer")
    assert contents(folder) == {"two": "newer", "notes": "mine"}
    assert names(folder) == ["notes", "two"]


def test_who_cannot_write_or_wait_reads_the_new_state_where_it_lies(folder, monkeypatch):
    leave_half_done(folder)
    with locked(folder):
        assert settled(folder, NAMES) == folder / INCOMING
    monkeypatch.setattr(files, "_put", fails)
    assert contents(settled(folder, NAMES)) == {"one": "new", "folder": "new"}


def test_a_link_in_the_place_of_what_was_left_is_not_followed(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    fill(tmp_path / "elsewhere", one="evil")
    (folder / INCOMING).symlink_to(tmp_path / "elsewhere")
    assert settled(folder, NAMES) == folder
    recover(folder, NAMES)
    assert (folder / "one").read_text() == "old"


def test_a_link_in_what_was_left_stays_a_link(folder, tmp_path, way):
    (tmp_path / "secret").write_text("secret")
    (folder / INCOMING).mkdir()
    (folder / INCOMING / "one").symlink_to(tmp_path / "secret")
    recover(folder, NAMES)
    assert (folder / "one").is_symlink()


def test_what_nobody_is_at_work_on_is_cleared_and_nothing_else(tmp_path):
    for name in (".file.0123456789ab.part", ".file.cafe.part", ".other.0123456789ab.part", "file.0123456789ab.part"):
        (tmp_path / name).touch()
    (tmp_path / ".file.aaaaaaaaaaaa.part").mkdir()
    (tmp_path / ".file.bbbbbbbbbbbb.part").mkdir()
    with locked(tmp_path / ".file.bbbbbbbbbbbb.part"):
        clear_abandoned(tmp_path / "file")
    assert names(tmp_path) == [
        ".file.bbbbbbbbbbbb.part",
        ".file.cafe.part",
        ".other.0123456789ab.part",
        "file.0123456789ab.part",
    ]


@pytest.mark.parametrize("write", [lambda path: write_text(path, "x"), lambda path: replacing(path, NAMES).__enter__()])
def test_the_next_writer_clears_it(tmp_path, write):
    (tmp_path / ".made.0123456789ab.part").touch()
    write(tmp_path / "made")
    assert not (tmp_path / ".made.0123456789ab.part").exists()
