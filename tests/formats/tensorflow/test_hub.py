"""TF-Hub modules: TensorFlow's own outputs, found by any of their names, and clear errors for other modules."""

import json
import shutil

import numpy as np
import pytest

from spacy_elmo import OptionsError, WeightsError
from spacy_elmo.formats import open_model
from spacy_elmo.pipeline.mix import FixedMix
from spacy_elmo.pretraining.evaluation import Evaluator
from spacy_elmo.tools.convert import convert
from spacy_elmo.tools.describe import describe, table

HUB = "hub_tiny_2l_skip"


def test_outputs_are_those_of_tensorflow(tensorflow_models):
    """Compares word_emb, lstm_outputs1, lstm_outputs2, elmo and default with TensorFlow's outputs of the module."""
    model = open_model(tensorflow_models / HUB)
    encoded = model.bilm().encode([["the", "cat", "is", "here"], ["dogs", "are"]])
    with np.load(tensorflow_models / "hub_outputs.npz") as expected:
        for number, layers in enumerate(encoded):
            elmo = np.tensordot(model.mixes[0], layers, 1)
            ours = {
                "word_emb": layers[0][:, :16],
                "lstm_outputs1": layers[1],
                "lstm_outputs2": layers[2],
                "elmo": elmo,
                "default": elmo.mean(axis=0),
            }
            assert ours.keys() == set(expected.files)
            for name, array in ours.items():
                theirs = expected[name][number]
                theirs = theirs if name == "default" else theirs[: len(elmo)]
                np.testing.assert_allclose(array, theirs, rtol=0, atol=1e-5)


def test_a_module_saved_again_by_tensorflow_2_gives_what_it_gives_there(tensorflow_models):
    model = open_model(tensorflow_models / "resaved")
    layers = model.bilm().encode([["the", "fox", "ä"]])[0]
    (mix,) = model.mixes
    with np.load(tensorflow_models / "resaved" / "outputs.npz") as expected:
        np.testing.assert_allclose(layers, expected["layers"][0], rtol=0, atol=1e-5)
        np.testing.assert_allclose(np.tensordot(mix, layers, 1), expected["mix"][0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["module", "resaved"])
def test_options_are_read_off_the_graph(tensorflow_models, name):
    """They equal those of the module's checkpoint. The saved states (`bilm/Variable`) are not included."""
    trained = open_model(tensorflow_models / "cell_clip_no_skip" / "model.ckpt-6")
    module = open_model(tensorflow_models / name)
    assert module.options == trained.options
    assert module.digest == trained.digest


def test_options_beside_a_module_or_named_by_the_user_win(copy_of, tmp_path, data):
    folder = copy_of(HUB)
    options = json.loads((data / "tiny_2l_skip" / "options.json").read_bytes())
    for clip, path in ((0.5, folder / "options.json"), (0.25, tmp_path / "other.json")):
        options["lstm"]["proj_clip"] = clip
        path.write_text(json.dumps(options))
    assert open_model(folder).options.lstm.proj_clip == 0.5
    assert open_model(folder, tmp_path / "other.json").options.lstm.proj_clip == 0.25


@pytest.mark.parametrize("file", ["saved_model.pb", "variables/variables.index"])
def test_any_of_its_files_names_a_module(tensorflow_models, file):
    model = open_model(tensorflow_models / HUB / file)
    assert model.format == "TF-Hub module"
    assert model.digest == open_model(tensorflow_models / HUB).digest


@pytest.mark.parametrize(("packer", "kind"), [("zip", "zip"), ("gztar", "tar")])
def test_a_module_in_an_archive_is_read(tensorflow_models, tmp_path, packer, kind):
    archive = shutil.make_archive(str(tmp_path / "model"), packer, tensorflow_models / HUB)
    model = open_model(archive)
    assert model.format == f"TF-Hub module in a {kind} archive"
    assert model.digest == open_model(tensorflow_models / HUB).digest


# --- mixes ---


def test_the_mix_is_printed_and_is_a_setting_of_the_component(tensorflow_models):
    model = str(tensorflow_models / "resaved")
    facts = describe(model)
    np.testing.assert_allclose(facts["mixes"], [[0.60115, 0.36461, 0.73424]], atol=1e-5)
    assert "layers = [0.6011, 0.3646, 0.7342]" in table(facts)
    FixedMix(tuple(facts["mixes"][0])).check(3)


def test_models_without_a_mix_have_none(tensorflow_models):
    facts = describe(str(tensorflow_models / "trained_chars"))
    assert facts["mixes"] == []
    assert "mix" not in table(facts).split()


# --- refused ---


def test_a_module_has_no_softmax(tensorflow_models):
    assert not open_model(tensorflow_models / HUB).has_softmax
    with pytest.raises(WeightsError, match=r"variables\.index: has no softmax"):
        Evaluator.load(tensorflow_models / HUB)


def test_a_module_is_converted(tensorflow_models, tmp_path):
    report = convert(str(tensorflow_models / HUB), tmp_path / "out")
    assert report["digest"] == open_model(tensorflow_models / HUB).digest
    assert report["files"].keys() == {"options.json", "weights.hdf5"}


@pytest.fixture
def other_module(tmp_path, writer):
    """Write a module of a sentence encoder."""
    bundle = writer(tmp_path / "other" / "variables" / "variables")
    bundle.add("encoder/layer_0/kernel", np.zeros((4, 4), np.float32))
    bundle.write()
    (tmp_path / "other" / "saved_model.pb").write_bytes(b"")
    return tmp_path / "other"


def test_a_module_of_something_else_is_refused(other_module):
    with pytest.raises(WeightsError, match=r"variables\.index: not an ELMo.*encoder/layer_0/kernel"):
        open_model(other_module).bilm()


def test_a_module_without_variables_is_an_error_that_names_them(copy_of):
    folder = copy_of(HUB)
    shutil.rmtree(folder / "variables")
    with pytest.raises(WeightsError, match=r"variables\.index: no such file"):
        open_model(folder).bilm()


@pytest.mark.parametrize("content", [b"", b"\x12\x02", b"\x12\x00", bytes(1000), b"\x12\x04\x12\x02\x0a\x00"])
def test_a_graph_without_the_network_is_an_error_that_asks_for_options(copy_of, content):
    folder = copy_of(HUB)
    (folder / "saved_model.pb").write_bytes(content)
    with pytest.raises(OptionsError, match=r"saved_model\.pb.*name its options\.json"):
        open_model(folder).options  # noqa: B018


def test_a_mix_of_another_shape_is_an_error_that_names_it(tmp_path, writer, tensorflow_models):
    bundle = writer(tmp_path / "model" / "variables" / "variables")
    bundle.add("aggregation/weights", np.zeros((3, 2), np.float32))
    bundle.add("aggregation/scaling", np.float32(1))
    bundle.write()
    (tmp_path / "model" / "saved_model.pb").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"aggregation/weights and aggregation/scaling are not the weights"):
        open_model(tmp_path / "model").mixes  # noqa: B018
