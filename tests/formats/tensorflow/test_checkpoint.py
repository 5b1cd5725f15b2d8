"""bilm-tf's checkpoints: the numbers that bilm-tf dumps and computes, in any layout, and clear errors for all else."""

import json
import shutil
import zipfile

import h5py
import numpy as np
import pytest
import spacy

from spacy_elmo import ElmoError, OptionsError, WeightsError
from spacy_elmo.bilm import CarriedState
from spacy_elmo.formats import bilm_hdf5, open_model
from spacy_elmo.formats.tensorflow.bundle import Bundle
from spacy_elmo.pretraining.evaluation import Evaluator
from spacy_elmo.tools.convert import convert
from spacy_elmo.tools.substitutes import substitutes

DUMPED = ("trained_chars", "trained_words")
OF_TINY = ("tiny_2l_skip", "two_shards")
MADE = ("one_layer_tanh", "three_layers_proj_clip", "no_dropout", "shared_softmax", "cell_clip_no_skip")
WITH_GRAPH = ("tiny_2l_skip", "one_layer_tanh", "three_layers_proj_clip", "no_dropout")
TEXT = [["the", "fox", "runs", "."], ["naïve", "dog"]]


def dumped(model, path):
    """Return the digest of an HDF5 file of weights with a model's options."""
    words = model.vocabulary if model.options.char_cnn is None else None
    return bilm_hdf5.digest(bilm_hdf5.read(path, model.options, words))


# --- the same numbers ---


