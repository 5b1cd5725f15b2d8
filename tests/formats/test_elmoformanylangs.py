"""Models of ELMoForManyLangs: layers equal the original's to 1e-5, and unsuitable models are one clear error."""

import contextlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.files import make_a_folder_of
from helpers.references import close
from helpers.refusals import Trap, refused
from spacy_elmo import ElmoError, OptionsError, WeightsError
from spacy_elmo.bilm import CarriedState
from spacy_elmo.formats import digest, elmoformanylangs, load, open_model, write
from spacy_elmo.tools.describe import describe, table

FOLDERS = ("words_chars", "clip3", "chars_only", "words_only", "lstm_token_words", "trained")
PACKAGED = ("words_chars", "clip3", "words_only")
CASES = [("packaged", name) for name in PACKAGED] + [("shared", name) for name in FOLDERS]
CARRIED = (slice(0, 12), slice(12, 24), slice(24, 29), slice(0, 14))
CONFIG = "cnn_50_100_512_4096_sample.json"

pytestmark = pytest.mark.filterwarnings("ignore:.* are unknown to the model")  # the sentences have many odd words


@pytest.fixture
def folder(request, data):
    """Return a reference folder from tests/data or from ../shared."""
    place, name = request.param
    root = data if place == "packaged" else request.getfixturevalue("shared") / "references"
    return root / "elmoformanylangs" / name


all_models = pytest.mark.parametrize("folder", CASES, indirect=True, ids="-".join)


@pytest.fixture
def model(data, tmp_path):
    """Make a directory with the model words_chars."""
    return Path(
        shutil.copytree(
            data / "elmoformanylangs" / "words_chars", tmp_path / "model", ignore=lambda *_: ["expected.npz"]
        )
    )


