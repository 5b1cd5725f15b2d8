import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc

from spacy_elmo import ElmoError, WeightsError
from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.formats import digest, load, write
from spacy_elmo.formats.writing import write_files
from spacy_elmo.pipeline.shim import shim_of
from spacy_elmo.support import files

TEXT = "We sat on the bank of the river."


@pytest.fixture
def weights(data, tmp_path):
    """Copy a model, so that a test may delete it."""
    return shutil.copytree(data / "tiny_2l_skip", tmp_path / "weights")


@pytest.fixture
def saved(weights, tmp_path):
    """Save a pipeline and delete its original weights. Returns the folder and the vectors of TEXT."""
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"layers": "top", "model": {"weights": str(weights)}})
    vectors = nlp(TEXT)._.elmo
    nlp.to_disk(tmp_path / "saved")
    shutil.rmtree(weights)
    return tmp_path / "saved", vectors


def test_to_disk_and_back_without_the_original_weights(saved):
    path, vectors = saved
    nlp = spacy.load(path)
    np.testing.assert_allclose(nlp(TEXT)._.elmo, vectors, atol=1e-6)
    assert nlp.config["components"]["elmo"]["layers"] == "top"


def test_saving_before_first_use_writes_the_weights(weights, tmp_path):
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"model": {"weights": str(weights)}})
    nlp.to_disk(tmp_path / "saved")
    shutil.rmtree(weights)
    assert spacy.load(tmp_path / "saved")(TEXT)._.elmo.shape == (9, 32)


def test_saved_weights_are_a_model_of_their_own(saved):
    path, vectors = saved
    words = [token.text for token in spacy.blank("en")(TEXT)]
    np.testing.assert_allclose(load(path / "elmo" / "model").encode([words])[0][-1], vectors, atol=1e-6)


def test_bundled_card_and_licence_go_along(tmp_path):
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo")
    nlp.to_disk(tmp_path / "saved")
    assert load(tmp_path / "saved" / "elmo" / "model").card == load("en_elmo_sm").card
    bundled = load("en_elmo_sm")
    assert (tmp_path / "saved" / "elmo" / "model" / "weights.hdf5").stat().st_size < 4 * sum(
        p.numel() for p in bundled.parameters()
    )  # float16 stays float16, because that loses nothing


def test_to_bytes_and_back(saved):
    path, vectors = saved
    data = spacy.load(path).to_bytes()
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"layers": "top", "model": {"weights": "/no/such"}})
    nlp.from_bytes(data)
    np.testing.assert_allclose(nlp(TEXT)._.elmo, vectors, atol=1e-6)


def test_from_config_and_sourcing(saved):
    path, vectors = saved
    source = spacy.load(path)
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", source=source)
    np.testing.assert_allclose(nlp(TEXT)._.elmo, vectors, atol=1e-6)
    again = spacy.util.load_model_from_config(spacy.blank("en").config.merge({}), auto_fill=True)
    again.add_pipe("elmo", source=source)
    np.testing.assert_allclose(again(TEXT)._.elmo, vectors, atol=1e-6)
    with pytest.raises(ElmoError, match="two elmo components"):
        nlp.add_pipe("elmo", name="other", source=source)


def test_unchanged_weights_are_not_written_again(saved, bundled_width):
    path, _ = saved
    file = path / "elmo" / "model" / "weights.hdf5"
    nlp = spacy.load(path)
    os.utime(file, ns=(1, 1))
    nlp.to_disk(path)
    assert file.stat().st_mtime_ns == 1
    with_other = spacy.blank("en")
    with_other.add_pipe("elmo")
    with_other.to_disk(path)
    assert file.stat().st_mtime_ns != 1
    assert spacy.load(path)(TEXT)._.elmo.shape == (9, bundled_width)


@pytest.mark.parametrize("name", ["weights.hdf5", "options.json", "digest"])
def test_missing_file_is_a_clear_error(saved, name):
    path, _ = saved
    (path / "elmo" / "model" / name).unlink()
    with pytest.raises(ElmoError, match="elmo/model"):
        spacy.load(path)


def test_truncated_weights_are_a_clear_error(saved):
    path, _ = saved
    file = path / "elmo" / "model" / "weights.hdf5"
    file.write_bytes(file.read_bytes()[:50_000])
    with pytest.raises(ElmoError, match="weights"):
        spacy.load(path)


def test_other_weights_than_those_saved_are_a_clear_error(saved, data):
    path, _ = saved
    shutil.copy(data / "tiny_2l_clip" / "weights.hdf5", path / "elmo" / "model" / "weights.hdf5")
    with pytest.raises(ElmoError, match="digest"):
        spacy.load(path)


@pytest.mark.parametrize("name", ["weights.hdf5", "options.json"])
def test_saving_again_makes_damage_good(saved, name):
    path, vectors = saved
    nlp = spacy.load(path)
    file = path / "elmo" / "model" / name
    file.write_bytes(file.read_bytes()[:100])
    nlp.to_disk(path)
    np.testing.assert_allclose(spacy.load(path)(TEXT)._.elmo, vectors, atol=1e-6)


