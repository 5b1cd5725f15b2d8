"""Weights files: what is read, what is written, and that bad ones are refused with their name."""

import io
import json
import os
import shutil
import subprocess
import sys
import threading

import h5py
import numpy as np
import pytest

from spacy_elmo import ElmoError, OptionsError, WeightsError
from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.formats import arrays, bilm_hdf5, digest, hdf5_file, load, open_model, write

FOLDERS = ("tiny_1l_noskip", "tiny_2l_clip", "tiny_2l_skip", "tiny_noproj", "bilm-tf-trained")
W_0 = "RNN_0/RNN/MultiRNNCell/Cell1/LSTMCell/W_0"
ENCODED = [["The", "same", "vectors", "."], ["naïve", "😀"]]


def same_layers(one, other):
    both = (bilm.requires_grad_(False).encode(ENCODED) for bilm in (one, other))  # bits differ while one may train
    for mine, theirs in zip(*both, strict=True):
        np.testing.assert_array_equal(mine, theirs)


# --- what is read and written ---


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_array_of_a_file_is_read_bit_for_bit(shared, stored, folder):
    source = stored(shared / "references" / folder / "weights.hdf5")
    ours = dict(arrays(load(shared / "references" / folder)))
    assert ours.keys() == source.keys()
    for name, array in ours.items():
        assert array.shape == source[name].shape
        assert array.tobytes() == source[name].tobytes(), name


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_array_is_written_as_it_was_read(shared, stored, tmp_path, folder):
    source = shared / "references" / folder
    write(load(source), tmp_path)
    expected, written = stored(source / "weights.hdf5"), stored(tmp_path / "weights.hdf5")
    assert written.keys() == expected.keys()
    for name, array in written.items():
        assert array.dtype == np.float32
        assert array.tobytes() == expected[name].tobytes(), name


@pytest.mark.parametrize("dtype", ["float32", "float16", "lossless"])
@pytest.mark.parametrize("folder", ["tiny_2l_skip", "tiny_2l_clip"])
def test_writing_what_was_written_gives_the_same_bytes(data, tmp_path, folder, dtype):
    write(load(data / folder), tmp_path / "first", dtype)
    write(load(tmp_path / "first"), tmp_path / "second", dtype)
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert names == ["options.json", "weights.hdf5"]
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_written_options_say_the_same(data, tmp_path):
    write(load(data / "tiny_2l_clip"), tmp_path)
    ours, theirs = (json.loads((path / "options.json").read_bytes()) for path in (tmp_path, data / "tiny_2l_clip"))
    assert ours == {**theirs, "bidirectional": True}


def convert(path, dtype):
    """Store all arrays of a weights file with another type."""
    with h5py.File(path, "r+") as file:
        names = []
        file.visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None)
        for name in names:
            array = file[name][...]
            del file[name]
            file[name] = array.astype(dtype)


def test_float64_is_read(model_dir):
    before = load(model_dir)
    convert(model_dir / "weights.hdf5", np.float64)
    same_layers(load(model_dir), before)


def test_float16_is_read(model_dir, stored):
    convert(model_dir / "weights.hdf5", np.float16)
    halves = stored(model_dir / "weights.hdf5")
    for name, array in arrays(load(model_dir)):
        np.testing.assert_array_equal(array, halves[name].astype(np.float32))


def test_compressed_and_chunked_arrays_are_read(model_dir):
    before = load(model_dir)
    with h5py.File(model_dir / "weights.hdf5", "r+") as file:
        array = file[W_0][...]
        del file[W_0]
        file.create_dataset(W_0, data=array, chunks=(8, 8), compression="gzip", shuffle=True, fletcher32=True)
    same_layers(load(model_dir), before)


def test_writing_float16_halves_the_values_and_keeps_them_near(data, stored, tmp_path):
    bilm = load(data / "tiny_2l_skip")
    write(bilm, tmp_path, "float16")
    written = stored(tmp_path / "weights.hdf5")
    for name, array in arrays(bilm):
        assert written[name].dtype == np.float16
        assert 2 * written[name].nbytes == array.nbytes
        np.testing.assert_array_equal(written[name], array.astype(np.float16))


