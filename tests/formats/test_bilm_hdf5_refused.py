"""Bad weights files are refused with their name: damaged, with links to other files, endless, or with other options."""

import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from helpers.weights import W_0, change_options, same_layers
from spacy_elmo import ElmoError, OptionsError, WeightsError
from spacy_elmo.bilm import BiLMOptions
from spacy_elmo.formats import arrays, bilm_hdf5, hdf5_file, load

# --- bad weights ---


def refused(path, match=None, error=WeightsError, **arguments):
    """Check that loading raises `error` and names the weights file."""
    with pytest.raises(error, match=match) as caught:
        load(path, **arguments)
    assert "weights.hdf5" in str(caught.value) or str(path) in str(caught.value)


SIZE = 140344


@pytest.mark.parametrize(
    "size", [1, 7, 8, 50, 96, 511, 512, 2048, 10_000, SIZE // 2, SIZE - 4096, SIZE - 100, SIZE - 1]
)
def test_a_truncated_file_is_refused(model_dir, size):
    weights = model_dir / "weights.hdf5"
    assert weights.stat().st_size == SIZE
    os.truncate(weights, size)
    refused(model_dir)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not hdf5", b'{"json": 1}', bytes(5000), b"\x89HDF\r\n\x1a\n"])
def test_a_file_of_another_format_is_refused(model_dir, content):
    (model_dir / "weights.hdf5").write_bytes(content)
    refused(model_dir, "HDF5")


@pytest.mark.parametrize("block", range(40))
def test_damaged_structure_is_read_right_or_refused(data, model_dir, stored, block):
    """Random bytes of the file's structure are overwritten. No other exception may be raised."""
    weights = model_dir / "weights.hdf5"
    rng = np.random.default_rng(block)
    content = bytearray(weights.read_bytes())
    for position in rng.integers(0, len(content) if block % 2 else 12_000, size=30):
        content[position] = rng.integers(0, 256)
    weights.write_bytes(content)
    names, message = None, ""
    try:
        names = [name for name, _ in arrays(load(model_dir))]
    except ElmoError as error:
        message = str(error)
    assert names == sorted(stored(data / "tiny_2l_skip" / "weights.hdf5")) or "weights.hdf5" in message


ALL_NAMES = ("char_embed", "CNN/W_cnn_2", "CNN/b_cnn_0", "CNN_high_0/b_transform", "CNN_proj/W_proj", W_0)
ALL_NAMES += ("RNN_1/RNN/MultiRNNCell/Cell0/LSTMCell/B", "RNN_1/RNN/MultiRNNCell/Cell1/LSTMCell/W_P_0")


@pytest.mark.parametrize("name", ALL_NAMES)
def test_a_missing_array_is_refused(model_dir, name):
    with h5py.File(model_dir / "weights.hdf5", "r+") as file:
        del file[name]
    refused(model_dir, name)


def test_a_group_in_place_of_an_array_is_refused(model_dir):
    with h5py.File(model_dir / "weights.hdf5", "r+") as file:
        del file[W_0]
        file.create_group(W_0)
    refused(model_dir, W_0)


def test_an_array_in_place_of_a_group_is_refused(model_dir):
    with h5py.File(model_dir / "weights.hdf5", "r+") as file:
        del file["CNN"]
        file["CNN"] = np.zeros(3, np.float32)
    refused(model_dir, "CNN")


SURPLUS = ("RNN_0/RNN/MultiRNNCell/Cell2/LSTMCell/W_0", "CNN_high_2/W_carry", "CNN/W_cnn_3", "CNN_proj/extra")


@pytest.mark.parametrize("name", SURPLUS)
def test_an_array_the_options_leave_no_place_for_is_refused(model_dir, name):
    with h5py.File(model_dir / "weights.hdf5", "r+") as file:
        file[name] = np.zeros((2, 2), np.float32)
    refused(model_dir, name)


def test_fewer_layers_in_the_options_than_in_the_file_are_refused(model_dir):
    change_options(model_dir, "lstm", n_layers=1)
    refused(model_dir, "Cell1")


def replace(directory, name, make):
    with h5py.File(directory / "weights.hdf5", "r+") as file:
        array = file[name][...]
        del file[name]
        file[name] = make(array)


@pytest.mark.parametrize("name", ALL_NAMES)
@pytest.mark.parametrize(
    "reshape",
    [
        lambda array: array[:-1],
        lambda array: array[None],
        lambda array: array.T[..., :1],
        lambda array: array.ravel()[0],
    ],
    ids=["row less", "axis more", "column", "scalar"],
)
def test_a_wrong_shape_is_refused(model_dir, name, reshape):
    replace(model_dir, name, reshape)
    refused(model_dir, "shape")


def test_262_rows_of_characters_are_refused(model_dir):
    """The file has 261 rows. The row for "no token" is ours."""
    replace(model_dir, "char_embed", lambda array: np.concatenate([array[:1], array]))
    refused(model_dir, r"char_embed has shape \[262, 16\].*\[261, 16\]")


@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.uint64, np.complex64, bool, "S4", [("x", np.float32)]])
def test_another_type_than_floating_point_is_refused(model_dir, dtype):
    replace(model_dir, "CNN/b_cnn_0", lambda array: np.zeros(array.shape, dtype))
    refused(model_dir, "CNN/b_cnn_0 holds")


