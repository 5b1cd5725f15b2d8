import json
from functools import partial

import pytest

from spacy_elmo.formats.known import KNOWN


@pytest.fixture
def download(elmo, tmp_path, monkeypatch):
    """Run the command with an empty cache. Returns exit status, stdout and stderr."""
    monkeypatch.setenv("SPACY_ELMO_CACHE", str(tmp_path))
    return partial(elmo, "download")


def test_the_list_names_the_models_and_the_cache(download, tmp_path):
    status, printed, _ = download("--list")
    assert status == 0
    assert "allennlp-original-5.5b" in printed
    assert str(tmp_path) in printed


def test_the_list_as_json_is_one_object(download):
    status, printed, _ = download("--list", "--json")
    assert status == 0
    small = next(model for model in json.loads(printed)["models"] if model["name"] == "allennlp-small")
    assert small["downloaded"] is False
    assert small["files"][1]["size"] == 54_402_456


def test_the_list_is_of_one_language(download):
    status, printed, _ = download("--list", "--lang", "fi")
    assert (status, "nlpl-149 " in printed, "allennlp" in printed) == (0, True, False)
    status, printed, _ = download("--list", "--lang", "fi", "--json")
    model = json.loads(printed)["models"][0]
    assert (model["language"], model["license"][:3], model["source"]) == (
        "fi",
        "MIT",
        "HIT-SCIR/ELMoForManyLangs README",
    )


def test_what_is_not_known_is_a_question_mark(download):
    line = next(line for line in download("--list")[1].splitlines() if "nlpl-219" in line)
    assert line.split()[:4] == ["nlpl-219", "?", "?", "?"]


def test_a_language_without_models_is_one_line_and_status_1(download):
    status, printed, error = download("--list", "--lang", "finnish")
    assert (status, printed, len(error.splitlines())) == (1, "", 1)


@pytest.mark.parametrize("args", [(), ("allennlp-small", "--list"), ("allennlp-small", "--lang", "en")])
def test_a_name_or_the_list_is_wanted(download, args):
    assert download(*args)[0] == 2


def test_an_unknown_name_is_one_line_and_status_1(download):
    status, printed, error = download("allennlp-tiny")
    assert (status, printed, len(error.splitlines())) == (1, "", 1)


def test_the_bundled_model_is_there_already(download, tmp_path):
    status, printed, _ = download("en_elmo_sm")
    assert status == 0
    assert "nothing to download" in printed
    assert json.loads(download("en_elmo_sm", "--json")[1])["files"] == []
    assert list(tmp_path.iterdir()) == []


def test_help_has_an_example(download):
    assert "python -m spacy elmo download allennlp-small" in download("--help")[1]


def test_the_list_says_what_is_there(download, tmp_path):
    assert download("--list")[1].endswith(f"\nDownloads go to {tmp_path}\n")
    for file in KNOWN["allennlp-small"].files:
        (tmp_path / "allennlp-small").mkdir(exist_ok=True)
        (tmp_path / "allennlp-small" / file.name).touch()
    _, printed, _ = download("--list")
    assert "✔ allennlp-small " in printed
    assert printed.endswith(f"\n✔: is in {tmp_path}\n")