def test_lossless_takes_float16_only_where_that_keeps_every_value(data, stored, tmp_path):
    bilm = load(data / "tiny_2l_skip")
    write(bilm, tmp_path / "full", "lossless")
    write(bilm, tmp_path / "half", "float16")
    write(load(tmp_path / "half"), tmp_path / "again", "lossless")
    assert {array.dtype for array in stored(tmp_path / "full" / "weights.hdf5").values()} == {np.dtype(np.float32)}
    assert {array.dtype for array in stored(tmp_path / "again" / "weights.hdf5").values()} == {np.dtype(np.float16)}
    same_layers(load(tmp_path / "full"), bilm)
    same_layers(load(tmp_path / "again"), load(tmp_path / "half"))


def test_bytes_hold_the_same_model(data):
    bilm = load(data / "tiny_2l_skip")
    same_layers(bilm_hdf5.read(io.BytesIO(bilm_hdf5.to_bytes(bilm)), bilm.options), bilm)


def test_a_loaded_model_is_in_evaluation_mode(data):
    assert not load(data / "tiny_2l_skip").training


def test_card_and_vocabulary_are_written_and_read(data, tmp_path):
    lstm = BiLMOptions.from_file(data / "tiny_2l_skip" / "options.json").lstm
    words = ["<S>", "</S>", "<UNK>", "Wörter", "😀"]
    bilm = BiLM(BiLMOptions(lstm=lstm, char_cnn=None), words, {"name": "Ein Modell", "license": "MIT"})
    write(bilm, tmp_path)
    again = load(tmp_path)
    assert again.vocabulary == words
    assert again.card == bilm.card
    same_layers(again, bilm)


def test_a_model_without_card_does_not_inherit_that_of_the_one_it_replaces(data, tmp_path):
    options = BiLMOptions.from_file(data / "tiny_2l_skip" / "options.json")
    write(BiLM(options, card={"license": "of the first"}), tmp_path)
    write(BiLM(options), tmp_path)
    assert load(tmp_path).card == {}


@pytest.fixture
def one_layer(data, tmp_path):
    """A random one-layer model on disk."""
    options = json.loads((data / "tiny_2l_skip" / "options.json").read_bytes())
    options["lstm"]["n_layers"] = 1
    write(BiLM(BiLMOptions.from_dict(options)), tmp_path / "one")
    return tmp_path / "one"


def test_one_layer_is_read_under_the_names_bilm_tf_dumps_it(one_layer):
    before = load(one_layer)
    with h5py.File(one_layer / "weights.hdf5", "r+") as file:
        for direction in (0, 1):
            rnn = file[f"RNN_{direction}/RNN"]
            rnn.move("MultiRNNCell/Cell0/LSTMCell", "LSTMCell")
            del rnn["MultiRNNCell"]
    same_layers(load(one_layer), before)


def test_datasets_of_other_names_are_left_alone(model_dir):
    before = load(model_dir)
    with h5py.File(model_dir / "weights.hdf5", "r+") as file:
        file["softmax/W"] = np.zeros((3, 4), np.float32)
    same_layers(load(model_dir), before)


# --- digest ---


def test_the_digest_does_not_depend_on_the_container(data, model_dir, tmp_path):
    write(load(data / "tiny_2l_skip"), tmp_path / "half", "float16")
    half = load(tmp_path / "half")
    write(half, tmp_path / "full", "float32")
    convert(tmp_path / "full" / "weights.hdf5", np.float64)
    assert digest(load(tmp_path / "full")) == digest(half)
    write(load(model_dir), tmp_path / "written")
    assert digest(load(tmp_path / "written")) == digest(load(data / "tiny_2l_skip"))
    assert digest(half) != digest(load(data / "tiny_2l_skip"))


def change_options(directory, section, **changes):
    path = directory / "options.json"
    options = json.loads(path.read_bytes())
    (options[section] if section else options).update(changes)
    path.write_text(json.dumps(options))


def test_the_digest_does_not_depend_on_what_changes_no_layer(model_dir):
    before = digest(load(model_dir))
    change_options(model_dir, None, dropout=0.1, batch_size=128)
    change_options(model_dir, "char_cnn", n_characters=261)
    assert digest(load(model_dir)) == before


def test_the_digest_does_not_depend_on_how_a_number_is_written(model_dir):
    before = digest(load(model_dir))
    change_options(model_dir, "lstm", cell_clip=3.0, proj_clip=3.0)
    assert digest(load(model_dir)) == before