def change_json(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def change_state(file, change, legacy=True):
    state = torch.load(file, map_location="cpu", weights_only=True)
    change(state)
    torch.save(state, file, _use_new_zipfile_serialization=not legacy)


# --- as the original ---


def test_every_reference_folder_is_tested(shared):
    found = {path.parent.name for path in (shared / "references" / "elmoformanylangs").glob("*/encoder.pkl")}
    assert found == {*FOLDERS, "lstm_encoder"}


@all_models
def test_layers_of_each_sentence_by_itself_are_those_of_the_original(folder, sentences):
    bilm, expected = load(folder), np.load(folder / "expected.npz")
    for number, sentence in enumerate(sentences):
        close(bilm.encode([sentence])[0], expected[f"alone_{number:02d}"])


@all_models
def test_a_sentence_has_the_same_layers_in_any_batch(folder, sentences):
    bilm, expected = load(folder), np.load(folder / "expected.npz")
    for order in (slice(None), slice(None, None, -1)):
        for number, layers in list(enumerate(bilm.encode(sentences[order], max_batch_tokens=60)))[order]:
            number = number if order.step is None else len(sentences) - 1 - number
            close(layers, expected[f"alone_{number:02d}"])


@all_models
def test_carried_state_is_that_of_the_original(folder, sentences):
    bilm, expected, state = load(folder), np.load(folder / "expected.npz"), CarriedState()
    for call, rows in enumerate(CARRIED):
        numbers = sorted(range(*rows.indices(len(sentences))), key=lambda n: -len(sentences[n]))
        found = bilm.encode([sentences[n] for n in numbers], state=state)
        for number, layers in zip(numbers, found, strict=True):
            key = f"st{call}_{number:02d}"
            if key in expected:
                close(layers, expected[key])
    assert key in expected


def test_borders_are_those_of_the_original(shared, sentences):
    folder = shared / "references" / "elmoformanylangs" / "trained"
    expected = np.load(folder / "expected.npz")
    for number, layers in enumerate(load(folder).encode(sentences, keep_boundaries=True)):
        close(layers, expected[f"full_{number:02d}"])


def test_ids_are_those_that_the_original_looked_up(shared, sentences):
    folder = shared / "references" / "elmoformanylangs" / "clip3"
    embedder, expected = load(folder).embedder, np.load(folder / "expected.npz")
    for number, sentence in enumerate(sentences):
        words = ["<bos>", *sentence, "<eos>"]
        ids = [embedder.char_cnn.alphabet.token_ids(word, 16) for word in words]
        padded = [row + [embedder.char_cnn.alphabet.padding] * (16 - len(row)) for row in ids]
        assert padded == expected[f"char_ids_{number:02d}"].tolist()
        assert [embedder.words.lexicon.id(word[:14]) for word in words] == expected[f"word_ids_{number:02d}"].tolist()


def test_the_encoder_lstm_is_one_clear_error(shared):
    path = shared / "references" / "elmoformanylangs" / "lstm_encoder"
    refused(path, r'encoder: name is "lstm".*not a biLM', OptionsError)


# --- what is read ---


def test_an_archive_is_the_model_that_its_files_are(model, tmp_path):
    (model / CONFIG).unlink()  # as in the public archives; these have the public network
    change_json(model / "config.json", lambda config: config.update(config_path=f"./{CONFIG}"))
    shutil.copyfile(Path(__file__).parent.parent / "data/elmoformanylangs/words_chars" / CONFIG, model / CONFIG)
    archive = shutil.make_archive(str(tmp_path / "158"), "zip", model)
    opened = open_model(archive)
    assert opened.digest == open_model(model).digest
    assert opened.format == "ELMoForManyLangs in a zip archive"


def test_one_of_its_pickles_stands_for_the_model(model):
    assert open_model(model / "encoder.pkl").digest == open_model(model).digest


def test_pickles_of_newer_torch_are_read(model):
    expected = open_model(model).digest
    for name in ("encoder.pkl", "token_embedder.pkl"):
        change_state(model / name, lambda state: None, legacy=False)
        assert zipfile.is_zipfile(model / name)
    assert open_model(model).digest == expected


def test_the_network_config_of_the_public_models_is_known(model):
    (model / CONFIG).unlink()
    assert open_model(model).options.lstm.dim == 4096
    refused(model, "token_embedder.pkl: 24,853 bytes, but the network config and the dictionaries expect")


def test_a_named_network_config_wins(model):
    config = model / "elsewhere"
    (model / CONFIG).rename(config)
    assert open_model(model, config).bilm().options.lstm.dim == 32


@pytest.mark.parametrize("named", ["/not/here/net.json", "configs/net.json", r"C:\models\net.json", "./net.json"])
def test_the_network_config_is_found_by_its_name(model, named):
    (model / CONFIG).rename(model / "net.json")
    change_json(model / "config.json", lambda config: config.update(config_path=named))
    assert open_model(model).options.lstm.dim == 32


def test_names_in_the_network_config_may_be_in_upper_case(model):
    change_json(model / CONFIG, lambda config: config["encoder"].update(name="ELMo"))
    change_json(model / CONFIG, lambda config: config["token_embedder"].update(name="CNN"))
    assert load(model).options.token_embedder.word_dim == 10


def test_a_clip_of_null_is_none(model):
    change_json(model / CONFIG, lambda config: config["encoder"].update(cell_clip=None, proj_clip=0))
    assert load(model).options.lstm.cell_clip is load(model).options.lstm.proj_clip is None


def test_dictionaries_may_be_in_any_order_and_have_a_stripped_whitespace_line(model):
    expected = load(model)
    lines = (model / "char.dic").read_text(encoding="utf8").splitlines()
    entry, number = lines[7].split("\t")
    lines[7] = f"\u3000\t{number}"
    (model / "char.dic").write_text("\r\n".join(reversed(lines)) + "\r\n", encoding="utf8")
    wide = load(model)
    lines[7] = number
    (model / "char.dic").write_text("\n".join(lines), encoding="utf8")
    assert digest(load(model)) == digest(wide) != digest(expected)
    assert wide.lexicons.characters[7] == "\u3000"
    assert expected.lexicons.characters[7] == entry
    close(wide.embedder.char_cnn(["\u3000"]).numpy(), expected.embedder.char_cnn([entry]).numpy())


def test_the_forget_bias_is_kept_to_the_bit(model):
    stored = torch.load(model / "encoder.pkl", map_location="cpu", weights_only=True)
    bilm = load(model)
    bias = stored["backward_layer_1.state_linearity.bias"]
    assert bilm.layers[1].forget_bias == 0
    assert torch.equal(bilm.layers[1].bias[1, 32:64], bias[32:64])


# --- what is true for every model ---


def test_our_own_form_is_the_same_model(folder_of_each, tmp_path):
    bilm = load(folder_of_each)
    write(bilm, tmp_path / "own", "lossless")
    own = open_model(tmp_path / "own")
    assert own.digest == digest(bilm)
    assert own.options == bilm.options
    assert own.format == "ELMoForManyLangs as HDF5"
    sentence = ["Ein", "Satz", "ǆ", "<bos>"]
    np.testing.assert_array_equal(own.bilm().encode([sentence])[0], bilm.encode([sentence])[0])


@pytest.fixture(params=PACKAGED)
def folder_of_each(request, data):
    return data / "elmoformanylangs" / request.param


@pytest.mark.parametrize(
    "change",
    [
        lambda model: change_json(model / CONFIG, lambda config: config["encoder"].update(cell_clip=2)),
        lambda model: swap_ids(model / "word.dic", 20, 21),
        lambda model: swap_ids(model / "char.dic", 20, 21),
        lambda model: change_state(model / "encoder.pkl", lambda state: next(iter(state.values())).mul_(1.001)),
    ],
    ids=["options", "words", "characters", "tensors"],
)
def test_the_digest_is_over_options_lexicons_and_tensors(model, change):
    before = open_model(model).digest
    change(model)
    assert open_model(model).digest != before


def swap_ids(file, a, b):
    lines = file.read_text(encoding="utf8").splitlines()
    (first, _), (second, _) = lines[a].split("\t"), lines[b].split("\t")
    lines[a], lines[b] = f"{second}\t{a}", f"{first}\t{b}"
    file.write_text("\n".join(lines), encoding="utf8")


def test_training_settings_do_not_change_the_digest(model):
    before = open_model(model).digest
    change_json(model / CONFIG, lambda config: config.update(dropout=0.5, classifier={"name": "cnn_softmax"}))
    assert open_model(model).digest == before


def test_info_counts_code_points_and_words(model):
    facts = describe(str(model))
    assert (facts["max_characters"], facts["n_characters"], facts["vocabulary"]) == (50, 106, 83)
    assert "up to 50 of 106 characters (code points)" in table(facts)
    assert "hint" not in table(facts)


def test_a_softmax_is_asked_for_in_vain(model):
    opened = open_model(model)
    assert not opened.has_softmax
    with pytest.raises(WeightsError, match=r"cannot|not predict them.*classifier\.pkl"):
        opened.softmax()


@pytest.mark.slow
def test_a_full_size_model_takes_little_more_memory_than_its_files(tmp_path):
    """At most 2.2 times the bytes of the files, on top of an interpreter with torch."""
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    subprocess.run([sys.executable, "-c", MAKE_FULL_SIZE, str(tmp_path)], check=True, env=environment)
    run = subprocess.run(
        [sys.executable, "-c", LOAD_FULL_SIZE, str(tmp_path)], check=True, env=environment, capture_output=True
    )
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert size > 400e6
    assert int(run.stdout) < 2.2 * size


MAKE_FULL_SIZE = """
import json, sys
from collections import OrderedDict
from pathlib import Path

import torch
from spacy_elmo.bilm import BiLMOptions
from spacy_elmo.bilm.lexicons import Lexicons
from spacy_elmo.formats import elmoformanylangs

root = Path(sys.argv[1])
words = ["<oov>", "<bos>", "<eos>", "<pad>", *map(str, range(149_996))]
characters = [*map(chr, range(0x4E00, 0x4E00 + 14_994)), "<bos>", "<eos>", "<oov>", "<pad>", "<bow>", "<eow>"]
for name, entries in (("word.dic", words), ("char.dic", characters)):
    lines = (f"{entry}\\t{number}\\n" for number, entry in enumerate(entries))
    (root / name).write_text("".join(lines), encoding="utf8")
(root / "config.json").write_text(json.dumps({"config_path": "/x/cnn_50_100_512_4096_sample.json"}))
options = BiLMOptions.from_dict(elmoformanylangs.PUBLIC_CONFIG)
states = {"token_embedder.pkl": OrderedDict(), "encoder.pkl": OrderedDict()}
for tensor in elmoformanylangs.stored(options, Lexicons(words, characters)):
    states[tensor.file][tensor.key] = torch.rand(tensor.shape)
for name, state in states.items():
    torch.save(state, root / name, _use_new_zipfile_serialization=False)
"""
LOAD_FULL_SIZE = """
import re, sys
import torch
from spacy_elmo import formats
import spacy_elmo.bilm

def peak():
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1])

before = peak()
bilm = formats.load(sys.argv[1])
print(peak() - before)
"""


# --- what is refused ---


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ["encoder.pkl", "token_embedder.pkl"])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(model, tmp_path, name, protocol):
    (model / name).write_bytes(
        pickle.dumps(Trap(tmp_path / "mark"), protocol) + bytes(30_000 + 60_000 * (name[0] == "e"))
    )
    refused(model, f"{name}: this pickle contains")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("what", ["code", "harmless"])