def test_saving_again_makes_damage_good_that_leaves_the_size(saved):
    path, vectors = saved
    nlp = spacy.load(path)
    file = path / "elmo" / "model" / "weights.hdf5"
    content = bytearray(file.read_bytes())
    content[-5] ^= 0x40
    file.write_bytes(content)
    nlp.to_disk(path)
    np.testing.assert_allclose(spacy.load(path)(TEXT)._.elmo, vectors, atol=1e-6)


def test_folder_that_cannot_be_made_is_a_clear_error(saved, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    elmo = spacy.load(saved[0]).get_pipe("elmo")
    with pytest.raises(ElmoError, match=r"file.x: cannot be written"):
        elmo.to_disk(tmp_path / "file" / "x")


def test_vocabulary_of_a_word_input_model_is_part_of_what_is_saved(data, tmp_path):
    options = BiLMOptions(lstm=load(data / "tiny_2l_skip").options.lstm, char_cnn=None)
    pipelines = []
    for number, words in enumerate((["cat", "dog"], ["dog", "cat"])):
        write(BiLM(options, ["<S>", "</S>", "<UNK>", *words]), tmp_path / str(number))
        nlp = spacy.blank("en")
        nlp.add_pipe("elmo", config={"model": {"weights": str(tmp_path / str(number))}})
        nlp.to_disk(tmp_path / "saved")
        np.testing.assert_allclose(spacy.load(tmp_path / "saved")("cat")._.elmo, nlp("cat")._.elmo, atol=1e-6)
        pipelines.append(nlp)
    assert np.abs(pipelines[0]("cat")._.elmo - pipelines[1]("cat")._.elmo).max() > 1e-3


def test_digest_file_of_odd_bytes_is_a_clear_error(saved):
    path, _ = saved
    (path / "elmo" / "model" / "digest").write_bytes(b"\xff\xfe" * 40)
    with pytest.raises(WeightsError, match="digest differs"):
        spacy.load(path)


@pytest.mark.parametrize("is_sealed", [True, False], ids=["with-checksum", "as-once-written"])
def test_changed_bytes_are_a_clear_error_or_change_nothing(data, is_sealed):
    """Earlier versions wrote no checksum, so changed vectors cannot be detected. But only our own errors may be
    raised."""
    elmo = spacy.blank("en").add_pipe("elmo", config={"model": {"weights": str(data / "tiny_2l_skip")}})
    whole = elmo.to_bytes()
    start = 0 if is_sealed else whole.index(b"\x81")  # the message after magic number and checksum
    random = np.random.default_rng(0)
    for place in [*range(start, start + 150), *random.integers(start, len(whole), 100).tolist()]:
        changed = bytearray(whole[start:])
        changed[place - start] ^= 1 << int(random.integers(8))
        try:
            elmo.from_bytes(bytes(changed))
        except ElmoError:
            continue
        assert not is_sealed
    with pytest.raises(WeightsError, match="elmo: the bytes to load"):
        elmo.from_bytes(whole[:-10])
    elmo.from_bytes(whole)


@pytest.mark.parametrize("damaged", [b"", b"garbage", b"\x80", b"\x81\xa1a" + b"\0" * 5000])
def test_damaged_bytes_are_a_clear_error_in_one_short_line(damaged):
    elmo = spacy.blank("en").add_pipe("elmo")
    for read in (elmo.from_bytes, shim_of(elmo.model).from_bytes):
        with pytest.raises(ElmoError, match="bytes") as caught:
            read(damaged)
        assert len(str(caught.value)) < 400  # msgpack's own repeats all bytes after a message


@pytest.mark.parametrize("card", ["name", 5, None, ["name"]])
def test_bytes_whose_card_is_no_object_are_refused(card):
    nlp = spacy.blank("en")
    elmo = nlp.add_pipe("elmo")
    shim_of(elmo.model).bilm.card = card
    with pytest.raises(WeightsError, match="hold no biLM, or are damaged"):
        elmo.from_bytes(elmo.to_bytes())


def test_bytes_without_the_model_are_an_error_unless_that_is_asked_for():
    elmo = spacy.blank("en").add_pipe("elmo")
    without = elmo.to_bytes(exclude=["model"])
    with pytest.raises(WeightsError, match="hold no model"):
        elmo.from_bytes(without)
    elmo.from_bytes(without, exclude=["model"])


def test_interrupted_save_is_made_good_by_the_next(saved, monkeypatch):
    path, vectors = saved
    nlp, other = spacy.load(path), spacy.blank("en")
    other.add_pipe("elmo")

    def interrupted(*args):
        write_files(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr("spacy_elmo.formats.writing.write_files", interrupted)
    with pytest.raises(KeyboardInterrupt):
        other.to_disk(path)
    monkeypatch.undo()
    elmo = nlp.get_pipe("elmo").from_disk(path / "elmo")  # nothing of the old state is lost
    np.testing.assert_allclose(elmo(nlp.make_doc(TEXT))._.elmo, vectors, atol=1e-6)
    nlp.to_disk(path)
    np.testing.assert_allclose(spacy.load(path)(TEXT)._.elmo, vectors, atol=1e-6)


def test_weights_that_another_replaces_while_they_are_saved_again_are_written_anew(data, tmp_path, monkeypatch):
    """The next state has the same size, and replaces the old one between the check and the link."""
    one, other = (spacy.blank("en").add_pipe("elmo", config={"model": {"weights": "random"}}) for _ in range(2))
    for seed, component in enumerate((one, other)):
        shim_of(component.model).set(BiLM(load(data / "tiny_2l_skip").options, seed=seed))
    one.to_disk(tmp_path / "saved")
    link, turns = files.link_or_copy, [other]

    def link_later(source, target):
        if turns:
            turns.pop().to_disk(tmp_path / "saved")
        link(source, target)

    monkeypatch.setattr(files, "link_or_copy", link_later)
    one.to_disk(tmp_path / "saved")
    assert not turns
    loaded = spacy.blank("en").add_pipe("elmo").from_disk(tmp_path / "saved")
    assert digest(shim_of(loaded.model).bilm) == digest(shim_of(one.model).bilm)


def test_model_copy_is_independent_and_has_a_number_of_its_own(nlp):
    model = nlp.get_pipe("elmo").model
    copied = model.copy()
    assert shim_of(copied).id != shim_of(model).id
    doc = Doc(nlp.vocab, words=["one", "two"])
    np.testing.assert_allclose(copied.predict([doc])[0], model.predict([doc])[0], atol=1e-6)
    parameter = next(shim_of(copied).bilm.parameters())
    parameter.data.zero_()
    assert next(shim_of(model).bilm.parameters()).abs().sum() > 0


@pytest.mark.slow
def test_packaged_pipeline_loads_offline_with_the_same_vectors(saved, install, tmp_path):
    path, vectors = saved
    command = [sys.executable, "-m", "spacy", "package", path, tmp_path, "--name", "demo", "--build", "wheel"]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("**/*.whl")
    site = tmp_path / "site"
    install(wheel, site)
    shutil.rmtree(path)
    code = f"import numpy, spacy; numpy.save('vectors.npy', spacy.load('en_demo')({TEXT!r})._.elmo)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)})
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), vectors, atol=1e-6)


