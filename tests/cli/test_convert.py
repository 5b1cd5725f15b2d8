import json
from functools import partial

import pytest

from spacy_elmo.formats import digest, load


@pytest.fixture
def convert(elmo):
    """Run the command. Returns exit status, stdout and stderr."""
    return partial(elmo, "convert")


def test_json_is_one_object(convert, data, tmp_path):
    status, printed, _ = convert(data / "tiny_2l_skip", tmp_path / "out", "--json", "--dtype", "lossless")
    assert status == 0
    report = json.loads(printed)
    assert report["digest"] == digest(load(data / "tiny_2l_skip"))
    assert report["dtype"] == "lossless"
    assert report["files"].keys() == {"options.json", "weights.hdf5"}


def test_the_result_is_shown_unless_quiet(convert, data, tmp_path):
    status, printed, _ = convert(data / "tiny_2l_skip", tmp_path / "out")
    assert (status, "weights.hdf5" in printed, str(tmp_path / "out") in printed) == (0, True, True)
    status, printed, _ = convert(data / "tiny_2l_skip", tmp_path / "out2", "--quiet")
    assert (status, printed) == (0, "")


def test_a_directory_that_is_not_empty_needs_force(convert, data, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    status, printed, error = convert(data / "tiny_2l_skip", tmp_path)
    assert (status, printed) == (1, "")
    assert len(error.splitlines()) == 1
    assert "--force" in error
    assert convert(data / "tiny_2l_skip", tmp_path, "--force")[0] == 0


def test_an_unknown_dtype_is_wrong_usage(convert, data, tmp_path):
    assert convert(data / "tiny_2l_skip", tmp_path / "out", "--dtype", "float8")[0] == 2
    assert not (tmp_path / "out").exists()


def test_help_has_an_example(convert):
    assert "python -m spacy elmo convert" in convert("--help")[1]