def test_a_pickle_with_other_globals_is_refused(model, tmp_path, legacy, what):
    value = Trap(tmp_path / "mark") if what == "code" else torch.nn.Parameter(torch.zeros(2))
    change_state(model / "encoder.pkl", lambda state: state.update(more=value), legacy)
    refused(
        model, r"encoder\.pkl: this pickle contains .*mkdir" if what == "code" else "this pickle contains torch._utils"
    )
    assert not (tmp_path / "mark").exists()


def test_a_flipped_bit_in_a_zip_of_torch_is_found(model):
    """torch itself does not check the checksums."""
    change_state(model / "encoder.pkl", lambda state: None, legacy=False)
    with zipfile.ZipFile(model / "encoder.pkl") as file:
        tensor = file.read(next(name for name in file.namelist() if name.endswith("data/0")))
    content = bytearray((model / "encoder.pkl").read_bytes())
    content[content.index(tensor)] ^= 1
    (model / "encoder.pkl").write_bytes(content)
    refused(model, r"encoder\.pkl: the checksum of \S+data/0 in it is wrong")


def test_a_tensor_that_the_zip_calls_a_folder_is_refused(model):
    """torch would leave it uninitialized, and say nothing."""
    change_state(model / "encoder.pkl", lambda state: None, legacy=False)
    make_a_folder_of(model / "encoder.pkl", "data/0")
    refused(model, r"encoder\.pkl: torch does not write zip archives like this")


