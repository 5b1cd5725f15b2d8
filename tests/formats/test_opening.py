"""An open model: its parts, when they are read, and which format opens which file."""

import gzip
import json
import pathlib
import shutil
import zipfile

import numpy as np
import pytest
import torch

from spacy_elmo import ElmoError, OptionsError, WeightsError, formats
from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.formats import digest, load, open_model, opening, read_softmax
from spacy_elmo.formats.reader import Place

WORDS = ["<S>", "</S>", "<UNK>", "the", "bank"]


@pytest.fixture(params=["directory", "file", "archive", "archive with a folder", "packed vocabulary"])
def container(request, whole_model, tmp_path):
    """Give the same model in every container."""
    if request.param == "file":
        return whole_model / "weights.hdf5"
    if request.param == "packed vocabulary":
        (whole_model / "vocab.txt.gz").write_bytes(gzip.compress((whole_model / "vocab.txt").read_bytes()))
        (whole_model / "vocab.txt").unlink()
    elif request.param == "archive":
        return shutil.make_archive(str(tmp_path / "packed"), "zip", whole_model)
    elif request.param == "archive with a folder":
        return shutil.make_archive(str(tmp_path / "packed"), "zip", whole_model.parent, whole_model.name)
    return whole_model


def test_a_model_may_be_named_by_its_options(whole_model, data):
    assert digest(load(whole_model / "options.json")) == digest(load(whole_model))
    assert open_model(whole_model / "options.json").name == whole_model.name


def test_of_several_models_in_a_folder_the_options_name_theirs(whole_model, data, tmp_path):
    for number, folder in enumerate((whole_model, data / "tiny_2l_skip")):
        shutil.copy(folder / "weights.hdf5", tmp_path / f"m{number}_weights.hdf5")
        shutil.copy(folder / "options.json", tmp_path / f"m{number}_options.json")
    assert digest(load(tmp_path / "m1_options.json")) == digest(load(data / "tiny_2l_skip"))


def test_weights_may_end_in_h5(whole_model):
    expected = digest(load(whole_model))
    (whole_model / "weights.hdf5").rename(whole_model / "weights.h5")
    assert digest(load(whole_model)) == digest(load(whole_model / "weights.h5")) == expected


def test_a_path_may_begin_at_home(whole_model, monkeypatch):
    monkeypatch.setenv("HOME", str(whole_model.parent))
    monkeypatch.setenv("USERPROFILE", str(whole_model.parent))
    assert digest(load(f"~/{whole_model.name}")) == digest(load(whole_model))
    assert digest(load(whole_model, f"~/{whole_model.name}/options.json")) == digest(load(whole_model))
    assert read_softmax(f"~/{whole_model.name}", 16)[0] == WORDS
    with pytest.raises(WeightsError, match="~nobody-here/model: no such weights"):
        load("~nobody-here/model")


def test_every_container_has_the_same_parts(container, whole_model):
    model, expected = open_model(container), load(whole_model)
    assert model.options == expected.options
    assert model.card == {"name": "tiny", "license": "CC0"}
    assert model.vocabulary == WORDS
    assert model.digest == digest(expected)
    assert model.has_softmax
    assert model.format.startswith("bilm-tf HDF5")
    assert model.weights_bytes == (whole_model / "weights.hdf5").stat().st_size
    softmax = Softmax(len(WORDS), expected.options.lstm.projection_dim, seed=1)
    for name, parameter in softmax.named_parameters():
        torch.testing.assert_close(model.softmax().get_parameter(name), parameter, rtol=0, atol=0)
    for part in (model.bilm(), model.softmax()):
        assert not part.training
        assert not any(parameter.requires_grad for parameter in part.parameters())


def test_each_part_is_read_once(whole_model):
    model = open_model(whole_model)
    assert model.bilm() is model.bilm()
    assert model.softmax() is model.softmax()
    assert model.options is model.options
    assert model.card is model.card
    assert model.vocabulary is model.vocabulary
    assert open_model(whole_model).bilm() is not model.bilm()


@pytest.mark.parametrize("part", ["options.json", "model_card.json", "vocab.txt", "softmax.hdf5", "weights.hdf5"])
def test_no_part_is_read_before_it_is_asked_for(whole_model, part):
    (whole_model / part).write_bytes(b"\xff no such thing")
    model = open_model(whole_model)
    asked = {
        "options.json": lambda: model.options,
        "model_card.json": lambda: model.card,
        "vocab.txt": lambda: model.vocabulary,
        "softmax.hdf5": model.softmax,
        "weights.hdf5": model.bilm,
    }
    needs = {"options.json": {"softmax.hdf5", "weights.hdf5"}, "model_card.json": {"weights.hdf5"}}
    needs["vocab.txt"] = {"softmax.hdf5"}
    for name, ask in asked.items():
        if name == part:
            with pytest.raises(ElmoError, match=part):
                ask()
        elif name not in needs.get(part, ()):
            ask()


