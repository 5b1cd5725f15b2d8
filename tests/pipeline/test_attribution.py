"""What a saved pipeline says about its weights, where `spacy package` looks for it."""

import json
import shutil

import pytest
import spacy
from spacy.cli.package import generate_readme, package
from spacy.schemas import ModelMetaSchema, validate

from spacy_elmo.errors import ElmoError
from spacy_elmo.formats import load, open_model
from spacy_elmo.formats.beside import ATTRIBUTION, CARD
from spacy_elmo.formats.opening import MODELS
from spacy_elmo.pipeline.shim import shim_of

ATTRIBUTED = (MODELS / "en_elmo_sm" / ATTRIBUTION).read_text(encoding="utf-8")


@pytest.fixture
def free(tiny, tmp_path):
    """Write a model whose card has only its terms of use."""
    folder = shutil.copytree(tiny, tmp_path / "free")
    (folder / CARD).write_text(json.dumps({"name": "free", "license": "CC0", "author": "Zoë", "tokens_seen": 5}))
    return folder


def pipeline(weights="en_elmo_sm"):
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"model": {"weights": str(weights)}})
    return nlp


def sources(folder):
    return json.loads((folder / "meta.json").read_text()).get("sources")


def test_the_bundled_weights_are_attributed_in_what_spacy_packages(tmp_path):
    saved, out = tmp_path / "saved", tmp_path / "out"
    out.mkdir()
    pipeline().to_disk(saved)
    package(saved, out, name="demo", version="1.0.0", create_sdist=False)
    top = out / "en_demo-1.0.0"
    licences = (top / "LICENSES_SOURCES").read_text(encoding="utf-8")
    assert "Licence: CC BY-SA 4.0\n" in licences
    assert ATTRIBUTED.strip() in licences
    meta = json.loads((top / "meta.json").read_text())
    assert not validate(ModelMetaSchema, meta)
    (source,) = meta["sources"]
    card = load("en_elmo_sm").card
    assert source.items() >= {"name": "en_elmo_sm", "license": card["license"]}.items()
    assert "en_elmo_sm" in generate_readme(meta)
    assert (top / "en_demo" / "en_demo-1.0.0" / "elmo" / "model" / ATTRIBUTION).read_text(
        encoding="utf-8"
    ) == ATTRIBUTED