@pytest.mark.parametrize("name", DUMPED)
def test_layers_are_those_of_bilm_tf(tensorflow_models, sentences, name):
    layers = open_model(tensorflow_models / name).bilm().encode(sentences)
    with np.load(tensorflow_models / name / "expected" / "bilm_tf.npz") as expected:
        assert len(expected.files) == len(sentences)
        for number, ours in enumerate(layers):
            np.testing.assert_allclose(ours, expected[f"zs_nobe_{number:02d}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [*OF_TINY, "hub_tiny_2l_skip"])
def test_layers_are_those_of_the_same_weights_in_bilm_tf(tensorflow_models, data, sentences, name):
    layers = open_model(tensorflow_models / name).bilm().encode(sentences, keep_boundaries=True)
    with np.load(data / "tiny_2l_skip" / "expected.npz") as expected:
        for number, ours in enumerate(layers):
            np.testing.assert_allclose(ours, expected[f"bilm_tf/zs_{number:02d}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["tiny_2l_skip", "hub_tiny_2l_skip"])
def test_carried_state_is_that_of_bilm_tf(tensorflow_models, data, sentences, name):
    bilm, state = open_model(tensorflow_models / name).bilm(), CarriedState()
    with np.load(data / "tiny_2l_skip" / "expected.npz") as expected:
        for number, rows in enumerate((slice(0, 12), slice(12, 24), slice(24, 29), slice(0, 14))):
            batch = bilm.encode(sentences[rows], keep_boundaries=True, state=state)
            for ours, theirs in zip(batch, expected[f"bilm_tf/st{number}"], strict=True):
                np.testing.assert_allclose(ours, theirs[:, : ours.shape[1]], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [*DUMPED, *MADE])
def test_the_digest_is_that_of_what_bilm_tf_dumps(tensorflow_models, name):
    (file,) = (tensorflow_models / name).rglob("dumped*.hdf5")
    (index,) = (tensorflow_models / name).glob("*.index")
    model = open_model(index)  # otherwise an .hdf5 in the folder would come first
    assert model.digest == dumped(model, file)


@pytest.mark.parametrize("name", [*OF_TINY, "hub_tiny_2l_skip"])
def test_the_digest_is_that_of_the_same_weights(tensorflow_models, data, name):
    assert open_model(tensorflow_models / name).digest == open_model(data / "tiny_2l_skip").digest


@pytest.mark.parametrize("name", [*DUMPED, *OF_TINY])
def test_the_softmax_is_the_same_to_the_bit(tensorflow_models, name):
    softmax = open_model(tensorflow_models / name).softmax()
    with h5py.File(tensorflow_models / name / "expected" / "softmax.hdf5") as file:
        assert softmax.weight.numpy().tobytes() == file["softmax/W"][...].tobytes()
        assert softmax.bias.numpy().tobytes() == file["softmax/b"][...].tobytes()


def test_a_softmax_that_is_shared_with_the_embedding_is_read(tensorflow_models):
    model = open_model(tensorflow_models / "shared_softmax" / "model.ckpt-6")
    np.testing.assert_array_equal(model.softmax().weight, model.bilm().embedder.weight[1:])
    assert model.softmax().bias.shape == (13,)


def test_models_are_frozen_and_in_evaluation_mode(tensorflow_models):
    model = open_model(tensorflow_models / "trained_chars")
    for part in (model.bilm(), model.softmax()):
        assert not part.training
        assert not any(parameter.requires_grad for parameter in part.parameters())


# --- converted, evaluated ---


@pytest.mark.parametrize("name", ["trained_words", "two_shards"])
def test_a_converted_checkpoint_has_the_same_digest_softmax_and_words(tensorflow_models, tmp_path, name):
    source = open_model(tensorflow_models / name)
    report = convert(str(tensorflow_models / name), tmp_path / "out")
    target = open_model(tmp_path / "out")
    assert report["digest"] == source.digest == target.digest
    assert target.vocabulary == source.vocabulary
    assert target.softmax().weight.numpy().tobytes() == source.softmax().weight.numpy().tobytes()


@pytest.mark.parametrize("name", ["tiny_2l_skip", "trained_chars", "trained_words"])
def test_a_checkpoint_predicts_words_as_the_converted_model_does(tensorflow_models, tmp_path, name):
    convert(str(tensorflow_models / name), tmp_path / "out")
    evaluators = [Evaluator.load(path) for path in (tensorflow_models / name, tmp_path / "out")]
    one, other = (evaluator.perplexity(TEXT).to_dict() for evaluator in evaluators)
    assert one == other
    assert one["tokens"] == 8
    words, expected = (list(substitutes(evaluator, TEXT, top=3)) for evaluator in evaluators)
    assert words == expected


def test_a_checkpoint_without_vocabulary_is_converted_without_its_softmax(copy_of, tmp_path):
    """bilm-tf does not copy the vocabulary to the folder of the checkpoint."""
    folder = copy_of("trained_chars")
    (folder / "vocab.txt").unlink()
    with pytest.raises(WeightsError, match=r"has a softmax, but no vocabulary; put the vocab\.txt"):
        Evaluator.load(folder)
    report = convert(str(folder), tmp_path / "out")
    assert report["files"].keys() == {"options.json", "weights.hdf5"}


def test_a_vocabulary_of_another_length_does_not_fit_the_softmax(copy_of):
    folder = copy_of("trained_chars")
    (folder / "vocab.txt").write_text("<S>\n</S>\n<UNK>\n")
    with pytest.raises(WeightsError, match=r"lm/softmax/W has shape \[18, 8\], but the vocabulary expects \[3, 8\]"):
        open_model(folder).softmax()


# --- found ---


@pytest.mark.parametrize(
    "file", ["checkpoint", "model.ckpt-60", *(f"model.ckpt-60.{end}" for end in ("index", "data-00000-of-00001"))]
)
def test_any_of_its_files_names_a_checkpoint(tensorflow_models, file):
    model = open_model(tensorflow_models / "trained_chars" / file)
    assert model.format == "bilm-tf checkpoint of step 60"
    assert model.digest == open_model(tensorflow_models / "trained_chars").digest


@pytest.mark.parametrize("name", ["two_shards", "trained_words"])
def test_a_checkpoint_in_an_archive_is_read(tensorflow_models, tmp_path, name):
    shutil.make_archive(str(tmp_path / "model"), "zip", tensorflow_models / name)
    model = open_model(tmp_path / "model.zip")
    assert model.format.endswith("in a zip archive")
    assert model.digest == open_model(tensorflow_models / name).digest
    assert model.softmax().bias.numpy().any()


@pytest.fixture
def two_steps(copy_of):
    """Make a folder with steps 9 and 60 and without its `checkpoint` file. Step 9 has other weights."""
    folder = copy_of("trained_chars")
    (folder / "checkpoint").unlink()
    for path in folder.glob("model.ckpt-60.*"):
        shutil.copy(path, folder / path.name.replace("60", "9", 1))
    return folder


def test_the_highest_step_is_taken_as_a_number(two_steps):
    assert open_model(two_steps).format == "bilm-tf checkpoint of step 60"


def test_the_newest_is_what_checkpoint_says(two_steps):
    (two_steps / "checkpoint").write_text(
        'model_checkpoint_path: "/gone/model.ckpt-9"\nall_model_checkpoint_paths: "/gone/model.ckpt-60"\n'
    )
    assert open_model(two_steps).format == "bilm-tf checkpoint of step 9"
    assert open_model(two_steps / "model.ckpt-60").format == "bilm-tf checkpoint of step 60"


@pytest.mark.parametrize(
    "state",
    [
        b'model_checkpoint_path: "model.ckpt-70"\n',
        b"",
        b"\xff\xfe",
        b'model_checkpoint_path: "../../../etc/model.ckpt-70"',
        b'model_checkpoint_path: "',
    ],
    ids=["one that is gone", "empty", "no text", "elsewhere", "cut off"],
)
def test_a_checkpoint_file_that_names_none_there_is_passed_over(two_steps, state):
    (two_steps / "checkpoint").write_bytes(state)
    assert open_model(two_steps).format == "bilm-tf checkpoint of step 60"


def test_paths_of_windows_are_understood(two_steps):
    (two_steps / "checkpoint").write_text('model_checkpoint_path: "C:\\\\elmo\\\\model.ckpt-9"\n')
    assert open_model(two_steps).format == "bilm-tf checkpoint of step 9"


def test_checkpoints_of_different_models_are_an_error_that_names_them(two_steps):
    for path in two_steps.glob("model.ckpt-9.*"):
        path.rename(two_steps / path.name.replace("model", "other"))
    with pytest.raises(WeightsError, match=r"several checkpoints, model\.ckpt-60, other\.ckpt-9; name one"):
        open_model(two_steps)


def test_a_checkpoint_without_step_is_read(copy_of):
    """DeepPavlov uses such names."""
    folder = copy_of("trained_chars")
    for path in folder.glob("model.ckpt-60.*"):
        path.rename(folder / path.name.replace(".ckpt-60", ""))
    for name in (folder, folder / "model"):
        assert open_model(name).format == "bilm-tf checkpoint"
        assert open_model(name).bilm().options.n_outputs == 3


@pytest.mark.parametrize("inner", ["saves", "saves/epochs/3"])
def test_options_and_words_lie_above_the_checkpoints_of_deeppavlov(copy_of, inner):
    folder = copy_of("trained_words")
    (folder / inner).mkdir(parents=True)
    for path in folder.glob("model.ckpt-60.*"):
        path.rename(folder / inner / path.name.replace(".ckpt-60", ""))
    (folder / "checkpoint").unlink()
    assert open_model(folder / inner / "model").bilm().vocabulary == open_model(folder / inner).vocabulary


def test_an_index_of_one_step_with_the_data_of_another_is_an_error(tensorflow_models, two_steps):
    data = two_steps / "model.ckpt-9.data-00000-of-00001"
    content = np.frombuffer(data.read_bytes(), np.float32) + np.float32(1)
    data.write_bytes(content.tobytes())
    with pytest.raises(WeightsError, match=r"model\.ckpt-9\.data-00000-of-00001: the checksum of lm/.* is wrong"):
        open_model(two_steps / "model.ckpt-9").bilm()
    data.unlink()
    with pytest.raises(WeightsError, match=r"model\.ckpt-9\.data-00000-of-00001: no such file"):
        open_model(two_steps / "model.ckpt-9").bilm()


@pytest.mark.parametrize("name", ["first_format", "first_format/model.ckpt-1"])
def test_the_first_format_is_refused_by_its_name(tensorflow_models, name):
    with pytest.raises(WeightsError, match=r"model\.ckpt-1: a checkpoint in TensorFlow's first format"):
        open_model(tensorflow_models / name)


# --- options ---


@pytest.mark.parametrize("name", WITH_GRAPH)
def test_options_are_read_off_the_graph(copy_of, tensorflow_models, name):
    expected = open_model(next((tensorflow_models / name).glob("*.index")))
    folder = copy_of(name)
    (folder / "options.json").unlink()
    model = open_model(next(folder.glob("*.index")))
    assert model.options == expected.options
    assert model.digest == expected.digest


def test_options_that_are_nowhere_are_an_error_that_says_which(copy_of):
    folder = copy_of("trained_chars")
    (folder / "options.json").unlink()
    with pytest.raises(OptionsError, match=r"model\.ckpt-60\.index.*neither options\.json nor model\.ckpt-60\.meta"):
        open_model(folder).options  # noqa: B018


def test_options_that_the_user_names_win(copy_of, tmp_path):
    folder = copy_of("tiny_2l_skip")
    options = json.loads((folder / "options.json").read_bytes())
    options["lstm"]["cell_clip"] = 0.5
    (tmp_path / "other.json").write_text(json.dumps(options))
    assert open_model(folder, tmp_path / "other.json").options.lstm.cell_clip == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda options: options["lstm"].update(n_layers=1), "have no place for lm/RNN_0.*cell_1"),
        (lambda options: options["lstm"].update(n_layers=3), "no variable for RNN_0.*Cell2"),
        (
            lambda options: options["lstm"].update(dim=16),
            r"kernel has shape \[16, 48\], but the options expect \[16, 64\]",
        ),
        (lambda options: options["char_cnn"].update(n_highway=0), "have no place for lm/CNN_high_0"),
        (lambda options: options["char_cnn"]["filters"].append([4, 4]), "no variable for CNN/W_cnn_3"),
        (lambda options: options.pop("char_cnn"), r"embedding.*do both belong together"),
    ],
    ids=["fewer layers", "more layers", "other cells", "no highway", "more filters", "words"],
)
def test_options_of_another_model_are_an_error(copy_of, change, message):
    folder = copy_of("trained_chars")
    options = json.loads((folder / "options.json").read_bytes())
    change(options)
    (folder / "options.json").write_text(json.dumps(options))
    with pytest.raises(WeightsError, match=message):
        open_model(folder).bilm()


def test_words_need_a_vocabulary(copy_of):
    folder = copy_of("trained_words")
    (folder / "vocab.txt").unlink()
    with pytest.raises(WeightsError, match=r"reads words and needs a vocab\.txt"):
        open_model(folder).bilm()
    (folder / "vocab.txt").write_text("the\n")
    with pytest.raises(WeightsError, match=rf"{folder}/vocab\.txt: <S>, </S>, <UNK> missing"):
        open_model(folder).bilm()


# --- variables ---


@pytest.fixture
def rewritten(tensorflow_models, tmp_path, writer):
    """Return a function that writes tiny_2l_skip's variables with changes: `rewritten({name: array or None})` returns
    the folder."""
    source = Bundle(tensorflow_models / "tiny_2l_skip" / "model.ckpt-1250.index")
    arrays = {name: array for name, array in source.arrays(source.variables) if "Adagrad" not in name}

    def write(changes=None, rename=str):
        bundle = writer(tmp_path / "rewritten" / "model.ckpt-1")
        for name, array in {**arrays, **(changes or {})}.items():
            if array is not None:
                bundle.add(rename(name), array)
        bundle.write()
        shutil.copy(tensorflow_models / "tiny_2l_skip" / "options.json", tmp_path / "rewritten")
        return tmp_path / "rewritten"

    write.arrays = arrays
    return write


@pytest.fixture
def tiny_digest(data):
    return open_model(data / "tiny_2l_skip").digest


def test_other_variables_are_left_out(rewritten, tiny_digest):
    others = {
        "lm/CNN/W_cnn_0/Adam": np.zeros((1, 1, 16, 4), np.float32),
        "lm/CNN/W_cnn_0/Adam_1": np.zeros((1, 1, 16, 4), np.float32),
        "lm/Variable": np.zeros((4, 32), np.float32),
        "beta1_power": np.float32(0.9),
        "global_step": np.int32(7),
        "classifier/W": np.zeros((5, 2), np.float32),
    }
    assert open_model(rewritten(others)).digest == tiny_digest


@pytest.mark.parametrize("scope", ["lm/", "bilm/", "module/bilm/", "a/b/lm/"])
def test_the_scope_does_not_matter(rewritten, tiny_digest, scope):
    assert open_model(rewritten(rename=lambda name: name.replace("lm/", scope, 1))).digest == tiny_digest


def test_an_embedding_with_a_row_for_no_character_is_read(rewritten, tiny_digest):
    embedding = rewritten.arrays["lm/char_embed"]
    folder = rewritten({"lm/char_embed": np.concatenate([np.zeros_like(embedding[:1]), embedding])})
    assert open_model(folder).digest == tiny_digest


def test_an_embedding_with_a_row_too_many_is_an_error(rewritten):
    embedding = rewritten.arrays["lm/char_embed"]
    folder = rewritten({"lm/char_embed": np.concatenate([embedding, embedding[:1]])})
    with pytest.raises(WeightsError, match=r"lm/char_embed has 262 rows, one too many"):
        open_model(folder).bilm()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_an_error(rewritten, value):
    with pytest.raises(WeightsError, match=r"lm/CNN/b_cnn_0 contains NaN or infinite"):
        open_model(rewritten({"lm/CNN/b_cnn_0": np.full(4, value, np.float32)})).bilm()


@pytest.mark.parametrize("name", ["lm/char_embed", "lm/RNN_1/rnn/multi_rnn_cell/cell_0/lstm_cell/projection/kernel"])
def test_a_missing_variable_is_an_error_that_names_it(rewritten, name):
    part = "char_embed" if "char" in name else "RNN_1/RNN/MultiRNNCell/Cell0/LSTMCell/W_P_0"
    with pytest.raises(WeightsError, match=rf"model\.ckpt-1\.index: no variable for {part}"):
        open_model(rewritten({name: None})).bilm()


def test_a_model_of_one_direction_is_refused(tmp_path, writer):
    bundle = writer(tmp_path / "model.ckpt-1")
    bundle.add("lm/rnn/multi_rnn_cell/cell_0/lstm_cell/kernel", np.zeros((4, 8), np.float32))
    bundle.write()
    with pytest.raises(WeightsError, match=r"one direction.*ELMo needs both"):
        open_model(tmp_path).bilm()


def test_a_checkpoint_of_something_else_is_refused(tmp_path, writer):
    bundle = writer(tmp_path / "model.ckpt-1")
    bundle.add("bert/embeddings/word_embeddings", np.zeros((4, 8), np.float32))
    bundle.write()
    with pytest.raises(WeightsError, match=r"not an ELMo.*bert/embeddings/word_embeddings"):
        open_model(tmp_path).bilm()


def test_two_bilms_in_one_checkpoint_are_refused(rewritten):
    folder = rewritten({"other/lm/char_embed": np.zeros((261, 16), np.float32)})
    with pytest.raises(WeightsError, match=r"several biLMs, .*other/lm/"):
        open_model(folder).bilm()


def test_a_variable_in_pieces_is_refused(tensorflow_models):
    with pytest.raises(ElmoError, match=r"model\.ckpt-1\.index"):
        open_model(tensorflow_models / "partitioned").bilm()


# --- in a pipeline ---


def test_a_pipeline_with_a_checkpoint_is_saved_and_loaded_without_it(copy_of, tmp_path):
    folder = copy_of("trained_chars")
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"model": {"weights": str(folder)}})
    expected = nlp("the fox runs").vector
    nlp.to_disk(tmp_path / "pipeline")
    shutil.rmtree(folder)
    np.testing.assert_array_equal(spacy.load(tmp_path / "pipeline")("the fox runs").vector, expected)


# --- the models in tests/data ---


def test_packaged_references_are_the_shared_ones(shared, tensorflow_models):
    source = shared / "references" / "tensorflow"
    for path in source.rglob("*"):
        if path.is_file() and path.name != "README.md":
            assert (tensorflow_models / path.relative_to(source)).read_bytes() == path.read_bytes()


def test_a_step_of_hundreds_of_digits_is_only_a_name(tensorflow_models, tmp_path):
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as file:
        for part in (tensorflow_models / "trained_chars").glob("*.*"):
            file.write(part, part.name.replace("-60", "-" + "1" * 200))
    assert open_model(tmp_path / "model.zip").format == "bilm-tf checkpoint in a zip archive"
