import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.embedding import LINES, contents
from spacy_elmo.errors import ElmoError
from spacy_elmo.tools.embed import embed_file
from spacy_elmo.tools.embedding.keys import check_keys
from spacy_elmo.tools.embedding.text import Text


def test_sentences_name_the_arrays(text, model, tmp_path, expected):
    embed_file(text, tmp_path / "out.h5", model=model, use_sentence_keys=True)
    with h5py.File(tmp_path / "out.h5") as file:
        for line, encoded in zip(LINES, expected, strict=True):
            np.testing.assert_allclose(file[line], encoded, rtol=0, atol=1e-6)
    embed_file(text, tmp_path / "out.npz", model=model, use_sentence_keys=True)
    with np.load(tmp_path / "out.npz") as arrays:
        assert sorted(arrays.files) == sorted(set(LINES))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("fine\n.\n", r"line 2: HDF5 cannot name an array '\.': "),
        ("one\ntwo\none/two\n", r"line 1: HDF5 cannot name an array 'one' because of 'one/two' \(line 3\)"),
        (
            "one/two/three\none/two\n",
            r"line 2: HDF5 .* array 'one/two' because of 'one/two/three' \(line 1\)",
        ),
        ("a/b\na//b\n", "line 2: HDF5 cannot name an array 'a//b': slashes"),
        ("fine\n" * 1200 + "one\none/two\n", r"line 1201: HDF5 .* 'one' because of 'one/two' \(line 1202\)"),
        ("fine\na /./ b\n", "line 2: HDF5 .* a slash"),
        ("fine\n/a\n", "line 2: HDF5 .* a slash"),
        ("fine\na /\n", "line 2: HDF5 .* a slash"),
    ],
)
def test_sentence_that_cannot_be_a_key_is_an_error_naming_its_line(tmp_path, model, lines, words):
    """The error comes before any work is done, so the same run without keys is not refused."""
    (tmp_path / "text.txt").write_text(lines)
    with pytest.raises(ElmoError, match=f"text.txt, {words}"):
        embed_file(tmp_path / "text.txt", tmp_path / "out.h5", model=model, use_sentence_keys=True)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


@given(st.lists(st.text("a./ ", min_size=1, max_size=4).map(str.strip).filter(bool), min_size=1, max_size=4))
def test_sentences_are_refused_as_keys_where_hdf5_would_not_hold_them_all(tmp_path_factory, lines):
    directory = tmp_path_factory.mktemp("keys")
    (directory / "text.txt").write_text("\n".join(lines))
    try:
        check_keys(Text(directory / "text.txt"), ".h5")
        refused = False
    except ElmoError:
        refused = True
    distinct = sorted(set(lines))
    try:
        with h5py.File(directory / "out.h5", "w") as file:
            for line in distinct:
                file.create_dataset(line, data=[0.0])
        held = sorted(contents(directory / "out.h5")) == distinct
    except (ValueError, TypeError):
        held = False
    assert refused == (not held)


def test_sentence_keys_are_for_formats_that_have_keys(text, model, tmp_path):
    with pytest.raises(ElmoError, match="has the sentences anyway"):
        embed_file(text, tmp_path / "out.spacy", model=model, use_sentence_keys=True)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("x" * 65_532, "line 2: npz cannot name an array 'x{60}...': it is too long"),
        ("fine.npy", r"line 1: npz cannot name an array 'fine' because of 'fine.npy' \(line 2\)"),
    ],
)
def test_a_sentence_that_cannot_be_a_name_in_a_npz_is_an_error(tmp_path, model, line, words):
    (tmp_path / "text.txt").write_text(f"fine\n{line}\n")
    with pytest.raises(ElmoError, match=words):
        embed_file(tmp_path / "text.txt", tmp_path / "out.npz", model=model, use_sentence_keys=True)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_names_that_a_npz_holds_and_hdf5_does_not_are_taken(tmp_path, model):
    lines = ["and", "and/or", "/", ".", "x" * 65_531, "b.npy"]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    embed_file(tmp_path / "text.txt", tmp_path / "out.npz", model=model, use_sentence_keys=True)
    with np.load(tmp_path / "out.npz") as file:
        assert {line: file[line].shape for line in file.files} == dict.fromkeys(lines, (3, 1, 32))