def test_a_pickle_in_a_compressed_zip_is_refused(model):
    change_state(model / "encoder.pkl", lambda state: None, legacy=False)
    with zipfile.ZipFile(model / "encoder.pkl") as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(model / "encoder.pkl", "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name, content)
    refused(model, r"encoder\.pkl: torch does not write zip archives like this")


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("name", ["encoder.pkl", "token_embedder.pkl"])
def test_a_cut_pickle_is_refused_wherever_it_ends(model, name, legacy):
    change_state(model / name, lambda state: None, legacy)
    whole = (model / name).read_bytes()
    for share in (0, 0.001, 0.01, 0.3, 0.9, 0.9999):
        (model / name).write_bytes(whole[: int(share * len(whole))])
        refused(model, name)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("name", ["encoder.pkl", "token_embedder.pkl"])
def test_damage_in_a_pickle_is_an_error_of_ours_or_no_matter(model, name, legacy):
    change_state(model / name, lambda state: None, legacy)
    whole, rng = (model / name).read_bytes(), np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(whole)
        for place in rng.integers(0, 3500, 2):
            damaged[int(place) if legacy or rng.integers(2) else -1 - int(place)] = int(rng.integers(256))
        (model / name).write_bytes(damaged)
        with contextlib.suppress(ElmoError):
            load(model)


def test_storages_that_are_larger_than_the_file_are_refused(model):
    path, numel = model / "token_embedder.pkl", 10**12
    whole = path.read_bytes()
    changed = re.sub(rb"K\x10Nt", b"\x8a\x06" + numel.to_bytes(6, "little") + b"Nt", whole, count=1)
    assert changed != whole
    path.write_bytes(changed)
    refused(model, "token_embedder.pkl: cannot be read")


def test_a_tensor_that_only_claims_its_size_is_refused_before_memory_is_taken(model):
    change_json(model / CONFIG, lambda config: config["encoder"].update(dim=10**6, projection_dim=10**6))
    refused(model, "do they belong together")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("projection.weight"), "no tensor 'projection.weight'"),
        (lambda state: state.update(more=torch.zeros(1)), "has no place for more"),
        (
            lambda state: state.update({"projection.bias": torch.zeros(15)}),
            r"projection\.bias is float32 \[15\].*\[16\]",
        ),
        (lambda state: state["projection.bias"].fill_(float("nan")), "NaN or infinite"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(model, change, message):
    change_state(model / "token_embedder.pkl", change)
    refused(model, rf"token_embedder\.pkl.*{message}")


def test_something_else_than_a_state_dict_is_refused(model):
    torch.save([torch.zeros(6000)], model / "token_embedder.pkl", _use_new_zipfile_serialization=False)
    refused(model, "not a torch state_dict")


def test_other_numbers_than_float32_are_refused(model):
    change_state(model / "encoder.pkl", lambda state: state.update({key: state[key].double() for key in [*state]}))
    refused(model, "this pickle contains torch.DoubleStorage")


@pytest.mark.parametrize("name", ["word.dic", "char.dic"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "has the id|expect float32|<eow> missing"),
        (lambda lines: [*lines, f"new\t{len(lines)}"], "expect float32"),
        (lambda lines: [*lines[:-1], lines[0]], "the id 0, which an earlier line also has"),
        (
            lambda lines: [*lines[:-1], f"{lines[0].split()[0]}\t{len(lines) - 1}"],
            "the entry .* which an earlier line also has",
        ),
        (lambda lines: [*lines[:-1], "x\t-1"], "expected an entry, a tab and its id"),
        (lambda lines: [*lines[:-1], "x\t1_0"], "expected an entry, a tab and its id"),
        (lambda lines: [*lines[:-1], "x\t10000000000"], "expected an entry, a tab and its id"),
        (lambda lines: [*lines[:-1], f"x\t{len(lines)}"], "has the id"),
        (lambda lines: [*lines[:-1], "a\tb\t3"], "expected an entry, a tab and its id"),
        (lambda lines: [*lines[:3], "", *lines[3:]], "line 4 is ''"),
        (lambda lines: [line.replace("<oov>", "<unk>") for line in lines], "<oov> missing"),
        (lambda lines: [line.replace("<pad>", "<pud>") for line in lines], "<pad> missing"),
        (lambda lines: [], "expect|missing"),
    ],
)
def test_dictionaries_that_are_unfit_are_refused(model, name, change, message):
    lines = (model / name).read_text(encoding="utf8").splitlines()
    (model / name).write_text("\n".join(change(lines)), encoding="utf8")
    refused(model, message)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "gb18030", "latin-1"])
