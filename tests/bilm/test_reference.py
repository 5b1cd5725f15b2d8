"""Layers and states compared with those of the original implementations, to 1e-5 for every number."""

import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from helpers.references import BATCHES, close
from spacy_elmo.bilm import CarriedState, characters
from spacy_elmo.formats import load

FOLDERS = ("tiny_1l_noskip", "tiny_2l_clip", "tiny_2l_skip", "tiny_noproj")
ORIGINALS = ("allennlp", "bilm_tf", "ref_f64")


class Reference:
    """Outputs of one original implementation for one model, and ours."""

    def __init__(self, folder: Path, original: str, sentences: list[list[str]]) -> None:
        self.sentences = sentences
        self.options = folder / "options.json"
        if folder.parent.name == "data":
            with np.load(folder / "expected.npz") as arrays:
                self.arrays = {
                    key.removeprefix(f"{original}/"): arrays[key]
                    for key in arrays.files
                    if key.startswith(f"{original}/")
                }
        else:
            with np.load(folder / f"{original}.npz") as arrays:
                self.arrays = dict(arrays)
        assert self.arrays
        self.bilm = load(folder)

    def matching(self, pattern: str) -> list[str]:
        return [key for key in self.arrays if re.fullmatch(pattern, key)]

    def carried(self) -> tuple[list[list[np.ndarray]], CarriedState]:
        """Encode the four batches and carry the state from each to the next."""
        state = CarriedState()
        batches = [self.bilm.encode(self.sentences[rows], keep_boundaries=True, state=state) for rows in BATCHES]
        return batches, state


def cases(*originals: str, packaged: bool = True):
    """Parametrize a test over the models that these originals have outputs for, with and without ../shared."""
    cases = [("packaged", folder, original) for folder in ("tiny_2l_clip", "tiny_2l_skip") for original in originals]
    cases = [case for case in cases if packaged and case[2] != "ref_f64"]
    cases += [("shared", folder, original) for folder in FOLDERS for original in originals]
    cases = [case for case in cases if case[1:] != ("tiny_noproj", "allennlp")]  # AllenNLP cannot load it
    return pytest.mark.parametrize("reference", cases, indirect=True, ids="-".join, scope="module")


@pytest.fixture(scope="module")
def reference(request, data, sentences):
    place, folder, original = request.param
    root = data if place == "packaged" else request.getfixturevalue("shared") / "references"
    return Reference(root / folder, original, sentences)


def test_every_reference_folder_is_tested(shared):
    found = {path.parent.name for path in (shared / "references").glob("*/weights.hdf5")}
    assert found == {*FOLDERS, "bilm-tf-trained"}
    for folder in FOLDERS:
        theirs = {path.stem for path in (shared / "references" / folder).glob("*.npz")}
        assert theirs == {*ORIGINALS} - ({"allennlp"} if folder == "tiny_noproj" else set())


def test_packaged_sentences_are_the_shared_ones(shared, data):
    assert (data / "sentences.json").read_bytes() == (shared / "references" / "sentences.json").read_bytes()


@cases(*ORIGINALS)
def test_each_sentence_alone_from_zero_state(reference):
    keys = reference.matching(r"zs_\d\d")
    assert len(keys) == 32
    for key in keys:
        close(
            reference.bilm.encode([reference.sentences[int(key[-2:])]], keep_boundaries=True)[0], reference.arrays[key]
        )


@cases(*ORIGINALS)
def test_all_sentences_in_one_call_from_zero_state(reference):
    ours = reference.bilm.encode(reference.sentences, keep_boundaries=True)
    for number, layers in enumerate(ours):
        close(layers, reference.arrays[f"zs_{number:02d}"])


@cases("bilm_tf", packaged=False)
def test_each_sentence_without_boundaries(reference):
    keys = reference.matching(r"zs_nobe_\d\d")
    assert len(keys) == 32
    for key in keys:
        close(reference.bilm.encode([reference.sentences[int(key[-2:])]])[0], reference.arrays[key])


@cases("allennlp", "bilm_tf", packaged=False)
def test_padded_batch_from_zero_state(reference):
    padded = reference.arrays["all"]
    assert len(padded) == 32
    for layers, theirs in zip(reference.bilm.encode(reference.sentences, keep_boundaries=True), padded, strict=True):
        close(layers, theirs[:, : layers.shape[1]])


@cases(*ORIGINALS)
def test_state_carried_over_four_batches(reference):
    batches, _ = reference.carried()
    if "st0_00" in reference.arrays:
        assert len(reference.matching(r"st\d_\d\d")) == 43
        for number, batch in enumerate(batches):
            for row, layers in enumerate(batch):
                close(layers, reference.arrays[f"st{number}_{row:02d}"])
        return
    for number, batch in enumerate(batches):
        padded = reference.arrays[f"st{number}"]
        for layers, theirs in zip(batch, padded, strict=True):
            close(layers, theirs[:, : layers.shape[1]])