def test_a_model_without_softmax_says_so_and_names_the_file(whole_model):
    (whole_model / "softmax.hdf5").unlink()
    model = open_model(whole_model)
    assert not model.has_softmax
    with pytest.raises(WeightsError, match=r"softmax\.hdf5: no such file; without it and vocab\.txt a model can embed"):
        model.softmax()


def test_a_softmax_without_words_is_an_error_that_says_what_is_missing(whole_model):
    (whole_model / "vocab.txt").unlink()
    model = open_model(whole_model)
    assert model.vocabulary is None
    with pytest.raises(WeightsError, match=r"model: it has a softmax but no vocab\.txt"):
        model.softmax()


def test_options_are_taken_from_the_file_that_is_named(whole_model, tmp_path):
    other = tmp_path / "other.json"
    other.write_text((whole_model / "options.json").read_text().replace('"relu"', '"tanh"'))
    assert open_model(whole_model, options=other).options.char_cnn.activation == "tanh"
    with pytest.raises(OptionsError, match=r"nowhere\.json: no such options file"):
        open_model(whole_model, options=tmp_path / "nowhere.json").options  # noqa: B018


def test_the_earlier_names_are_the_same(whole_model):
    assert formats.locate is open_model
    assert formats.ModelFiles is formats.OpenedModel
    assert isinstance(formats.locate(whole_model), formats.ModelFiles)
    assert formats.locate(whole_model).read_options() == load(whole_model).options


def test_a_softmax_is_checked_before_memory_is_taken(whole_model):
    options = json.loads((whole_model / "options.json").read_text())
    options["lstm"] |= {"dim": 2**24, "projection_dim": 2**24}
    (whole_model / "options.json").write_text(json.dumps(options))
    (whole_model / "vocab.txt").write_text("word\n" * 10**6)
    with pytest.raises(WeightsError, match=r"softmax\.hdf5: softmax/W has shape \[5, 16\], but the options expect"):
        open_model(whole_model).softmax()


def test_a_name_is_shown_where_the_card_states_none(whole_model, tmp_path):
    assert open_model(whole_model).name == "model"
    assert open_model(f"{whole_model}/weights.hdf5").name == "weights.hdf5"
    assert open_model(formats.BUNDLED).name == formats.BUNDLED


@pytest.mark.parametrize("name", ["weights", "weights.h5", "elmo.xyz"])
def test_a_file_of_no_format_is_an_error_that_names_it(tmp_path, name):
    (tmp_path / name).write_bytes(b"neither one nor the other")
    with pytest.raises(WeightsError, match=f"{name}: not a weights file of a known format; expected HDF5"):
        open_model(tmp_path / name)


# --- formats ---


class Toy:
    """A format with one file `toy.bin`. All its models are the same."""

    format = "toys"
    weights_bytes = 3

    def __init__(self, place: Place) -> None:
        self.place = place

    def options(self):
        lstm = {"dim": 4, "projection_dim": 4, "n_layers": 1}
        return BiLMOptions.from_dict({"lstm": lstm})

    def card(self):
        return {"name": "a toy"}

    def vocabulary(self):
        return WORDS

    def bilm(self, parts):
        return BiLM(parts.options, parts.vocabulary, parts.card).eval()

    def why_no_softmax(self):
        return f"{self.place}: toys have no softmax"

    def softmax(self, n_words, projection_dim):
        raise AssertionError("not asked for where there is none")


@pytest.fixture
def toys(monkeypatch):
    """Add another format after the built-in ones. Gives the places that it was asked about."""
    asked = []

    def find(place):
        asked.append(place)
        found = place.file.name.startswith("toy") if place.file else "toy.bin" in place.names
        return Toy(place) if found else None

    monkeypatch.setattr(opening, "FORMATS", (*opening.FORMATS, find))
    return asked


@pytest.mark.parametrize("named", ["", "toy.bin", "toy"], ids=["directory", "file", "start of its files' names"])
def test_another_format_is_opened_by_the_same_call(toys, tmp_path, named):
    (tmp_path / "toy.bin").write_bytes(b"toy")
    model = open_model(tmp_path / named, options=tmp_path / "mine.json")
    assert (model.format, model.weights_bytes, model.card["name"]) == ("toys", 3, "a toy")
    assert model.vocabulary == WORDS
    assert model.digest == digest(model.bilm())
    assert toys[-1].options == tmp_path / "mine.json"
    assert model.bilm().encode([["the", "bank"]])[0].shape == (2, 2, 8)
    with pytest.raises(WeightsError, match="toys have no softmax"):
        model.softmax()