def test_dictionaries_in_another_encoding_are_refused(model, encoding):
    text = (model / "char.dic").read_text(encoding="utf8")
    (model / "char.dic").write_bytes(text.encode(encoding, "replace"))
    refused(model, r"char\.dic")


@pytest.mark.parametrize("name", ["config.json", "char.dic", "word.dic", "encoder.pkl", "token_embedder.pkl"])
@pytest.mark.parametrize("instead", ["nothing", "a directory"])
def test_a_missing_file_is_an_error_that_names_it(model, name, instead):
    (model / name).unlink()
    if instead == "a directory":
        (model / name).mkdir()
    with pytest.raises(ElmoError, match=re.escape(str(model / name))):
        load(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.update(config_path="other.json"), "'other.json' is not there; copy the network config"),
        (lambda config: config.update(config_path="../../etc/passwd"), "'passwd' is not there"),
        (lambda config: config.update(config_path=None), "config_path is None"),
        (lambda config: config.update(config_path=[1]), r"config_path is \[1\]"),
        (lambda config: config.update(config_path="x" * 5000), "is not there"),
        (lambda config: config.update(config_path="a\0b"), "is not there"),
        (lambda config: config.pop("config_path"), "config_path is None"),
    ],
)
def test_a_config_that_names_no_network_config_is_refused(model, change, message):
    change_json(model / "config.json", change)
    refused(model, message, OptionsError)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", CONFIG])