def test_an_array_without_values_is_refused(model_dir):
    replace(model_dir, "CNN/b_cnn_0", lambda array: h5py.Empty(np.float32))
    refused(model_dir, "CNN/b_cnn_0")


def test_a_type_numpy_does_not_have_is_refused(model_dir):
    with h5py.File(model_dir / "weights.hdf5", "r+") as file:
        del file["CNN/b_cnn_0"]
        h5py.h5d.create(file["CNN"].id, b"b_cnn_0", h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((4,)))
    refused(model_dir, "CNN/b_cnn_0")


@pytest.mark.parametrize("name", ALL_NAMES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(model_dir, name, value):
    with h5py.File(model_dir / "weights.hdf5", "r+") as file:
        array = file[name][...]
        array.reshape(-1)[-1] = value
        file[name][...] = array
    refused(model_dir, f"{name} contains NaN or infinite")


@pytest.mark.filterwarnings("error")
def test_a_float64_value_beyond_float32_is_refused_without_a_warning(model_dir):
    replace(model_dir, "CNN/b_cnn_0", lambda array: np.full(array.shape, 1e300))
    refused(model_dir, "CNN/b_cnn_0 contains NaN or infinite")


# --- files that point elsewhere ---


@pytest.fixture
def elsewhere(data, tmp_path):
    """Write weights in another file, which a hostile file points to."""
    path = tmp_path / "elsewhere.hdf5"
    path.write_bytes((data / "tiny_2l_skip" / "weights.hdf5").read_bytes())
    return path


@pytest.mark.parametrize("name", ["char_embed", "CNN", W_0, "RNN_0"])
@pytest.mark.parametrize("kind", ["external", "soft"])
def test_a_link_is_refused(model_dir, elsewhere, name, kind):
    with h5py.File(model_dir / "weights.hdf5", "r+") as file:
        file.move(name, "moved")
        file[name] = h5py.ExternalLink(str(elsewhere), name) if kind == "external" else h5py.SoftLink("/moved")
    refused(model_dir, "link to elsewhere")


def test_a_link_that_leads_nowhere_or_to_itself_is_refused(model_dir):
    with h5py.File(model_dir / "weights.hdf5", "r+") as file:
        del file["char_embed"]
        file["char_embed"] = h5py.SoftLink("/char_embed")
    refused(model_dir, "link to elsewhere")


def test_a_virtual_array_is_refused(model_dir, elsewhere):
    layout = h5py.VirtualLayout((261, 16), np.float32)
    layout[:] = h5py.VirtualSource(str(elsewhere), "char_embed", (261, 16))
    with h5py.File(model_dir / "weights.hdf5", "r+") as file:
        del file["char_embed"]
        file.create_virtual_dataset("char_embed", layout)
    refused(model_dir, "stored in another file")


def test_an_array_in_external_storage_is_refused(model_dir, elsewhere):
    with h5py.File(model_dir / "weights.hdf5", "r+") as file:
        del file["char_embed"]
        file.create_dataset("char_embed", (261, 16), np.float32, external=[(str(elsewhere), 0, 261 * 16 * 4)])
    refused(model_dir, "stored in another file")


# --- groups without end ---


def deep_groups(file, parent, depth):
    group = file.require_group(parent)
    for _ in range(depth):
        group = group.create_group("a")


@pytest.mark.parametrize("parent", ["CNN", "RNN_0/RNN"])
def test_groups_deeper_than_any_are_refused(model_dir, parent):
    """HDF5 looks up each name from the top. Some thousand groups kept the reader busy for minutes."""
    with h5py.File(model_dir / "weights.hdf5", "a") as file:
        deep_groups(file, parent, 4000)
    refused(model_dir, "groups are nested more than 16 deep")


def test_groups_that_are_not_ours_are_not_looked_into(model_dir):
    before = load(model_dir)
    with h5py.File(model_dir / "weights.hdf5", "a") as file:
        deep_groups(file, "optimizer", 4000)
    same_layers(load(model_dir), before)


def test_a_group_that_holds_itself_is_refused(model_dir):
    with h5py.File(model_dir / "weights.hdf5", "a") as file:
        file["CNN/again"] = file["CNN"]
    refused(model_dir, "groups are nested more than 16 deep")


@pytest.mark.parametrize("parent", ["CNN", "/"])
def test_more_links_than_any_model_has_are_refused(model_dir, monkeypatch, parent):
    monkeypatch.setattr(hdf5_file, "_MOST_LINKS", 100)
    with h5py.File(model_dir / "weights.hdf5", "a") as file:
        for number in range(100):
            file[parent][f"again_{number}"] = file["CNN/b_cnn_0"]
    refused(model_dir, "more than 100 links")


@pytest.mark.parametrize("name", [b"CNN_\n\x1b[2J", b"CNN_" + b"x" * 10_000])
def test_an_array_with_an_odd_name_is_refused_in_one_short_line(model_dir, name):
    with h5py.File(model_dir / "weights.hdf5", "a") as file:
        file.create_dataset(name, data=1.0)
    with pytest.raises(WeightsError, match="the options have no place for CNN_") as error:
        load(model_dir)
    assert str(error.value).isprintable()
    assert len(str(error.value).removeprefix(str(model_dir))) < 400


# --- options that do not fit ---


def test_options_of_another_model_are_refused(data, model_dir, shared):
    for folder in ("tiny_1l_noskip", "tiny_noproj", "bilm-tf-trained"):
        refused(model_dir, "do both belong together", options=shared / "references" / folder / "options.json")


HUGE, DEEP, LONG = 2**24, 1000, 2**40  # the largest values that options may have


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("lstm", {"dim": HUGE, "projection_dim": HUGE}),
        ("lstm", {"dim": HUGE}),
        ("lstm", {"n_layers": DEEP}),
        ("char_cnn", {"embedding": {"dim": HUGE}}),
        ("char_cnn", {"n_highway": DEEP}),
        ("char_cnn", {"filters": [[1, HUGE]]}),
        ("char_cnn", {"filters": [[HUGE, 4]], "max_characters_per_token": LONG}),
    ],
    ids=lambda part: part if isinstance(part, str) else "+".join(part),
)
def test_huge_sizes_in_the_options_are_refused_before_memory_is_taken(model_dir, section, changes):
    change_options(model_dir, section, **changes)
    refused(model_dir, "do both belong together")


