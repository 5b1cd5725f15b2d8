"""The words in a vocabulary file."""

import gzip

import pytest

from spacy_elmo import WeightsError
from spacy_elmo.errors import CorpusError
from spacy_elmo.support import words as words_module
from spacy_elmo.support.words import read_words, text_of

WORDS = ["<S>", "</S>", "<UNK>", "är", "a\u2028b"]


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "byte order mark"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_words_are_read_one_a_line(tmp_path, ends, mark, packed):
    content = mark + text_of(WORDS).replace("\n", ends).encode()
    path = tmp_path / ("vocab.txt.gz" if packed else "vocab.txt")
    path.write_bytes(gzip.compress(content) if packed else content)
    assert read_words(path) == WORDS


def test_an_empty_line_at_the_end_is_a_word_that_is_empty(tmp_path):
    (tmp_path / "vocab.txt").write_text("a\n\n")
    assert read_words(tmp_path / "vocab.txt") == ["a", ""]


def test_a_first_word_that_begins_with_a_byte_order_mark_is_written_and_read(tmp_path):
    words = ["\ufeff", "\ufeffa", "b"]
    (tmp_path / "vocab.txt").write_text(text_of(words), encoding="utf-8")
    assert read_words(tmp_path / "vocab.txt") == words


@pytest.mark.parametrize("error", [CorpusError, WeightsError])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.txt", None, "no such vocabulary"),
        ("vocab.txt", b"a\n\xff\n", "not UTF-8"),
        ("vocab.txt.gz", b"a\nb\n", "not gzip, or damaged"),
        ("vocab.txt.gz", gzip.compress(b"a\nb\n", mtime=0)[:-9], "cut off"),
        ("vocab.txt.gz", gzip.compress(bytes(2_000), mtime=0), "more than 1,000 bytes unpacked"),
    ],
)
def test_a_bad_file_is_an_error_of_the_kind_asked_for(tmp_path, monkeypatch, error, name, content, message):
    monkeypatch.setattr(words_module, "_MOST_TEXT", 1_000)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=f"{name}: .*{message}"):
        read_words(tmp_path / name, error)
