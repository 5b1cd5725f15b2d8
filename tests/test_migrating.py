"""The commands of docs/migrating.md run unchanged, as does the code that reads their output."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pytest

from helpers.models import write_predictor
from helpers.shell import run_in_shell
from spacy_elmo.bilm import BiLM, BiLMOptions

PAGE = Path(__file__).resolve().parent.parent / "docs" / "migrating.md"
FENCED = re.findall(r"^```(\w*)\n(.*?)^```", PAGE.read_text(encoding="utf8"), re.DOTALL | re.MULTILINE)
COMMANDS = [block for language, block in FENCED if language == "bash"]
READERS = [block for language, block in FENCED if language == "python" and "h5py.File" in block]
OPENERS = [block for language, block in FENCED if language == "python" and block.startswith("# sentences")]
MANY_LANGS = [block for language, block in FENCED if language == "python" and '"zhs.model"' in block]
KERAS = [block for language, block in FENCED if language == "python" and "KERAS_BACKEND" in block]
WORDS = ["<S>", "</S>", "<UNK>", "the", "fox"]


@pytest.fixture
def workplace(tmp_path, data):
    """Make a directory with the files that the commands name: sentences, and a model with vocabulary and softmax."""
    (tmp_path / "sentences.txt").write_text("the fox .\nAnother sentence\n", encoding="utf8")
    bilm = BiLM(BiLMOptions.from_file(data / "tiny_2l_skip" / "options.json"))
    write_predictor(bilm, WORDS, tmp_path / "my_elmo")
    return tmp_path


def test_commands_run_and_what_they_write_is_read_by_the_old_code(workplace):
    assert len(COMMANDS) == 3
    assert len(READERS) == 1
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    assert shutil.which("python", path=path) == str(Path(sys.executable).parent / "python")
    for command in COMMANDS:
        run_in_shell(command, workplace)
    subprocess.run([sys.executable, "-c", READERS[0]], cwd=workplace, check=True)


def run(block, folder, monkeypatch, **names):
    """Run a block in the folder of its models. Returns the names that it defines."""
    monkeypatch.chdir(folder)
    exec(compile(block, str(PAGE), "exec"), names)
    return names


def opener(of):
    (block,) = (block for block in OPENERS if f'open_model("{of}")' in block)
    return block


def test_a_checkpoint_gives_what_bilm_tf_gives(tmp_path, monkeypatch, tensorflow_models, sentences):
    shutil.copytree(tensorflow_models / "trained_chars", tmp_path / "save_dir")
    given = run(opener("save_dir"), tmp_path, monkeypatch, sentences=sentences)
    with np.load(tensorflow_models / "trained_chars" / "expected" / "bilm_tf.npz") as expected:
        for number, layers in enumerate(given["layers"]):
            np.testing.assert_allclose(layers, expected[f"zs_nobe_{number:02d}"], rtol=0, atol=1e-5)
    with h5py.File(tensorflow_models / "trained_chars" / "expected" / "softmax.hdf5") as file:
        np.testing.assert_array_equal(given["softmax"].weight, file["softmax/W"])


def test_a_module_gives_what_tensorflow_gives(tmp_path, monkeypatch, tensorflow_models):
    shutil.copytree(tensorflow_models / "hub_tiny_2l_skip", tmp_path / "elmo_3")
    sentences = [["the", "cat", "is", "here"], ["dogs", "are"]]
    outputs = run(opener("elmo_3"), tmp_path, monkeypatch, sentences=sentences)["outputs"]
    with np.load(tensorflow_models / "hub_outputs.npz") as expected:
        for number, (words, ours) in enumerate(zip(sentences, outputs, strict=True)):
            assert ours.keys() == set(expected.files)
            for name, array in ours.items():
                theirs = expected[name][number]
                theirs = theirs if name == "default" else theirs[: len(words)]
                np.testing.assert_allclose(array, theirs, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.* are unknown to the model")
def test_a_model_of_elmoformanylangs_ends_in_the_vectors_of_the_original(data, tmp_path, monkeypatch):
    source = data / "elmoformanylangs" / "words_chars"
    shutil.copytree(source, tmp_path / "zhs.model")
    monkeypatch.chdir(tmp_path)
    assert len(MANY_LANGS) == 1
    found = {}
    exec(MANY_LANGS[0], found)  # its asserts are about the component
    expected = np.load(source / "expected.npz")["alone_06"]
    np.testing.assert_allclose(found["layers"][0], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["mean"][0], expected.mean(axis=0), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["second"][0], expected[2], rtol=0, atol=1e-5)


# What the text around the Keras block promises. It runs after the block.
AFTER_KERAS = """
import torch
from spacy_elmo.formats import load

