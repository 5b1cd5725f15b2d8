import io
import os
import sys
import threading

import pytest

from spacy_elmo.errors import CorpusError
from spacy_elmo.support.standard_input import rereadable

CONTENT = "Ein Satz .\nÜber 東京\n".encode()


def read_twice(text):
    with rereadable(text) as path:
        first, second = (path.read_bytes() for _ in range(2))
    return first, second, path


def test_a_file_is_itself(tmp_path):
    with rereadable(tmp_path / "text.txt") as path:
        assert path == tmp_path / "text.txt"


def test_standard_input_can_be_read_twice_and_leaves_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(CONTENT)))
    first, second, path = read_twice("-")
    assert first == second == CONTENT
    assert not path.parent.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes with names")
def test_a_pipe_can_be_read_twice(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[CONTENT])
    writer.start()
    first, second, _ = read_twice(pipe)
    writer.join()
    assert first == second == CONTENT


def test_a_full_disk_is_one_error(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(CONTENT)))
    monkeypatch.setattr("shutil.copyfileobj", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with (
        pytest.raises(CorpusError, match=r"-: cannot be read, or cannot be copied for a second reading .*No space"),
        rereadable("-"),
    ):
        pass