def test_a_huge_limit_of_characters_takes_no_memory(model_dir):
    before = load(model_dir)
    change_options(model_dir, "char_cnn", max_characters_per_token=LONG)
    same_layers(load(model_dir), before)


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_a_small_file_that_declares_huge_arrays_is_refused(tmp_path):
    """A file of 8 kB declares 20 GB of zeros that are not stored."""
    size = 36_000
    options = {
        "lstm": {"dim": 4, "projection_dim": 4, "n_layers": 1},
        "char_cnn": {"filters": [[1, size]], "n_highway": 1, "embedding": {"dim": 1}, "activation": "relu"},
    }
    (tmp_path / "options.json").write_text(json.dumps(options))
    with h5py.File(tmp_path / "weights.hdf5", "w") as file:
        for entry in bilm_hdf5.entries(BiLMOptions.from_dict(options)):
            file.create_dataset(entry.name, entry.shape, np.float32)
    assert (tmp_path / "weights.hdf5").stat().st_size < 20_000
    code = (
        "import resource, sys\n"
        "from spacy_elmo.formats import load\n"
        "from spacy_elmo import WeightsError\n"
        "resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))\n"
        "try:\n    load(sys.argv[1])\nexcept WeightsError:\n    sys.exit(3)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"{}", b'{"lstm": {}}'])
def test_bad_options_are_refused_with_their_name(model_dir, content):
    (model_dir / "options.json").write_bytes(content)
    with pytest.raises(OptionsError, match=r"options\.json"):
        load(model_dir)