@pytest.mark.parametrize("name", ["char_embed", "CNN/b_cnn_1", "CNN_high_1/W_carry", W_0])
def test_the_digest_changes_with_one_value(model_dir, name):
    before = digest(load(model_dir))
    with h5py.File(model_dir / "weights.hdf5", "r+") as file:
        array = file[name][...]
        array.reshape(-1)[3] = np.nextafter(array.reshape(-1)[3], np.float32(100))
        file[name][...] = array
    assert digest(load(model_dir)) != before


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("lstm", {"use_skip_connections": False}),
        ("lstm", {"cell_clip": 2}),
        ("char_cnn", {"activation": "tanh"}),
        ("char_cnn", {"max_characters_per_token": 49}),
    ],
)
def test_the_digest_changes_with_the_architecture(model_dir, section, changes):
    before = digest(load(model_dir))
    change_options(model_dir, section, **changes)
    assert digest(load(model_dir)) != before


# --- bad weights ---


def refused(path, match=None, error=WeightsError, **arguments):
    """Loading must raise `error`, naming the weights file."""
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
    """Bytes of the file's own structure are overwritten at random; no other exception may come out."""
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
    """The file has 261: the row of "no token" is ours."""
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
    refused(model_dir, f"{name} holds NaN or infinite")


@pytest.mark.filterwarnings("error")
def test_a_float64_value_beyond_float32_is_refused_without_a_warning(model_dir):
    replace(model_dir, "CNN/b_cnn_0", lambda array: np.full(array.shape, 1e300))
    refused(model_dir, "CNN/b_cnn_0 holds NaN or infinite")


# --- files that point elsewhere ---


@pytest.fixture
def elsewhere(data, tmp_path):
    """Weights another file has, which a hostile one wants us to read."""
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
    """HDF5 looks up each name from the top: some thousand groups kept the reader busy for minutes."""
    with h5py.File(model_dir / "weights.hdf5", "a") as file:
        deep_groups(file, parent, 4000)
    refused(model_dir, "groups lie more than 16 deep within each other")


def test_groups_that_are_not_ours_are_not_looked_into(model_dir):
    before = load(model_dir)
    with h5py.File(model_dir / "weights.hdf5", "a") as file:
        deep_groups(file, "optimizer", 4000)
    same_layers(load(model_dir), before)


def test_a_group_that_holds_itself_is_refused(model_dir):
    with h5py.File(model_dir / "weights.hdf5", "a") as file:
        file["CNN/again"] = file["CNN"]
    refused(model_dir, "groups lie more than 16 deep within each other")


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
    with pytest.raises(WeightsError, match="the options leave no place for CNN_") as error:
        load(model_dir)
    assert str(error.value).isprintable()
    assert len(str(error.value).removeprefix(str(model_dir))) < 400


# --- options that do not fit ---


def test_options_of_another_model_are_refused(data, model_dir, shared):
    for folder in ("tiny_1l_noskip", "tiny_noproj", "bilm-tf-trained"):
        refused(model_dir, "do both belong together", options=shared / "references" / folder / "options.json")


HUGE, DEEP, LONG = 2**24, 1000, 2**40  # the largest that options may say


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


def test_a_small_file_that_declares_huge_arrays_is_refused(tmp_path):
    """8 kB of file, 20 GB of zeros that are nowhere stored."""
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


# --- failed writes ---


