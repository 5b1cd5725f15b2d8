"""Models of AllenNLP: the ELMo in an archive equals the references. Unsuitable models are one clear error."""

import json
import pickle
import shutil
import tarfile

import numpy as np
import pytest
import torch

from helpers.refusals import Trap
from spacy_elmo import ElmoError, OptionsError, WeightsError
from spacy_elmo.bilm import BiLMOptions
from spacy_elmo.formats import allennlp, load, open_model, write
from spacy_elmo.tools.describe import describe, table

PREFIX = "_text_field_embedder.token_embedder_elmo._elmo."
BILM = f"{PREFIX}_elmo_lstm."
KEY = "model.text_field_embedder.token_embedders.elmo."


@pytest.fixture
def original(data):
    """Return the biLM's own files, which the archive was made from."""
    return data / "tiny_2l_clip"


@pytest.fixture
def archive(data):
    return data / "allennlp" / "model.tar.gz"


@pytest.fixture
def folder(archive, tmp_path):
    """Unpack the archive into a new directory."""
    with tarfile.open(archive) as tar:
        for name in tar.getnames():
            file = tmp_path / "model" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(tar.extractfile(name).read())
    return tmp_path / "model"


def add_originals(folder, original, key=KEY):
    """Add the original files, as AllenNLP 0.x does when the config asks for it."""
    (folder / "fta").mkdir(exist_ok=True)
    shutil.copyfile(original / "options.json", folder / "fta" / f"{key}options_file")
    shutil.copyfile(original / "weights.hdf5", folder / "fta" / f"{key}weight_file")


def change_state(folder, change, **how):
    state = torch.load(folder / "weights.th", weights_only=True)
    change(state)
    torch.save(state, folder / "weights.th", **how)


def set_config(folder, **section):
    config = {"model": {"text_field_embedder": {"elmo": {"type": "elmo_token_embedder", **section}}}}
    (folder / "config.json").write_text(json.dumps(config))


def sentences_of(data):
    return json.loads((data / "sentences.json").read_text())


def check_layers(bilm, data, original):
    expected = np.load(original / "expected.npz")
    sentences = sentences_of(data)
    keys = [key for key in expected.files if key.startswith("allennlp/zs_")]
    assert len(keys) > 10
    for key in keys:
        layers = bilm.encode([sentences[int(key[-2:])]], keep_boundaries=True)[0]
        np.testing.assert_allclose(layers, expected[key], rtol=0, atol=1e-5)


@pytest.mark.parametrize("where", ["archive", "directory", "file", "legacy file"])
def test_layers_are_those_of_the_references(archive, folder, data, original, where):
    if where == "legacy file":  # as torch before 1.6, and so AllenNLP 0.x, wrote it
        change_state(folder, lambda state: None, _use_new_zipfile_serialization=False)
    path = {"archive": archive, "directory": folder}.get(where, folder / "weights.th")
    model = open_model(path, options=original / "options.json")
    check_layers(model.bilm(), data, original)
    assert model.format == "AllenNLP model" + (" in a tar archive" if where == "archive" else "")


def test_the_mix_is_the_one_of_allennlp(archive, data, original):
    model = open_model(archive, options=original / "options.json")
    expected = np.load(data / "allennlp" / "expected.npz")
    for number, sentence in enumerate(sentences_of(data)[: len(expected.files)]):
        mixed = np.tensordot(model.mixes[0], model.bilm().encode([sentence])[0], 1)
        np.testing.assert_allclose(mixed, expected[f"mix_{number:02}"], rtol=0, atol=1e-5)


def test_no_mix_is_given_of_layers_that_were_normalized(folder, original):
    set_config(folder, do_layer_norm=True)
    assert open_model(folder, options=original / "options.json").mixes == []


def test_info_shows_the_mix(folder, original):
    shutil.copyfile(original / "options.json", folder / "options.json")
    assert "layers = [0.6011, 0.3646, 0.7342]" in table(describe(str(folder)))


def test_the_own_files_are_read_where_the_archive_has_them(folder, original):
    add_originals(folder, original)
    assert open_model(folder).digest == open_model(original).digest
    shutil.make_archive(str(folder), "gztar", folder)
    assert open_model(folder.with_name("model.tar.gz")).digest == open_model(original).digest


def test_fine_tuned_weights_win_over_the_copies_of_those_before(folder, original):
    add_originals(folder, original)
    set_config(folder, requires_grad=True)
    change_state(folder, lambda state: state[f"{BILM}_token_embedder._projection.bias"].add_(1))
    bilm, before = load(folder), load(original)
    torch.testing.assert_close(bilm.embedder.projection.bias, before.embedder.projection.bias + 1)


def test_only_forget_biases_differ_from_the_hdf5_and_by_a_rounding(folder, original):
    ours = load(folder, options=original / "options.json")
    for (name, parameter), theirs in zip(ours.named_parameters(), load(original).parameters(), strict=True):
        atol = 1.2e-7 if name.endswith(".bias") and name.startswith("layers.") else 0
        torch.testing.assert_close(parameter, theirs, rtol=0, atol=atol)


def test_the_digest_is_kept_where_no_forget_bias_was_rounded(folder, original, tmp_path):
    def make_exact(state):
        for key, tensor in state.items():
            if key.endswith("state_linearity.bias"):
                tensor.copy_((tensor * 1024).round() / 1024)

    change_state(folder, make_exact)
    bilm = load(folder, options=original / "options.json")
    write(bilm, tmp_path / "written")
    with torch.no_grad():
        exact = load(original)
        for layer, read in zip(exact.layers, bilm.layers, strict=True):
            layer.bias.copy_(read.bias)
        assert all(((layer.bias * 1024) % 1 == 0).all() for layer in bilm.layers)
    write(exact, tmp_path / "exact")
    assert open_model(tmp_path / "written").digest == open_model(tmp_path / "exact").digest


