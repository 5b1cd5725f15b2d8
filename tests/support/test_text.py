import bz2
import gzip
import lzma
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_elmo.errors import CorpusError
from spacy_elmo.support.text import LONGEST_LINE, find_files, read_lines, read_sentences


def zst(data):
    return pytest.importorskip("zstandard").ZstdCompressor().compress(data)


PACKERS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zst}
packed = pytest.mark.parametrize("suffix", PACKERS)


@packed
def test_text_reads_the_same_in_every_packing(tmp_path, suffix):
    path = tmp_path / f"text.txt{suffix}"
    path.write_bytes(PACKERS[suffix]("Ein Satz .\n\nÜber 東京\n".encode()))
    assert list(read_lines(path)) == ["Ein Satz .", "", "Über 東京"]


@packed
def test_files_packed_apart_and_joined_are_read_to_the_end(tmp_path, suffix):
    path = tmp_path / f"text.txt{suffix}"
    path.write_bytes(PACKERS[suffix](b"one\n") + PACKERS[suffix](b"two\n"))
    assert list(read_lines(path)) == ["one", "two"]


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("damage", ["truncated", "garbage"])
def test_damaged_packed_file_is_an_error_that_names_it(tmp_path, suffix, damage):
    path = tmp_path / f"text.txt{suffix}"
    whole = PACKERS[suffix](b"".join(b"%d and so on\n" % n for n in range(20_000)))
    path.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"no such packing" * 100)
    with pytest.raises(CorpusError, match=rf"text\.txt\{suffix}.*cannot be read"):
        list(read_lines(path))


@packed
def test_line_without_end_is_an_error_before_it_fills_the_memory(tmp_path, suffix):
    """A small compressed file can hold gigabytes."""
    path = tmp_path / f"text.txt{suffix}"
    fits = b"x" * (LONGEST_LINE - 1) + b"\n"
    path.write_bytes(PACKERS[suffix](fits + fits))
    assert [len(line) for line in read_lines(path)] == [LONGEST_LINE - 1] * 2
    path.write_bytes(PACKERS[suffix](b"fine\n" + b"x" + fits))
    with pytest.raises(CorpusError, match=rf"text\.txt{suffix}, line 2: more than 16 MiB in one line"):
        list(read_lines(path))


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_small_packed_file_of_one_endless_line_takes_little_memory(tmp_path, suffix):
    path = tmp_path / f"text.txt{suffix}"
    part = PACKERS[suffix](bytes(2**24).replace(b"\0", b" "))
    path.write_bytes(part * 40)  # 640 MiB
    script = """if True:
        import resource, sys
        from pathlib import Path
        from spacy_elmo.errors import CorpusError
        from spacy_elmo.support.text import read_lines
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            list(read_lines(Path(sys.argv[1])))
        except CorpusError:
            print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
    """
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200  # MiB


@pytest.mark.parametrize(
    "data",
    [b"a b\nc\n", b"a b\r\nc\r\n", b"a b\nc", b"a b\r\nc"],
    ids=["LF", "CRLF", "no line end", "CRLF, no line end"],
)
def test_line_ends_are_no_part_of_the_text(tmp_path, data):
    path = tmp_path / "text.txt"
    path.write_bytes(data)
    assert list(read_sentences([path])) == [(["a", "b"], True), (["c"], False)]


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"fine\nA\0B\n", "line 2.*NUL"), (b"fine\nfine\n\xff\xfe\n", "line 3.*UTF-8"), (b"caf\xe9\n", "line 1.*UTF-8")],
)
def test_bytes_that_are_no_text_are_an_error_naming_file_and_line(tmp_path, data, words):
    path = tmp_path / "odd.txt"
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=f"odd.txt, {words}"):
        list(read_sentences([path]))


def test_byte_order_mark_is_no_part_of_the_first_word(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("\ufefffirst word\n".encode())
    assert list(read_sentences([path])) == [(["first", "word"], True)]


def test_line_of_a_hundred_thousand_words_is_one_sentence(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(" ".join(["word"] * 100_000) + "\nnext\n")
    first, second = read_sentences([path])
    assert len(first[0]) == 100_000
    assert second == (["next"], False)


def test_empty_file_has_no_sentence(tmp_path):
    path = tmp_path / "text.txt"
    path.touch()
    assert list(read_sentences([path])) == []


line = st.one_of(st.just(""), st.just(" \t"), st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(" ".join))


@given(st.lists(st.lists(line, max_size=8), max_size=3))
def test_documents_begin_behind_blank_lines_and_in_each_file(tmp_path_factory, texts):
    directory = tmp_path_factory.mktemp("text")
    expected = []
    for number, lines in enumerate(texts):
        (directory / f"{number}.txt").write_text("\n".join(lines))
        documents = [[]]
        for one in lines:
            documents[-1].append(one.split()) if one.strip() else documents.append([])
        for document in documents:
            expected += [(words, n == 0) for n, words in enumerate(document)]
    paths = [directory / f"{number}.txt" for number in range(len(texts))]
    assert list(read_sentences(paths)) == expected


def test_directory_stands_for_its_files_by_name_without_hidden_ones(tmp_path):
    for name in ("b.txt", "a.txt", ".hidden", "c.txt.gz"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert find_files(tmp_path) == [tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "c.txt.gz"]


def test_glob_pattern_stands_for_the_files_it_matches(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("b.txt", "in/a.txt", "c.md"):
        (tmp_path / name).touch()
    assert find_files(f"{tmp_path}/**/*.txt") == [tmp_path / "b.txt", tmp_path / "in" / "a.txt"]


def test_file_whose_name_looks_like_a_pattern_is_found(tmp_path):
    path = tmp_path / "what[1]?.txt"
    path.touch()
    assert find_files(path) == [path]


def test_several_paths_keep_their_order_and_count_twice_when_named_twice(tmp_path):
    for name in "ab":
        (tmp_path / name).touch()
    paths = [tmp_path / "b", tmp_path / "a", tmp_path / "b"]
    assert find_files(paths) == paths


@pytest.mark.parametrize("name", ["missing.txt", "*.missing", "empty"])
def test_path_that_stands_for_nothing_is_an_error_naming_it(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="no such text") as error:
        find_files([tmp_path / name])
    assert name in str(error.value)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")  # from 3.13 on, a reader without its file
def test_zst_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "text.zst"
    path.touch()
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(CorpusError, match="pip install zstandard"):
        list(read_lines(path))
