"""Conversion: the same vectors in our layout, with nothing lost and no incomplete files."""

import json
import shutil
import zipfile

import h5py
import numpy as np
import pytest

from helpers.models import write_predictor
from spacy_elmo import ElmoError, WeightsError
from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.formats import arrays, bilm_hdf5, digest, load, write
from spacy_elmo.pretraining.evaluation import Evaluator
from spacy_elmo.tools.convert import convert

SENTENCES = [["The", "same", "vectors", "."], ["naïve", "😀"]]


def same_vectors(one, other):
    for mine, theirs in zip(load(one).encode(SENTENCES), load(other).encode(SENTENCES), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.fixture
def full(data, tmp_path):
    """Make a model with vocabulary, model card and softmax."""
    bilm = load(data / "tiny_2l_skip")
    bilm.card = {"name": "tiny", "license": "CC0"}
    return write_predictor(bilm, ["<S>", "</S>", "<UNK>", "the", "fox", "ä"], tmp_path / "full")


@pytest.mark.parametrize("dtype", ["float32", "lossless"])
def test_vectors_stay_the_same_to_the_bit(shared, tmp_path, dtype):
    for folder in ("tiny_1l_noskip", "tiny_2l_clip", "tiny_2l_skip", "tiny_noproj"):
        convert(str(shared / "references" / folder), tmp_path / folder, dtype)
        same_vectors(shared / "references" / folder, tmp_path / folder)


def test_an_archive_becomes_a_directory_of_ours(full, tmp_path):
    with zipfile.ZipFile(tmp_path / "218.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for path in full.iterdir():
            file.write(path, f"218/{path.name.replace('weights', 'model')}")
    report = convert(str(tmp_path / "218.zip"), tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["model_card.json", "options.json", "softmax.hdf5", "vocab.txt", "weights.hdf5"]
    assert report["files"].keys() == set(names)
    assert report["digest"] == digest(load(full))
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (full / name).read_bytes(), name


def test_archives_predict_words_too(full, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "model"), "zip", full)
    expected, found = (Evaluator.load(path).perplexity([["the", "fox"]]).to_dict() for path in (full, archive))
    assert found == expected


def test_reading_words_matches_bilm_tf(shared, tmp_path):
    """bilm-tf dumps word vectors into a separate file and reads them together with the LSTMs."""
    references = shared / "references"
    bilm = load(references / "tiny_2l_skip")
    words = (references / "vocab.txt").read_text().split()
    source = tmp_path / "words"
    write(BiLM(BiLMOptions(lstm=bilm.options.lstm, char_cnn=None), words), source)
    with (
        h5py.File(source / "weights.hdf5", "r+") as ours,
        h5py.File(references / "tiny_2l_skip/weights.hdf5") as lstms,
        h5py.File(references / "cli/bilm_token_embeddings.hdf5") as vectors,
    ):
        del ours["embedding"]
        ours["embedding"] = vectors["embedding"][...]
        for name in dict(arrays(load(source))):
            if name.startswith("RNN"):
                ours[name][...] = lstms[name][...]
    convert(str(source), tmp_path / "out")
    expected = np.load(references / "cli/bilm_token_mode.npz")
    for path in (source, tmp_path / "out"):
        layers = load(path).encode([["the", "fox", "absent", "."], ["Hello"]])
        np.testing.assert_allclose(layers[0], expected["lm_embeddings"][0], rtol=0, atol=1e-5)
        np.testing.assert_allclose(layers[1], expected["lm_embeddings"][1][:, :1], rtol=0, atol=1e-5)


def test_float16_halves_the_file_and_stays_near(full, tmp_path):
    report = convert(str(full), tmp_path / "half", "float16")
    before = {path.name: path.stat().st_size for path in full.iterdir()}
    assert report["files"]["weights.hdf5"] < 0.7 * before["weights.hdf5"]
    with h5py.File(tmp_path / "half/softmax.hdf5") as file:
        assert file["softmax/W"].dtype == np.float16
    for mine, theirs in zip(load(full).encode(SENTENCES), load(tmp_path / "half").encode(SENTENCES), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=0.01)


def test_weights_too_large_for_float16_are_an_error_and_nothing_is_written(model_copy, tmp_path):
    with h5py.File(model_copy / "weights.hdf5", "r+") as file:
        file["CNN/b_cnn_0"][0] = 1e5
    with pytest.raises(WeightsError, match=r"CNN/b_cnn_0 has values too large for float16.*lossless"):
        convert(str(model_copy), tmp_path / "out", "float16")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    convert(str(model_copy), tmp_path / "out", "lossless")
    same_vectors(model_copy, tmp_path / "out")


@pytest.fixture
def model_copy(data, tmp_path):
    """Copy tiny_2l_clip, so that a test may change it."""
    (tmp_path / "copy").mkdir()
    for name in ("weights.hdf5", "options.json"):
        shutil.copyfile(data / "tiny_2l_clip" / name, tmp_path / "copy" / name)
    return tmp_path / "copy"


def test_a_directory_that_is_not_empty_is_kept_as_it_is(full, model_copy):
    before = {path.name: path.read_bytes() for path in model_copy.iterdir()}
    with pytest.raises(ElmoError, match=r"copy: is not empty.*--force"):
        convert(str(full), model_copy)
    assert {path.name: path.read_bytes() for path in model_copy.iterdir()} == before


def test_force_replaces_the_model_and_keeps_the_rest(full, model_copy, tmp_path):
    convert(str(model_copy), full, force=True)
    assert sorted(path.name for path in full.iterdir()) == ["options.json", "weights.hdf5"]
    (full / "notes.txt").write_text("mine")
    convert(str(model_copy), full, "float16", force=True)
    assert (full / "notes.txt").read_text() == "mine"
    assert not list(tmp_path.glob(".*"))


def test_a_model_can_be_converted_in_place(model_copy):
    expected = load(model_copy).encode(SENTENCES)
    convert(str(model_copy), model_copy, "lossless", force=True)
    for mine, theirs in zip(load(model_copy).encode(SENTENCES), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_an_empty_directory_is_free_and_a_file_is_not(data, tmp_path):
    (tmp_path / "empty").mkdir()
    convert(str(data / "tiny_2l_skip"), tmp_path / "empty")
    same_vectors(data / "tiny_2l_skip", tmp_path / "empty")
    (tmp_path / "file").write_text("mine")
    for force in (False, True):
        with pytest.raises(ElmoError, match="is a file"):
            convert(str(data / "tiny_2l_skip"), tmp_path / "file", force=force)


def test_a_softmax_without_its_words_is_an_error_that_names_it(full, tmp_path):
    (full / "vocab.txt").unlink()
    with pytest.raises(WeightsError, match=r"no vocab\.txt, so its words are unknown"):
        convert(str(full), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("exists", [False, True])
def test_a_failed_write_leaves_nothing_behind(full, model_copy, tmp_path, monkeypatch, exists):
    target = model_copy if exists else tmp_path / "out"
    before = {path.name: path.read_bytes() for path in model_copy.iterdir()}

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bilm_hdf5, "write_arrays", full_disk)
    with pytest.raises(ElmoError, match=f"{target.name}: cannot be written.*No space left"):
        convert(str(full), target, force=True)
    assert {path.name: path.read_bytes() for path in model_copy.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "full"]


def test_what_was_written_is_compared(full, tmp_path, monkeypatch):
    monkeypatch.setattr("spacy_elmo.formats.write_files", lambda bilm, path, *_: write(BiLM(bilm.options), path))
    with pytest.raises(WeightsError, match="differs from the original"):
        convert(str(full), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_foreign_models_are_refused_with_what_to_do(tmp_path):
    (tmp_path / "145").mkdir()
    (tmp_path / "145" / "elmo.pkl").write_bytes(b"")
    with pytest.raises(WeightsError, match="a pickle"):
        convert(str(tmp_path / "145"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_options_are_kept(data, tmp_path):
    convert(str(data / "tiny_2l_clip"), tmp_path / "out")
    ours, theirs = (
        json.loads((path / "options.json").read_bytes()) for path in (tmp_path / "out", data / "tiny_2l_clip")
    )
    assert ours == {**theirs, "bidirectional": True}