def test_a_config_that_is_no_json_object_is_refused(model, name, content):
    (model / name).write_bytes(content)
    refused(model, re.escape(name), OptionsError)


def test_options_of_another_family_are_refused(model, data):
    with pytest.raises(OptionsError, match="belong to another kind of model"):
        load(model, data / "tiny_2l_skip" / "options.json")


def test_our_own_form_without_its_lexicons_is_refused(model, tmp_path):
    own = tmp_path / "own"
    write(load(model), own)
    lexicons = json.loads((own / "lexicons.json").read_text())
    for content, message in (
        (None, "no such file"),
        ("[]", "expected an object"),
        ("{", "not valid JSON"),
        (json.dumps({"words": [1], "characters": []}), "expected an object"),
        (json.dumps({**lexicons, "words": None}), "lexicon of words, but it is missing"),
        (json.dumps({**lexicons, "words": lexicons["words"][:-1]}), r"word_embed has shape \[83, 10\].*\[82, 10\]"),
        (json.dumps({**lexicons, "characters": [*lexicons["characters"], "<"]}), "'<' is repeated"),
    ):
        if content is None:
            (own / "lexicons.json").unlink()
        else:
            (own / "lexicons.json").write_text(content)
        refused(own, message)


def test_the_table_of_tensors_is_that_of_the_files(folder_of_each):
    bilm = load(folder_of_each)
    table = {(one.file, one.key): one.shape for one in elmoformanylangs.stored(bilm.options, bilm.lexicons)}
    for name in ("token_embedder.pkl", "encoder.pkl"):
        state = torch.load(folder_of_each / name, map_location="cpu", weights_only=True)
        assert {key: tuple(value.shape) for key, value in state.items()} == {
            key: shape for (file, key), shape in table.items() if file == name
        }


@pytest.mark.parametrize("entry", ["\ud800", 10**30, [[[]]]], ids=["half a character", "number", "lists"])
def test_a_lexicon_of_ours_that_could_not_be_saved_again_is_refused(model, tmp_path, entry):
    write(load(model), tmp_path / "ours")
    change_json(tmp_path / "ours" / "lexicons.json", lambda lexicons: lexicons["words"].__setitem__(0, entry))
    refused(tmp_path / "ours", r"lexicons\.json: ")


@pytest.mark.parametrize("name", ["word.dic", "char.dic"])
def test_a_dictionary_longer_than_any_is_refused(model, name):
    with (model / name).open("ab") as file:
        file.truncate(2**25 + 1)
    refused(model, rf"{name}: 33,554,433 bytes, too long")