@pytest.mark.parametrize("replaced", [False, True])
def test_a_failed_write_leaves_no_half_file_and_keeps_the_old_one(monkeypatch, data, tmp_path, replaced):
    if replaced:
        write(load(data / "tiny_2l_clip"), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def break_midway(bilm):
        for number, item in enumerate(arrays(bilm)):
            if number == 5:
                raise OSError("no space left on device")
            yield item

    monkeypatch.setattr(bilm_hdf5, "arrays", break_midway)
    with pytest.raises(OSError, match="no space left"):
        write(load(data / "tiny_2l_skip"), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_write_that_cannot_take_its_place_leaves_nothing_behind(data, tmp_path):
    (tmp_path / "weights.hdf5").mkdir()
    with pytest.raises(OSError, match=r"weights\.hdf5"):
        write(load(data / "tiny_2l_skip"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.hdf5"]


def test_a_model_can_be_written_over_the_file_it_was_loaded_from(model_dir):
    bilm = load(model_dir)
    write(bilm, model_dir)
    same_layers(load(model_dir), bilm)


# --- options and weights that belong together ---


@pytest.fixture
def two_models(make_bilm, tmp_path):
    """Two models whose arrays have the same shapes, and whose options differ all the same."""
    for name, clip in (("one", 3.0), ("other", 0.1)):
        write(make_bilm(cell_clip=clip), tmp_path / name)
    return tmp_path / "one", tmp_path / "other"


def test_options_of_another_model_are_refused_though_all_shapes_fit(two_models):
    one, other = two_models
    shutil.copyfile(other / "options.json", one / "options.json")
    with pytest.raises(WeightsError, match=r"one/weights\.hdf5: written with other options.*open_model"):
        load(one)


def test_options_that_the_user_names_are_taken(two_models):
    one, other = two_models
    assert load(one, other / "options.json").options == load(other).options


def test_a_file_that_does_not_say_which_options_it_was_written_with_is_read_as_ever(two_models):
    one, other = two_models
    with h5py.File(one / "weights.hdf5", "r+") as file:
        del file.attrs[bilm_hdf5.TIED_TO]
    shutil.copyfile(other / "options.json", one / "options.json")
    assert load(one).options == load(other).options


@pytest.mark.parametrize("value", [7, b"bytes", [1.5, 2.5], "0" * 64, h5py.Empty("f")])
def test_an_odd_statement_of_the_options_is_refused(two_models, value):
    with h5py.File(two_models[0] / "weights.hdf5", "r+") as file:
        file.attrs[bilm_hdf5.TIED_TO] = value
    with pytest.raises(WeightsError, match="written with other options"):
        load(two_models[0])


def test_what_options_say_of_training_is_not_part_of_it(two_models):
    path = two_models[0] / "options.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "batch_size": 77, "dropout": 0.5}, indent=4))
    assert load(two_models[0]).options.training["batch_size"] == 77


def test_words_of_another_model_are_refused(data, tmp_path):
    lstm = BiLMOptions.from_file(data / "tiny_2l_skip" / "options.json").lstm
    for name in ("one", "other"):
        write(BiLM(BiLMOptions(lstm=lstm, char_cnn=None), ["<S>", "</S>", "<UNK>", f" {name}"]), tmp_path / name)
    assert load(tmp_path / "one").vocabulary[-1] == "one"
    shutil.copyfile(tmp_path / "other/vocab.txt", tmp_path / "one/vocab.txt")
    with pytest.raises(WeightsError, match=r"another vocab\.txt"):
        load(tmp_path / "one")


def test_a_model_is_replaced_with_all_that_belongs_to_it(whole_model, data):
    (whole_model / "notes.txt").write_text("mine")
    write(load(data / "tiny_2l_skip"), whole_model)
    assert sorted(path.name for path in whole_model.iterdir()) == ["notes.txt", "options.json", "weights.hdf5"]


def test_a_model_is_written_with_what_predicts_words(whole_model, tmp_path):
    model = open_model(whole_model)
    write(model.bilm(), tmp_path / "copy", "float32", model.vocabulary, model.softmax())
    for path in whole_model.iterdir():
        assert (tmp_path / "copy" / path.name).read_bytes() == path.read_bytes()


def test_eight_threads_write_one_model_and_readers_see_one_of_them(make_bilm, tmp_path):
    models = [make_bilm(cell_clip=clip, seed=seed) for seed, clip in enumerate((3.0, 0.1))]
    expected, errors = {digest(bilm) for bilm in models}, []
    write(models[0], tmp_path / "model")

    def write_and_read(number):
        try:
            for _ in range(5):
                write(models[number % 2], tmp_path / "model")
                assert digest(load(tmp_path / "model")) in expected
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write_and_read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["options.json", "weights.hdf5"]


def test_a_half_replaced_model_is_read_as_the_new_one(two_models):
    one, other = two_models
    shutil.copytree(other, one / ".incoming")
    shutil.copyfile(other / "options.json", one / "options.json")
    assert load(one).options == load(other).options
    assert not (one / ".incoming").exists()
    shutil.copytree(other, one / ".incoming")
    assert open_model(one / "weights.hdf5").options == load(other).options