CODE = """
import json, socket, sys

def refuse(*_):
    raise OSError("there is no network")

socket.socket.connect = socket.getaddrinfo = refuse
import spacy, spacy_elmo
nlp = spacy.load("en_demo")
doc = nlp(sys.argv[1])
print(json.dumps([spacy_elmo.__file__, [source["name"] for source in nlp.meta["sources"]], doc._.elmo.tolist()]))
"""


@pytest.mark.slow
def test_packaged_pipeline_is_installed_without_an_index_from_both_wheels(wheel, tmp_path):
    """Their dependencies are already installed."""
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo")
    nlp.to_disk(tmp_path / "saved")
    build = [
        sys.executable,
        "-m",
        "spacy",
        "package",
        tmp_path / "saved",
        tmp_path,
        "--name",
        "demo",
        "--build",
        "wheel",
    ]
    subprocess.run(build, check=True, capture_output=True)
    (packaged,) = tmp_path.glob("en_demo-*/dist/*.whl")

    venv.create(tmp_path / "venv", symlinks=os.name != "nt")
    paths = sysconfig.get_paths("venv", {"base": str(tmp_path / "venv"), "platbase": str(tmp_path / "venv")})
    python, site = Path(paths["scripts"]) / Path(sys.executable).name, Path(paths["purelib"])
    others = tmp_path / "others"
    others.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "spacy_elmo" not in entry.name:
            (others / entry.name).symlink_to(entry)
    (site / "others.pth").write_text(f"{others}\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command):
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    def install(*wheels):
        (links := tmp_path / f"{len(wheels)} wheels").mkdir()
        for one in wheels:
            shutil.copy(one, links)
        pip = [sys.executable, "-m", "pip", "--isolated", "--python", python, "install"]
        return run(*pip, "--no-index", "--find-links", links, "en-demo")

    alone = install(packaged)
    assert "No matching distribution found for spacy-elmo" in alone.stderr
    both = install(packaged, wheel)
    assert both.returncode == 0, both.stderr
    done = run(python, "-c", CODE, TEXT)
    assert done.returncode == 0, done.stderr
    place, sources, vectors = json.loads(done.stdout)
    assert Path(place).is_relative_to(site)
    assert sources == ["en_elmo_sm"]
    np.testing.assert_allclose(vectors, nlp(TEXT)._.elmo, atol=1e-5)
    (licences,) = site.glob("en_demo/**/LICENSES_SOURCES")
    assert "CC BY-SA 4.0" in licences.read_text(encoding="utf-8")