def test_saving_and_loading_again_changes_nothing(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    pipeline().to_disk(one)
    nlp = spacy.load(one)
    before = json.dumps(nlp.meta["sources"])
    nlp.to_disk(other)
    nlp.to_disk(one)
    spacy.load(one).to_disk(one)
    assert json.dumps(nlp.meta["sources"]) == before == json.dumps(sources(one)) == json.dumps(sources(other))
    assert (one / "LICENSES_SOURCES").read_bytes() == (other / "LICENSES_SOURCES").read_bytes()


def test_sources_and_licences_of_others_stay(free, tmp_path):
    saved = tmp_path / "saved"
    nlp = pipeline(free)
    nlp.meta["sources"] = [{"name": "OntoNotes 5", "license": "LDC", "author": "Ralph Weischedel"}]
    saved.mkdir()
    (saved / "LICENSES_SOURCES").write_bytes(b"OntoNotes 5\n\nLDC, \xe9\n")  # in Latin-1
    for _ in range(2):
        nlp.to_disk(saved)
    ours = {"name": "free", "license": "CC0", "author": "Zo\xeb", "component": "elmo"}
    assert sources(saved) == [*nlp.meta["sources"], ours]
    said = (saved / "LICENSES_SOURCES").read_bytes()
    assert said.startswith(b"OntoNotes 5\n\nLDC, \xe9\n")
    assert said.count("Licence: CC0\nAuthor: Zo\xeb\n".encode()) == 1


def test_sources_that_are_names_alone_fit_beside_ours(free, tmp_path):
    nlp = pipeline(free)
    nlp.meta["sources"] = ["OntoNotes 5"]
    nlp.to_disk(tmp_path)
    assert [source["name"] for source in sources(tmp_path)] == ["OntoNotes 5", "free"]
    assert not validate(ModelMetaSchema, json.loads((tmp_path / "meta.json").read_text()))


def test_other_weights_take_the_place_of_those_before(free, tmp_path, tiny):
    saved = tmp_path / "saved"
    pipeline().to_disk(saved)
    nlp = pipeline(free)
    nlp.meta["sources"] = sources(saved)
    nlp.to_disk(saved)
    assert [source["name"] for source in sources(saved)] == ["free"]
    said = (saved / "LICENSES_SOURCES").read_text(encoding="utf-8")
    assert "CC0" in said
    assert "CC BY-SA" not in said
    assert not (saved / "elmo" / "model" / ATTRIBUTION).exists()
    unknown = pipeline(tiny)
    unknown.meta["sources"] = sources(saved)
    unknown.to_disk(saved)
    assert sources(saved) == []
    assert not (saved / "LICENSES_SOURCES").exists()


def test_nothing_is_said_where_nothing_is_known(tiny, tmp_path):
    nlp = pipeline(tiny)
    nlp.meta["sources"] = ["OntoNotes 5"]
    nlp.to_disk(tmp_path)
    assert sources(tmp_path) == ["OntoNotes 5"]
    assert not (tmp_path / "LICENSES_SOURCES").exists()


def test_sourced_and_renamed_components_are_attributed_too(free, tmp_path):
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", source=pipeline(free))
    nlp.rename_pipe("elmo", "vectors")
    nlp.to_disk(tmp_path)
    assert [(source["name"], source["component"]) for source in sources(tmp_path)] == [("free", "vectors")]


@pytest.mark.parametrize("content", [None, "{", "[]", '{"components": 5}', '{"components": ["ner"]}'])
def test_a_folder_that_is_not_of_its_pipeline_is_left_alone(content, tmp_path):
    if content is not None:
        (tmp_path / "meta.json").write_text(content)
    pipeline().get_pipe("elmo").to_disk(tmp_path / "elmo")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elmo"] + ["meta.json"] * (content is not None)
    assert content is None or (tmp_path / "meta.json").read_text() == content


def test_attribution_goes_along_in_bytes(tmp_path):
    nlp = pipeline("/no/such")
    nlp.from_bytes(pipeline().to_bytes())
    nlp.to_disk(tmp_path)
    assert open_model(tmp_path / "elmo" / "model").card == open_model("en_elmo_sm").card
    assert ATTRIBUTED.strip() in (tmp_path / "LICENSES_SOURCES").read_text(encoding="utf-8")


def test_what_was_said_of_a_component_that_is_renamed_goes_with_its_name(tmp_path):
    nlp = pipeline()
    nlp.to_disk(tmp_path)
    nlp.rename_pipe("elmo", "vectors")
    nlp.to_disk(tmp_path)
    assert [source["component"] for source in sources(tmp_path)] == ["vectors"]
    licences = (tmp_path / "LICENSES_SOURCES").read_text(encoding="utf-8")
    assert licences.count("# Weights of the component ") == licences.count("# End of the weights") == 1
    assert licences.startswith("# Weights of the component vectors\n")


@pytest.mark.parametrize(
    "card", [{"attribution_text": 5}, {"attribution_text": None}, {"name": None, "license": "CC0"}]
)
def test_a_card_with_what_is_no_text_is_no_obstacle(free, tmp_path, card):
    (free / CARD).write_text(json.dumps(card))
    pipeline(free).to_disk(tmp_path / "saved")
    found = sources(tmp_path / "saved")
    assert [source["name"] for source in found or []] == (["weights of elmo"] if "license" in card else [])


def test_an_attribution_that_names_the_end_of_a_section_is_written_once(free, tmp_path):
    (free / ATTRIBUTION).write_text("One.\n# End of the weights of the component elmo\nTwo.\n")
    for _ in range(2):
        pipeline(free).to_disk(tmp_path / "saved")
    licences = (tmp_path / "saved" / "LICENSES_SOURCES").read_text(encoding="utf-8")
    assert licences.count("Two.") == 1


def test_a_card_that_cannot_be_written_is_our_error(tmp_path):
    nlp = pipeline()
    shim_of(nlp.get_pipe("elmo").model).bilm.card = {"name": "x", "license": "\ud800"}
    with pytest.raises(ElmoError):
        nlp.to_disk(tmp_path / "saved")