layer = model.layers[1]
elmo, given = layer.elmo.module, load("en_elmo_sm")
mix, loaded = elmo.scalar_mixes[0], given.state_dict()
is_kept = [torch.equal(value, loaded[name]) for name, value in elmo.bilm.state_dict().items()]
assert mix.gamma != 1 and (mix.weights != 0).all()
if not any(parameter.requires_grad for parameter in elmo.bilm.parameters()):
    assert all(is_kept)
    layers = given.encode([[token.text for token in tokenizer(text)] for text in texts])
    weights = (mix.gamma * mix.weights.softmax(0)).detach().numpy()
    expected = [np.tensordot(weights, one, 1).mean(axis=0) for one in layers]
    np.testing.assert_allclose(keras.Model(ids, sentence).predict(inputs, verbose=0), expected, rtol=0, atol=1e-5)
    layer.trainable = False
    layer.trainable = True
    assert len(layer.trainable_variables) == 2
    assert not any(parameter.requires_grad for parameter in elmo.bilm.parameters())
else:
    assert not any(is_kept)

model.save_weights("film.weights.h5")
model.set_weights([0 * weights for weights in model.get_weights()])
assert not np.allclose(model.predict(inputs, verbose=0), scores)
model.load_weights("film.weights.h5")
np.testing.assert_array_equal(model.predict(inputs, verbose=0), scores)

tags = keras.layers.Bidirectional(keras.layers.LSTM(3, return_sequences=True))(tokens)
tagger = keras.Model(ids, keras.layers.Dense(2, activation="softmax")(tags))
longer = np.pad(inputs, [(0, 0), (0, 5), (0, 0)])
found = tagger.predict(longer, verbose=0)[:, :-5]
np.testing.assert_allclose(found[1], tagger.predict(inputs, verbose=0)[1], atol=1e-5)
tagger.compile("adam", "sparse_categorical_crossentropy")
tagger.fit(inputs, np.ones(inputs.shape[:2]), verbose=0)
"""


@pytest.mark.skipif(not find_spec("keras"), reason="the chapter on Keras needs the extra keras")
@pytest.mark.parametrize("more", ["", ", requires_grad=True"], ids=["frozen", "fine-tuned"])
def test_elmo_is_trained_and_saved_in_keras(more, tmp_path):
    (block,) = KERAS
    assert block.count("dropout=0)") == block.count("import keras\n") == 1
    seeded = block.replace("import keras\n", "import keras\n\nkeras.utils.set_random_seed(0)\n")  # or it may not learn
    script = seeded.replace("dropout=0)", f"dropout=0{more})") + AFTER_KERAS
    environment = os.environ | {"KERAS_HOME": str(tmp_path)}  # where Keras writes its settings
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)


def test_no_block_of_ours_escapes_the_tests():
    """test_docs.py or this file runs our blocks. All others name the library that they are for."""
    old = (
        "allennlp",
        "bilm import",
        "dump_weights",
        "hub.Module",
        "simple_elmo",
        "elmoformanylangs",
        "flair",
        "ElmoEmbeddings",
    )
    for language, block in FENCED:
        if language == "python" and not block.startswith(("import spacy\n", "from spacy_elmo")):
            assert block in (*READERS, *OPENERS, *MANY_LANGS, *KERAS) or any(name in block for name in old), block
