"""Downloaded models: with one file, with several, in archives. They are complete or not there."""

import io
import tarfile
import zipfile

import pytest
import spacy
import torch

from helpers.files import contents, names, sha256
from spacy_elmo import ElmoError, WeightsError
from spacy_elmo.formats import digest, load, open_model
from spacy_elmo.formats.known import KNOWN, KnownModel
from spacy_elmo.tools import download as tool
from spacy_elmo.tools.describe import describe
from spacy_elmo.tools.download import download


def packed(folder, inside="."):
    """Return a tar.gz of a folder, with its files in a folder `inside`."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        tar.add(folder, inside)
    return file.getvalue()


# --- what works ---


def test_a_model_is_downloaded_and_its_name_is_enough(server, tiny, cache, data):
    weights = server.files["weights.hdf5"]
    tiny(sha256=sha256(weights), size=len(weights))
    report = download("tiny")
    assert report["path"] == str(cache / "tiny")
    assert [(file["name"], file["bytes"], file["sha256"]) for file in report["files"]] == [
        (name, len(server.files[name]), sha256(server.files[name])) for name in ("options.json", "weights.hdf5")
    ]
    assert names(cache / "tiny") == ["options.json", "weights.hdf5"]
    assert digest(load("tiny")) == digest(load(data / "tiny_2l_skip"))
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"model": {"weights": "tiny"}})
    assert nlp("It works .")._.elmo.shape == (3, 32)
    assert load("tiny").card == {"name": "tiny", "language": "en", "description": "a tiny one", "license": "CC0"}
    assert describe("tiny")["license"] == "CC0"


def test_what_is_there_is_not_downloaded_again(server, tiny):
    download("tiny")
    before = len(server.requests)
    download("tiny")
    assert len(server.requests) == before


def test_an_archive_of_nlpl_is_downloaded_and_read_in_place(server, cache, data, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "218.zip", "w") as file:
        file.write(data / "tiny_2l_skip" / "weights.hdf5", "model.hdf5")
        file.write(data / "tiny_2l_skip" / "options.json", "options.json")
    server.files["218.zip"] = (tmp_path / "218.zip").read_bytes()
    monkeypatch.setitem(KNOWN, "nlpl-218", KnownModel("nlpl-218", "no", "Norwegian", (server.file("218.zip"),)))
    assert download("nlpl-218")["path"] == str(cache / "nlpl-218" / "218.zip")
    assert names(cache / "nlpl-218") == ["218.zip"]
    assert digest(load("nlpl-218")) == digest(load(data / "tiny_2l_skip"))
    assert open_model("nlpl-218").name == "nlpl-218"


def test_a_module_in_a_tar_is_downloaded_and_read_in_place(publish, cache, tensorflow_models):
    module = tensorflow_models / "hub_tiny_2l_skip"
    publish("module", {"elmo_ru.tar.gz": packed(module)})
    assert download("module")["path"] == str(cache / "module" / "elmo_ru.tar.gz")
    assert digest(load("module")) == digest(load(module))


def test_a_model_in_a_folder_of_a_tar_is_downloaded(publish, data):
    publish("embeddia", {"slovenian-elmo.tar.gz": packed(data / "tiny_2l_skip", "slovenian")})
    download("embeddia")
    assert digest(load("embeddia")) == digest(load(data / "tiny_2l_skip"))


def test_a_model_of_elmoformanylangs_is_downloaded(publish, data, tmp_path):
    model = data / "elmoformanylangs" / "clip3"
    with zipfile.ZipFile(tmp_path / "149.zip", "w") as file:
        for name, content in contents(model).items():
            file.writestr(name, content)
    publish("nlpl-149", {"149.zip": (tmp_path / "149.zip").read_bytes()})
    download("149")
    assert digest(load("nlpl-149")) == digest(load(model))


# --- models of several files ---


CHECKPOINT = ("options.json", "model.ckpt-60.index", "model.ckpt-60.data-00000-of-00001", "vocab.txt")


@pytest.fixture
def checkpoint(publish, tensorflow_models):
    """Publish a checkpoint, `ckpt`, as AllenNLP publishes its own. Returns its source folder."""
    folder = tensorflow_models / "trained_chars"
    publish("ckpt", {name: (folder / name).read_bytes() for name in CHECKPOINT})
    return folder


def test_a_checkpoint_is_downloaded_with_its_softmax(checkpoint, cache):
    assert download("ckpt")["path"] == str(cache / "ckpt")
    found, expected = open_model("ckpt"), open_model(checkpoint)
    assert found.digest == expected.digest
    assert found.vocabulary == expected.vocabulary
    assert torch.equal(found.softmax().weight, expected.softmax().weight)


@pytest.mark.parametrize("missing", CHECKPOINT)
def test_a_model_without_one_of_its_files_is_not_there_and_only_that_one_is_fetched_next(
    server, checkpoint, cache, missing
):
    content = server.files.pop(missing)
    with pytest.raises(ElmoError, match=rf"{missing}: .*still published"):
        download("ckpt")
    with pytest.raises(WeightsError, match="ckpt is not downloaded"):
        load("ckpt")
    assert not known_models_by_name()["ckpt"]["downloaded"]
    there = set(names(cache / ".ckpt.download")) if (cache / ".ckpt.download").exists() else set()
    server.files[missing] = content
    server.requests.clear()
    download("ckpt")
    assert {name for name, _ in server.requests} == set(CHECKPOINT) - there
    assert missing in {name for name, _ in server.requests}
    assert digest(load("ckpt")) == digest(load(checkpoint))


def test_parts_that_do_not_belong_together_are_all_removed(server, checkpoint, cache, tensorflow_models):
    part = "model.ckpt-60.data-00000-of-00001"
    server.files[part] = (tensorflow_models / "trained_words" / part).read_bytes()
    with pytest.raises(ElmoError, match="ckpt: the server sent no valid model"):
        download("ckpt")
    assert names(cache) == ["ckpt.lock"]


def known_models_by_name():
    return {model["name"]: model for model in tool.known_models()["models"]}