@cases("bilm_tf", packaged=False)
def test_state_carried_over_four_batches_without_boundaries(reference):
    state = CarriedState()
    for number, rows in enumerate(BATCHES):
        padded = reference.arrays[f"st{number}_nobe"]
        ours = reference.bilm.encode(reference.sentences[rows], state=state)
        for layers, theirs in zip(ours, padded, strict=True):
            close(layers, theirs[:, : layers.shape[1]])


@cases("allennlp", "bilm_tf")
def test_states_after_the_last_batch(reference):
    keys = reference.matching(r"state_.*")
    _, state = reference.carried()
    n_layers = len(state.layers)
    assert len(keys) == (2 if "state_h" in keys else 4 * n_layers)
    for layer, (hidden, cell) in enumerate(state.layers):
        for name, ours in (("h", hidden), ("c", cell)):
            forward, backward = ours.numpy()
            if "state_h" in keys:
                close(np.concatenate([forward, backward], axis=1), reference.arrays[f"state_{name}"][layer])
            else:
                close(forward, reference.arrays[f"state_{name}_forward_{layer}"])
                close(backward, reference.arrays[f"state_{name}_backward_{layer}"])


@cases("allennlp", "bilm_tf", packaged=False)
def test_character_ids(reference):
    keys = reference.matching(r"char_ids_\d\d")
    assert len(keys) in (31, 32)  # AllenNLP has no outputs for the empty sentence
    for key in keys:
        tokens, theirs = reference.sentences[int(key[-2:])], reference.arrays[key]
        if len(theirs) == len(tokens) + 2:
            tokens = [characters.BOS, *tokens, characters.EOS]
        np.testing.assert_array_equal(characters.pad([characters.token_ids(token, 50) for token in tokens], 50), theirs)


def test_trained_model_of_bilm_tf(shared):
    folder = shared / "references" / "bilm-tf-trained"
    text = [line.split() for line in (folder / "sentences.txt").read_text(encoding="utf8").splitlines()]
    ours = load(folder).encode(text)
    with np.load(folder / "bilm_tf.npz") as expected:
        assert len(expected.files) == len(text) == 28
        for number, layers in enumerate(ours):
            close(layers, expected[f"zs_nobe_{number:02d}"])


def test_options_as_written_by_training_give_the_same_model(shared):
    """The training options say 261 characters, and those for inference 262."""
    folder = shared / "references" / "bilm-tf-trained"
    training = load(folder, options=folder / "options_training.json")
    sentence = ["Options", "of", "training", "."]
    np.testing.assert_array_equal(training.encode([sentence])[0], load(folder).encode([sentence])[0])


def test_one_layer_is_the_same_with_skip_connections(shared, sentences):
    """AllenNLP supports only models with skip connections. With one layer there is nothing to skip."""
    folder = shared / "references" / "tiny_1l_noskip"
    bilm = load(folder, options=folder / "options_allennlp.json")
    assert bilm.options.lstm.use_skip_connections
    with np.load(folder / "allennlp.npz") as expected:
        for number, layers in enumerate(bilm.encode(sentences, keep_boundaries=True)):
            close(layers, expected[f"zs_{number:02d}"])


@pytest.fixture
def word_input(shared, tmp_path):
    """Make a biLM that reads whole words: bilm-tf's dumped token embeddings and the LSTMs of tiny_2l_skip."""
    references = shared / "references"
    with (
        h5py.File(references / "cli" / "bilm_token_embeddings.hdf5") as embeddings,
        h5py.File(references / "tiny_2l_skip" / "weights.hdf5") as rnn,
        h5py.File(tmp_path / "weights.hdf5", "w") as file,
    ):
        file["embedding"] = embeddings["embedding"][...]
        for name in ("RNN_0", "RNN_1"):
            rnn.copy(name, file)
    options = json.loads((references / "tiny_2l_skip" / "options.json").read_bytes())
    del options["char_cnn"]
    (tmp_path / "options.json").write_text(json.dumps(options))
    shutil.copyfile(references / "vocab.txt", tmp_path / "vocab.txt")
    return load(tmp_path)


WORD_SENTENCES = (["the", "fox", "outside-the-vocabulary", "."], ["Hello"])


def test_word_input_matches_bilm_tf(shared, word_input):
    with np.load(shared / "references" / "cli" / "bilm_token_mode.npz") as expected:
        ids, theirs = expected["ids"], expected["lm_embeddings"]
    for sentence, rows, layers, padded in zip(
        WORD_SENTENCES, ids, word_input.encode(WORD_SENTENCES), theirs, strict=True
    ):
        vocabulary = [word if word in word_input.vocabulary else "<UNK>" for word in sentence]
        assert [word_input.vocabulary[row - 1] for row in rows if row] == ["<S>", *vocabulary, "</S>"]
        close(layers, padded[:, : len(sentence)])


def test_word_input_embeds_as_the_character_model_it_was_dumped_from(shared, word_input):
    bilm = load(shared / "references" / "tiny_2l_skip")
    sentence = ["the", "fox", "."]
    close(word_input.encode([sentence])[0], bilm.encode([sentence])[0])
