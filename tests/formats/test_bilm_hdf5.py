"""Weights files: what is read and what is written. test_bilm_hdf5_refused.py tests what is refused."""

import io
import json
import shutil
import threading

import h5py
import numpy as np
import pytest

from helpers.weights import W_0, change_options, same_layers
from spacy_elmo import WeightsError
from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.formats import arrays, bilm_hdf5, digest, load, open_model, write

FOLDERS = ("tiny_1l_noskip", "tiny_2l_clip", "tiny_2l_skip", "tiny_noproj", "bilm-tf-trained")
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
    """Write a random one-layer model."""
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
    """Write two models whose arrays have the same shapes but whose options differ."""
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


@pytest.mark.parametrize("value", [7, np.bytes_(b"bytes"), np.array([b"ab"]), [1.5, 2.5], h5py.Empty("f")])
def test_an_odd_statement_of_the_options_is_refused(two_models, value):
    with h5py.File(two_models[0] / "weights.hdf5", "r+") as file:
        file.attrs[bilm_hdf5.TIED_TO] = value
    with pytest.raises(WeightsError, match="written with other options"):
        load(two_models[0])


def test_a_statement_of_variable_length_is_never_read(two_models):
    """It is in a heap, where damage can make libhdf5 loop for ever."""
    with h5py.File(two_models[0] / "weights.hdf5", "r+") as file:
        file.attrs[bilm_hdf5.TIED_TO] = "0" * 64
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
