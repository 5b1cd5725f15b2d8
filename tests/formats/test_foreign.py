"""Models in unsupported formats: the error says what they are and what to do, and nothing opens them."""

import pickle
import zipfile

import pytest

from helpers.refusals import Trap
from spacy_elmo import WeightsError
from spacy_elmo.formats import load

CHECKPOINT = ["checkpoint", "options.json", "model.ckpt-10.meta", "model.ckpt-10.data-00000-of-00001"]
CASES = [
    (["tfhub_module.pb"], "part of a TF-Hub module"),
    (CHECKPOINT, r"TensorFlow checkpoint.*without its \.index"),
    (["checkpoint"], "TensorFlow checkpoint"),
    (["model.pkl"], "a pickle"),
]


@pytest.fixture
def trap(tmp_path):
    """Return the bytes of a pickle that runs code. The test fails if it ran."""
    mark = tmp_path / "opened"
    content = pickle.dumps(Trap(mark))
    yield content
    assert not mark.exists()


@pytest.mark.parametrize(("names", "message"), CASES, ids=[case[0][0] for case in CASES])
@pytest.mark.parametrize("packed", [False, True], ids=["directory", "archive"])
def test_a_foreign_model_is_recognised(tmp_path, trap, names, message, packed):
    path = tmp_path / "model"
    path.mkdir()
    for name in names:
        (path / name).write_bytes(trap)
    if packed:
        with zipfile.ZipFile(tmp_path / "model.zip", "w") as file:
            for name in names:
                file.write(path / name, name)
        path = tmp_path / "model.zip"
    with pytest.raises(WeightsError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("elmo.pt", "a pickle"),
        ("elmo.pth", "a pickle"),
        ("model.ckpt-10.meta", "TensorFlow checkpoint"),
        ("model.ckpt-10.data-00000-of-00001", "TensorFlow checkpoint"),
        ("elmo_2.7z", "an archive that is neither zip nor tar; unpack it"),
    ],
)
def test_a_foreign_file_is_recognised(tmp_path, trap, name, message):
    (tmp_path / name).write_bytes(trap)
    with pytest.raises(WeightsError, match=message):
        load(tmp_path / name)


def test_a_checkpoint_named_as_tensorflow_names_it_is_recognised(tmp_path):
    for name in CHECKPOINT:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(WeightsError, match="TensorFlow checkpoint"):
        load(tmp_path / "model.ckpt-10")


def test_weights_dumped_beside_a_checkpoint_are_taken(model_dir):
    for name in CHECKPOINT:
        if name != "options.json":
            (model_dir / name).write_bytes(b"")
    assert load(model_dir).options.n_outputs == 3


def test_weights_are_read_whatever_they_are_called(model_dir):
    (model_dir / "weights.hdf5").rename(model_dir / "elmo.bin")
    assert load(model_dir / "elmo.bin").options.n_outputs == 3