def pack(path, members):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_another_format_is_found_in_an_archive(toys, tmp_path):
    for number, members in enumerate([{"toy.bin": b"", "a/readme": b""}, {"a/toy.bin": b"", "b/readme": b""}]):
        assert open_model(pack(tmp_path / f"{number}.zip", members)).format == "toys"
    with pytest.raises(WeightsError, match=r"several folders \(a, b\)"):
        open_model(pack(tmp_path / "two.zip", {"a/toy.bin": b"", "b/toy.bin": b""}))


def test_a_model_at_the_top_of_an_archive_owns_the_other_formats_in_its_folders(toys, whole_model, tmp_path):
    weights, options = ((whole_model / name).read_bytes() for name in ("weights.hdf5", "options.json"))
    inner = {"fta/weights.hdf5": weights, "fta/options.json": options}
    assert open_model(pack(tmp_path / "model.zip", {"toy.bin": b"", **inner})).format == "toys"
    assert open_model(pack(tmp_path / "inner.zip", inner)).digest == digest(load(whole_model))


def test_vectors_are_those_of_load(container, whole_model):
    for ours, theirs in zip(
        open_model(container).bilm().encode([WORDS]), load(whole_model).encode([WORDS]), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


# --- what the file system refuses ---


@pytest.fixture
def forbid(monkeypatch):
    """Return a function that makes files with a name unreadable, or folders with a name unlistable."""

    def refuse(name, what):
        honest = getattr(pathlib.Path, what)

        def call(path, *arguments, **options):
            if path.name == name:
                raise PermissionError(13, "Permission denied")
            return honest(path, *arguments, **options)

        monkeypatch.setattr(pathlib.Path, what, call)

    return refuse


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("trained_words", "model.ckpt-60.index"),
        ("trained_words", "model.ckpt-60.data-00000-of-00001"),
        ("trained_words", "checkpoint"),
        ("trained_words", "options.json"),
        ("no_dropout", "model.ckpt-6.meta"),
        ("words_chars", "encoder.pkl"),
        ("words_chars", "word.dic"),
        ("words_chars", "config.json"),
    ],
)
def test_a_file_that_may_not_be_read_is_an_error_that_names_it(tensorflow_models, data, tmp_path, forbid, model, name):
    source = tensorflow_models / model if "_words" in model or "_drop" in model else data / "elmoformanylangs" / model
    shutil.copytree(source, tmp_path / "model")
    if name.endswith(".meta"):
        for other in ("options.json", "dumped.hdf5"):
            (tmp_path / "model" / other).unlink()
    forbid(name, "read_bytes")
    forbid(name, "open")
    with pytest.raises(ElmoError, match=rf"{name}: cannot be read.*Permission denied"):
        load(tmp_path / "model")


def test_a_folder_or_archive_that_may_not_be_read_is_an_error_that_names_it(whole_model, forbid):
    forbid("model", "iterdir")
    with pytest.raises(WeightsError, match=r"model: cannot list the folder .*Permission denied"):
        load(whole_model)
    path = whole_model.parent / "archive"
    path.touch()
    forbid("archive", "open")
    with pytest.raises(WeightsError, match=r"archive: cannot be read .*Permission denied"):
        load(path)


@pytest.mark.parametrize("part", ["options", "card", "bilm", "softmax", "digest"])
def test_no_part_is_read_of_a_model_that_has_taken_the_place_of_the_opened_one(container, whole_model, tmp_path, part):
    other, opened = open_model(whole_model), open_model(container)
    vocabulary, softmax, bilm = opened.vocabulary, other.softmax(), other.bilm()
    bilm.card = {"name": "another"}
    if pathlib.Path(container).suffix == ".zip":
        formats.write(bilm, tmp_path / "another", vocabulary=other.vocabulary, softmax=softmax)
        packed = shutil.make_archive(str(tmp_path / "replacing"), "zip", tmp_path / "another")
        pathlib.Path(packed).replace(container)
    else:
        formats.write(bilm, whole_model, vocabulary=other.vocabulary, softmax=softmax)
    assert opened.vocabulary == vocabulary  # it was read earlier
    with pytest.raises(WeightsError, match="another model has replaced it since it was opened; open it again"):
        getattr(opened, part)() if part in ("bilm", "softmax") else getattr(opened, part)


def test_model_whose_replacement_was_cut_is_opened_and_read(whole_model, tmp_path):
    (whole_model / ".incoming").mkdir()
    for path in [path for path in whole_model.iterdir() if path.is_file()]:
        shutil.copyfile(path, whole_model / ".incoming" / path.name)
    opened = open_model(whole_model)
    assert opened.softmax() is not None
    assert opened.digest == digest(load(whole_model))
