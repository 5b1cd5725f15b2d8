"""Files and folders appear whole or not at all."""

import pytest

from spacy_elmo.support.files import aside, folder_aside, write_text, write_whole


def test_a_file_is_replaced_only_by_a_whole_one(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fails(file):
        file.write(b"half of the n")
        assert path.read_text() == "old"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_whole(path, fails)
    assert path.read_text() == "old"
    write_whole(path, lambda file: file.write(b"new"))
    assert path.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_text_keeps_its_line_ends(tmp_path):
    write_text(tmp_path / "file", "ä\nb\r\n")
    assert (tmp_path / "file").read_bytes() == b"\xc3\xa4\nb\r\n"


def test_a_folder_is_filled_aside_and_renamed(tmp_path):
    path = tmp_path / "new" / "folder"
    with folder_aside(path) as temporary:
        assert temporary.parent == path.parent
        (temporary / "file").write_text("x")
        assert not path.exists()
        temporary.rename(path)
    assert (path / "file").read_text() == "x"
    assert [file.name for file in path.parent.iterdir()] == ["folder"]


def test_nothing_is_left_of_a_folder_that_was_not_finished(tmp_path):
    def stopped():
        with folder_aside(tmp_path / "folder") as temporary:
            (temporary / "file").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert [file.name for file in tmp_path.iterdir()] == []


def test_what_a_killed_process_of_the_same_number_left_is_no_matter(tmp_path):
    path = tmp_path / "folder"
    aside(path).mkdir()
    (aside(path) / "old").touch()
    with folder_aside(path) as temporary:
        assert [file.name for file in temporary.iterdir()] == []
