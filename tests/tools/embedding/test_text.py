import gzip

import numpy as np
import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st

from helpers.embedding import assert_same, contents
from spacy_elmo.errors import CorpusError, ElmoError
from spacy_elmo.formats import load
from spacy_elmo.tools import embed as tool
from spacy_elmo.tools.embed import embed_file
from spacy_elmo.tools.embedding.files import WRITERS
from spacy_elmo.tools.embedding.text import MOST_TOKENS, Text, windows

BLANK = "one\n\n \ntwo words\n" + "\n" * 9


def test_blank_lines_are_an_error_that_says_where(tmp_path, model):
    (tmp_path / "text.txt").write_text(BLANK)
    with pytest.raises(ElmoError, match=r"11 blank lines \(2, 3, 5, 6, 7, \.\.\.\).*--allow-blank"):
        embed_file(tmp_path / "text.txt", tmp_path / "out.h5", model=model)
    with pytest.raises(ElmoError, match="cannot be keys"):
        embed_file(tmp_path / "text.txt", tmp_path / "out.h5", model=model, use_sentence_keys=True, allow_blank=True)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


@pytest.mark.parametrize("suffix", WRITERS)
def test_blank_lines_may_have_arrays_of_no_tokens(tmp_path, model, suffix):
    if suffix in (".parquet", ".arrow"):
        pytest.importorskip("pyarrow")
    (tmp_path / "text.txt").write_text(BLANK)
    report = embed_file(tmp_path / "text.txt", tmp_path / f"out{suffix}", model=model, allow_blank=True)
    assert (report.lines, report.tokens) == (13, 3)
    if suffix == ".h5":
        found = contents(tmp_path / "out.h5")
        assert [found[str(number)].shape for number in (0, 1, 2, 3)] == [(3, n, 32) for n in (1, 0, 0, 2)]


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_text_of_blank_lines_alone_may_have_no_tokens(tmp_path, model, suffix):
    if suffix in (".parquet", ".arrow"):
        pytest.importorskip("pyarrow")
    (tmp_path / "text.txt").write_text("\n\n")
    report = embed_file(tmp_path / "text.txt", tmp_path / f"out{suffix}", model=model, allow_blank=True)
    assert (report.lines, report.tokens) == (2, 0)


def test_a_raw_line_may_be_longer_than_parsers_allow(tmp_path, model):
    (tmp_path / "text.txt").write_text("ab " * 350_000)
    report = embed_file(tmp_path / "text.txt", tmp_path / "out.h5", model=model, pipeline="xx", layers="0")
    assert report.tokens == 350_000


def test_line_that_would_not_fit_into_the_memory_is_an_error_that_names_it(tmp_path, model):
    (tmp_path / "text.txt").write_text("fine\n" + "ab " * (MOST_TOKENS + 1))
    with pytest.raises(
        CorpusError, match=r"text\.txt, line 2: 1,000,001 tokens, more than .*put one sentence per line"
    ):
        embed_file(tmp_path / "text.txt", tmp_path / "out.h5", model=model)


def test_text_that_grows_while_it_is_read_is_an_error(text, model, tmp_path, monkeypatch):
    survey = Text.survey

    def then_grow(source):
        found = survey(source)
        with text.open("a") as file:
            file.write("one more\n")
        return found

    monkeypatch.setattr(Text, "survey", then_grow)
    with pytest.raises(ElmoError, match="6 lines at first and 7 later"):
        embed_file(text, tmp_path / "out.h5", model=model)
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize("when", ["_fill", "_rows"])
@pytest.mark.parametrize("new", ["{}", "{}\nmore of it", "one more word {}"])
def test_text_that_is_replaced_during_the_run_is_an_error(when, new, text, model, tmp_path, monkeypatch):
    before, part = getattr(tool, when), tmp_path / "out.h5.part"
    lines = text.read_text().splitlines()
    other = [line[::-1] for line in lines[:-1]]

    def then_replace(*arguments):
        text.write_text("\n".join([*other, new.format(lines[-1])]) + "\n")
        return before(*arguments)

    monkeypatch.setattr(tool, when, then_replace)
    with pytest.raises(ElmoError, match=r"the text was changed during the run|lines at first and"):
        embed_file(text, tmp_path / "out.h5", model=model)
    assert not (tmp_path / "out.h5").exists()
    assert not part.exists() or (part / "vectors").stat().st_size == 0  # no vector of another line is kept


def test_text_is_not_replaced_by_its_vectors(text, model, tmp_path):
    same = tmp_path / "same.h5"
    same.write_bytes(text.read_bytes())
    (tmp_path / "link.h5").symlink_to(same)
    for out in (same, tmp_path / "link.h5"):
        with pytest.raises(ElmoError, match="is the text itself"):
            embed_file(same, out, model=model, force=True)
    assert same.read_bytes() == text.read_bytes()


def test_empty_text_is_an_error(tmp_path, model):
    (tmp_path / "text.txt").touch()
    with pytest.raises(CorpusError, match=r"text\.txt: the text is empty"):
        embed_file(tmp_path / "text.txt", tmp_path / "out.h5", model=model)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_packed_text_reads_the_same(text, model, tmp_path):
    packed = tmp_path / "text.txt.gz"
    packed.write_bytes(gzip.compress(text.read_bytes()))
    for path, out in ((text, "plain.h5"), (packed, "packed.h5")):
        embed_file(path, tmp_path / out, model=model)
    assert_same(tmp_path / "plain.h5", tmp_path / "packed.h5")


@pytest.mark.parametrize(
    ("settings", "words"), [({"pipeline": "no_such"}, "no_such: not an installed pipeline"), ({}, "no such text")]
)
def test_what_is_not_there_is_named(tmp_path, text, model, settings, words):
    with pytest.raises(CorpusError, match=words):
        embed_file(text if settings else tmp_path / "nowhere", tmp_path / "out.h5", model=model, **settings)


def test_saved_pipeline_tokenizes(tmp_path, model):
    nlp = spacy.blank("en")
    nlp.tokenizer.add_special_case("NewYork", [{"ORTH": "New"}, {"ORTH": "York"}])
    nlp.to_disk(tmp_path / "nlp")
    (tmp_path / "raw.txt").write_text("In NewYork.\n")
    embed_file(tmp_path / "raw.txt", tmp_path / "out.h5", model=model, pipeline=str(tmp_path / "nlp"))
    np.testing.assert_allclose(
        contents(tmp_path / "out.h5")["0"], load(model).encode([["In", "New", "York", "."]])[0], rtol=0, atol=1e-6
    )


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.integers(1, 6), st.integers(1, 9))
def test_windows_hold_all_lines_in_order_within_their_bounds(tmp_path_factory, lengths, batch_size, max_tokens):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    lines = [" ".join(f"{number}.{n}" for n in range(length)) for number, length in enumerate(lengths)]
    path.write_text("\n".join(lines) + "\n")
    found = list(windows(Text(path), batch_size, max_tokens))
    assert [sentence for window in found for sentence in window.sentences] == [line.split() for line in lines]
    first = 0
    for window in found:
        assert window.first == first
        first += len(window.sentences)
        assert 1 <= len(window.sentences) <= batch_size
        assert len(window.sentences) == 1 or sum(map(len, window.sentences)) <= max_tokens