@pytest.mark.parametrize("name", sorted(allennlp.PUBLISHED))
@pytest.mark.parametrize("place", ["https://allennlp.s3.amazonaws.com/models/elmo/x/", "/net/nfs/", "C:\\elmo\\"])
def test_published_options_are_known_by_the_name_of_their_file(folder, name, place):
    set_config(folder, options_file=place + name)
    assert open_model(folder).options == BiLMOptions.from_dict(allennlp.PUBLISHED[name])


def test_an_embedder_without_options_file_has_those_that_allennlp_takes(folder):
    set_config(folder)
    assert open_model(folder).options.lstm.dim == 4096


def test_options_that_nobody_knows_are_an_error_that_says_what_to_do(archive, folder):
    for path in (archive, folder):
        with pytest.raises(OptionsError, match=r"lack cell_clip, proj_clip and activation.*/data/options\.json"):
            load(path)
    (folder / "config.json").unlink()
    with pytest.raises(OptionsError, match="names no options file"):
        load(folder)


def test_a_model_without_elmo_says_so(folder, original):
    change_state(folder, lambda state: [state.pop(key) for key in list(state) if key.startswith(BILM)])
    with pytest.raises(WeightsError, match=r"weights\.th: no ELMo in it"):
        load(folder, options=original / "options.json")


def test_of_two_equal_elmos_the_first_is_read(folder, data, original):
    change_state(folder, lambda s: s.update({key.replace("_elmo._elmo", "_b._elmo"): s[key] for key in list(s)}))
    check_layers(load(folder, options=original / "options.json"), data, original)


def test_two_elmos_that_differ_are_an_error_that_names_them(folder, original):
    change_state(folder, lambda s: s.update({f"other.{key}": s[key] + 1 for key in list(s) if key.startswith(BILM)}))
    with pytest.raises(WeightsError, match=f"several ELMos that differ.*{PREFIX}_elmo_lstm, other"):
        load(folder, options=original / "options.json")


def test_two_copied_elmos_are_read_if_they_are_equal(folder, data, original):
    add_originals(folder, original)
    add_originals(folder, original, "model.other.")
    assert open_model(folder).digest == open_model(original).digest
    shutil.copyfile(data / "tiny_2l_skip" / "weights.hdf5", folder / "fta" / "model.other.weight_file")
    with pytest.raises(WeightsError, match=r"several ELMos \(model\.other\.weight_file, model\.text"):
        load(folder)


BAD = {
    "another shape": (lambda s: s.update({f"{BILM}_token_embedder._projection.bias": torch.zeros(3)}), "does not fit"),
    "too few dimensions": (lambda s: s.update({f"{BILM}{allennlp._CHARACTERS}": torch.zeros(())}), "does not fit"),
    "whole numbers": (lambda s: s.update({f"{BILM}{allennlp._CHARACTERS}": s["norm.num_batches_tracked"]}), "does not"),
    "one missing": (lambda s: s.pop(f"{BILM}_token_embedder._projection.bias"), "no tensor '_token_embedder._proj"),
    "one too many": (lambda s: s.update({f"{BILM}_elmo_lstm.forward_layer_2.x": torch.zeros(1)}), "have no place"),
    "NaN": (lambda s: s[f"{BILM}_token_embedder._projection.bias"].fill_(torch.nan), "NaN or infinite"),
    "no numbers of a mix": (lambda s: s[f"{PREFIX}scalar_mix_0.gamma"].fill_(torch.nan), "not the numbers of a mix"),
}


@pytest.mark.parametrize("case", BAD)
def test_weights_that_do_not_fit_are_one_clear_error(folder, original, case):
    change, message = BAD[case]
    change_state(folder, change)
    with pytest.raises(WeightsError, match=message):
        load(folder, options=original / "options.json")


def test_nothing_in_the_weights_is_executed(folder, original, tmp_path):
    (folder / "weights.th").write_bytes(pickle.dumps(Trap(tmp_path / "opened"), protocol=2))
    with pytest.raises(WeightsError, match="may be hostile"):
        load(folder, options=original / "options.json")
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000])
def test_a_damaged_config_is_an_error_that_names_it(folder, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ElmoError, match=r"config\.json"):
        load(folder)


def test_options_of_a_bilm_that_allennlp_does_not_have_are_refused(folder, original, tmp_path):
    other = tmp_path / "other.json"
    other.write_text((original / "options.json").read_text().replace("true", "false"))
    with pytest.raises(OptionsError, match="only biLMs with a character CNN and skip connections"):
        load(folder, options=other)


def test_it_says_that_there_is_no_softmax(archive):
    with pytest.raises(WeightsError, match="AllenNLP keeps no softmax"):
        open_model(archive).softmax()


def test_tensors_larger_than_their_file_are_refused(folder):
    """One number stands for 2**40, so comparing two such ELMos would take hours."""

    def change(state):
        for key in [key for key in state if key.startswith(PREFIX)]:
            state[f"other.{key}"] = state[key]
        for prefix in ("", "other."):
            state[f"{prefix}{BILM}_token_embedder._projection.bias"] = torch.zeros(1).expand(2**40)

    change_state(folder, change)
    with pytest.raises(WeightsError, match=r"weights\.th: has .* bytes, but declares 4,398,046,511,104 for .*bias"):
        load(folder)
