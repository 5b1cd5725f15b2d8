"""The names that a download accepts, and the list of known models."""

import json
import re
from pathlib import Path

import pytest
import requests

from spacy_elmo import ElmoError, WeightsError
from spacy_elmo.formats import digest, known, load, open_model
from spacy_elmo.formats.known import ALIASES, KNOWN
from spacy_elmo.tools import download as tool
from spacy_elmo.tools.download import download


@pytest.mark.parametrize("name", ["allennlp-small", "flair:small", "nlpl-149"])
def test_a_known_model_is_not_downloaded_by_loading_it(cache, monkeypatch, name):
    monkeypatch.setattr(requests, "get", lambda *_, **__: pytest.fail("went to the network"))
    with pytest.raises(WeightsError, match=f"{name} is not downloaded: python -m spacy elmo download {name}$"):
        load(name)


@pytest.mark.parametrize("name", ["allennlp-small", "flair:small", "nlpl-149"])
def test_a_path_that_exists_wins_over_a_name(cache, data, tmp_path, monkeypatch, name):
    (tmp_path / name).symlink_to(data / "tiny_2l_skip")
    monkeypatch.chdir(tmp_path)
    expected = digest(load(data / "tiny_2l_skip"))
    assert {digest(load(path)) for path in (name, f"./{name}", Path(name))} == {expected}
    assert open_model(name).card == open_model(data / "tiny_2l_skip").card


def test_what_is_downloaded_is_checked_also_where_a_path_has_its_name(server, tiny, tmp_path, monkeypatch):
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert download("tiny")["name"] == "tiny"


@pytest.mark.parametrize("name", ["flair:wee", "wee", "tiny"])
def test_a_name_of_flair_is_an_alias(tiny, cache, data, monkeypatch, name):
    monkeypatch.setitem(ALIASES, "flair:wee", "tiny")
    report = download(name)
    assert (report["name"], report["path"]) == ("tiny", str(cache / "tiny"))
    assert digest(load("flair:wee")) == digest(load("tiny")) == digest(load(data / "tiny_2l_skip"))
    assert open_model("flair:wee").name == "tiny"


def test_a_bare_name_of_flair_is_none_of_weights(tiny, monkeypatch):
    monkeypatch.setitem(ALIASES, "flair:wee", "tiny")
    download("wee")
    with pytest.raises(WeightsError, match="wee: no such weights"):
        load("wee")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        *(
            (f"{start}{name}", f"allennlp-{name}")
            for name in ("small", "medium", "original")
            for start in ("", "flair:")
        ),
        ("large", "allennlp-original-5.5b"),
        ("flair:5.5B", "allennlp-original-5.5b"),
        ("pt", "flair-portuguese"),
        ("flair:portuguese", "flair-portuguese"),
        ("pubmed", "allennlp-pubmed"),
        ("218", "nlpl-218"),
        ("218.zip", "nlpl-218"),
        ("149", "nlpl-149"),
        ("tayga_lemmas_elmo_2048_2019", "nlpl-199"),
    ],
)
def test_names_of_flair_simple_elmo_and_rusvectores_are_known(name, found):
    assert known.find_loosely(name) is KNOWN[found]


def test_the_cache_is_the_users_unless_said_otherwise(monkeypatch, tmp_path):
    monkeypatch.delenv("SPACY_ELMO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert known.cache_directory().name == "spacy-elmo"
    monkeypatch.setenv("SPACY_ELMO_CACHE", "~/elmo")
    assert known.cache_directory().is_absolute()


def test_the_registry_is_well_formed(cache):
    for name, model in KNOWN.items():
        assert name == model.name
        assert re.fullmatch(r"[a-z0-9.-]+", name)
        assert not model.is_downloaded
        assert model.source
        assert model.language is None or re.fullmatch(r"[a-z]{2,3}", model.language)
        assert len({file.name for file in model.files}) == len(model.files)
        assert "options.json" in {file.name for file in model.files} or len(model.files) == 1
        for file in model.files:
            assert re.fullmatch(r"https?://[\w./-]+[^/]", file.url)
            assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
    small = KNOWN["allennlp-small"].files[1]
    assert (small.size, small.sha256[:8]) == (54_402_456, "747ba97a")
    assert json.loads(json.dumps(tool.known_models()))["models"][0]["name"] == "allennlp-small"
    assert set(ALIASES.values()) <= set(KNOWN)


def test_the_models_of_elmoformanylangs_have_the_numbers_of_nlpl():
    languages = {number: KNOWN[f"nlpl-{number}"].language for number in range(136, 180)}
    some = {136: "ar", 140: "cu", 144: "en", 149: "fi", 153: "grc", 158: "id", 165: "nb", 172: "sl", 179: "zh"}
    assert some.items() <= languages.items()
    assert KNOWN["nlpl-149"].files[0].url == "http://vectors.nlpl.eu/repository/11/149.zip"
    assert all(KNOWN[f"nlpl-{number}"].license.startswith("MIT") for number in languages)


def test_the_docs_list_every_model_with_its_source_and_licence():
    page = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf8")
    rows, licence = {}, None
    for line in re.findall(r"^\| `.*`.*\|.*\|.*\|.*\|.*\|$", page.partition("## Public models")[2], re.MULTILINE):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        licence = licence if cells[4] == "as above" else cells[4]
        rows.update(dict.fromkeys(re.findall(r"`(.+?)`", cells[0]), (licence, cells[5])))
    many = {f"nlpl-{number}" for number in range(136, 180)}
    assert set(rows) | many == set(KNOWN)
    for name, (licence, source) in rows.items():
        assert source == KNOWN[name].source
        assert licence.startswith(KNOWN[name].license or "?")
    for name in many:
        assert f"{name[5:]} {KNOWN[name].description.partition(', ')[2]}" in page.replace("\n", " ")


@pytest.mark.parametrize(
    ("language", "some", "others"),
    [
        ("fi", {"nlpl-149"}, {"fr", "en"}),
        ("nb", {"nlpl-165", "nlpl-218"}, {"nn", "en"}),
        ("no", {"nlpl-165", "nlpl-166", "nlpl-218"}, {"en"}),
        ("ZH", {"nlpl-179", "elmoformanylangs-zhs"}, {"ja"}),
    ],
)
def test_the_list_is_of_one_language_if_you_like(cache, language, some, others):
    models = tool.known_models(language)["models"]
    assert some <= {model["name"] for model in models}
    assert not others & {model["language"] for model in models}


def test_a_language_without_models_is_an_error_that_names_those_with_some(cache):
    with pytest.raises(ElmoError, match=r"for the language finnish; there are models for ar, .*, fi, "):
        tool.known_models("finnish")
