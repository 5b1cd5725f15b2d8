"""Damaged logs, and logs that end in the middle of a line after a crash."""

import pytest

from spacy_elmo.errors import PretrainingError
from spacy_elmo.pretraining.logs import append_line, cut_log


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for tokens in (20, 40.5, 60):
        append_line(path, {"step": 1, "tokens": tokens})
    return path


@pytest.mark.parametrize(("tokens", "kept"), [(0, 0), (20, 1), (59, 2), (1000, 3)])
def test_lines_behind_so_many_words_are_dropped(log, tokens, kept):
    lines = log.read_text().splitlines(keepends=True)
    cut_log(log, tokens)
    assert log.read_text().splitlines(keepends=True) == lines[:kept]


@pytest.mark.parametrize("unfinished", [b'{"step": 3, "tok', b"\xc3", b"{", b"\0\0\0"])
def test_last_line_that_a_crash_has_cut_short_is_dropped(log, unfinished):
    whole = log.read_bytes()
    log.write_bytes(whole + unfinished)
    cut_log(log, 1000)
    assert log.read_bytes() == whole


def test_last_line_without_its_end_is_kept_where_it_is_whole(log):
    whole = log.read_bytes()
    log.write_bytes(whole.rstrip(b"\n"))
    cut_log(log, 1000)
    assert log.read_bytes() == whole


def test_log_that_is_not_there_stays_away(tmp_path):
    cut_log(tmp_path / "metrics.jsonl", 5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "line",
    [
        b'{"step": 3, "tok',
        b"",
        b"\xff\xfe",
        b"[]",
        b"3",
        b"null",
        b"{}",
        b'{"tokens": "20"}',
        b'{"tokens": null}',
        b'{"tokens": true}',
        b'{"tokens": NaN}',
        b'{"tokens": 1e999}',
        b'{"tokens": -1}',
        b'{"tokens": 1' + b"0" * 5000 + b"}",
        b"[" * 100_000,
    ],
    ids=lambda line: line[:20].decode(errors="replace"),
)
@pytest.mark.parametrize("place", [0, 1])
def test_damaged_line_is_an_error_that_names_it_and_the_log_stays(log, line, place):
    lines = log.read_bytes().splitlines()
    lines.insert(place, line)
    log.write_bytes(b"\n".join(lines) + b"\n")
    before = log.read_bytes()
    with pytest.raises(PretrainingError, match=rf"metrics\.jsonl, line {place + 1}: .*delete this line"):
        cut_log(log, 1000)
    assert log.read_bytes() == before


def test_log_that_cannot_be_read_or_written_is_an_error_of_ours(tmp_path):
    with pytest.raises(PretrainingError, match="cannot be written"):
        append_line(tmp_path, {"tokens": 1})
    with pytest.raises(PretrainingError, match="cannot be written"):
        append_line(tmp_path / "missing" / "metrics.jsonl", {"tokens": 1})
