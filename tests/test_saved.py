"""Files written by commit 06e34a3 (`data/saved_06e34a3`) can be read, and give the same results as then.

Only a cache or an unfinished file may be refused instead, with one line that says what to do.
"""

import dataclasses
import gzip
import json
import os
import shutil
import tarfile
import zipfile

import h5py
import numpy as np
import pytest
import spacy
import torch
from spacy.tokens import Doc, DocBin
from spacy.training import Example
from typer.testing import CliRunner

from spacy_elmo import ElmoError, restore_hooks
from spacy_elmo.bilm import BiLM, BiLMOptions, Elmo, ScalarMix
from spacy_elmo.cli import elmo_cli
from spacy_elmo.formats import digest, load
from spacy_elmo.pretraining.config import Config
from spacy_elmo.pretraining.run import pretrain
from spacy_elmo.tools.embed import embed_file

TINY = ("tiny_2l_skip", "tiny_2l_clip")
ARCHITECTURES = (
    "plain",
    "without_clips",
    "without_projection",
    "three_layers_without_skips",
    "tanh_without_highway",
    "as_training_writes_it",
    "words",
)
PIPELINES = ("listeners", "concat", "replaced", "finetuned")
RUNS = ("adagrad", "adam")
TAGS = ["PRON", "VERB", "ADP", "DET", "NOUN", "PUNCT", "PROPN", "VERB", "NOUN", "ADP", "DET", "NOUN", "PUNCT"]


@pytest.fixture(scope="module")
def saved(data):
    return data / "saved_06e34a3"


@pytest.fixture(scope="module")
def then(saved):
    """Return the digests, names, shapes and losses of that time."""
    return json.loads((saved / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def unpacked(saved, tmp_path_factory):
    """Unpack every pipeline, as a directory and as bytes."""
    path = tmp_path_factory.mktemp("pipelines")
    for name in PIPELINES:
        with tarfile.open(saved / "pipelines" / f"{name}.tar.xz") as archive:
            archive.extractall(path, filter="data")
    return path


def assert_close(now, then, tolerance=1e-5):
    np.testing.assert_allclose(now, then, rtol=0, atol=tolerance)


def shapes_of(module):
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


# --- models


def as_directory(directory, tmp_path):
    return directory


def as_file(directory, tmp_path):
    return directory / "weights.hdf5"


def as_archive(directory, tmp_path, folder=""):
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in directory.iterdir():
            archive.write(file, folder + file.name)
    return path


def as_archive_with_a_folder(directory, tmp_path):
    return as_archive(directory, tmp_path, "218/")


@pytest.fixture(scope="module")
def models(saved, data):
    """Return the folders of the models that were written as directories."""
    runs = {name: saved / "pretraining" / name for name in RUNS}
    return {**{name: data / name for name in TINY}, "words": saved / "models" / "words", **runs}


@pytest.mark.parametrize("kind", [as_directory, as_file, as_archive, as_archive_with_a_folder])
@pytest.mark.parametrize("name", [*TINY, "words", *RUNS])
def test_model_has_the_digest_of_then_however_it_is_stored(models, then, tmp_path, name, kind):
    expected = then["pretraining"][name]["digest"] if name in RUNS else then["digests"][name]
    assert digest(load(kind(models[name], tmp_path))) == expected


@pytest.mark.parametrize("name", TINY)
def test_model_gives_the_vectors_of_then(saved, models, then, name):
    bilm = load(models[name])
    assert digest(bilm) == then["digests"][name]
    assert shapes_of(bilm) == then["state_dicts"][name]
    assert_gives(bilm, name, saved, then)


def test_model_that_reads_words_gives_the_vectors_of_then(saved, models, then):
    assert_gives(load(models["words"]), "words", saved, then)


def assert_gives(bilm, name, saved, then):
    vectors = np.load(saved / "models" / "models.npz")
    for number, layers in enumerate(bilm.encode(then["sentences"])):
        assert_close(layers, vectors[f"{name}/{number}"])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_takes_a_state_dict_of_then_and_has_its_digest_and_vectors(saved, then, name):
    options = BiLMOptions.from_dict(then["architectures"][name], name)
    bilm = BiLM(options, then["vocabulary"] if name == "words" else None).eval()
    assert shapes_of(bilm) == then["state_dicts"][name]
    bilm.load_state_dict(filled(then["state_dicts"][name]))
    assert digest(bilm) == then["digests"][name]
    assert_gives(bilm, name, saved, then)


def filled(shapes):
    """Return the numbers that `make.py` filled its models with."""
    return {
        name: ((torch.arange(np.prod(shapes[name])).reshape(shapes[name]) * 7 + number) % 11 - 5) / 8
        for number, name in enumerate(sorted(shapes))
    }


def test_every_architecture_and_pipeline_of_then_is_tested(saved, then):
    assert {*TINY, *ARCHITECTURES} == set(then["digests"])
    assert {f"{name}.tar.xz" for name in PIPELINES} == {path.name for path in saved.glob("pipelines/*.tar.xz")}
    assert set(RUNS) == set(then["pretraining"])


@pytest.mark.parametrize(
    ("name", "settings"), [("Elmo", {}), ("Elmo with fixed mixes", {"scalar_mix_parameters": [1.0, 2.0, 3.0]})]
)
def test_elmo_has_the_state_dict_of_then(data, then, name, settings):
    assert shapes_of(Elmo(None, data / TINY[0], 2, **settings)) == then["state_dicts"][name]


def test_scalar_mix_has_the_state_dict_of_then(then):
    assert shapes_of(ScalarMix(3)) == then["state_dicts"]["ScalarMix"]


# --- pipelines


def from_disk(path):
    return spacy.load(path)


def from_bytes(path):
    nlp = spacy.util.load_model_from_config(spacy.util.load_config(path / "config.cfg"))
    return nlp.from_bytes(path.with_suffix(".bytes").read_bytes())


def annotated(nlp, then):
    return nlp(Doc(nlp.vocab, words=[word for sentence in then["sentences"] for word in sentence]))


def what_it_gives(nlp, then):
    """Return ELMo's vectors, and what each component reads and predicts, as in `make.py`."""
    doc = annotated(nlp, then)
    given = {"ents": np.array([[ent.start, ent.end, ent.label_] for ent in doc.ents])}
    if nlp.has_pipe("elmo"):
        given |= {"elmo": doc._.elmo, "vector": doc.vector, "tensor": doc.tensor}
        if doc._.elmo_layers is not None:
            given["elmo_layers"] = doc._.elmo_layers
    for name, pipe in nlp.pipeline:
        if name in ("tagger", "textcat", "ner"):
            given[f"{name}/tok2vec"] = np.vstack(pipe.model.get_ref("tok2vec").predict([doc]))
        if name in ("tagger", "textcat"):
            given[f"{name}/scores"] = np.asarray(pipe.model.predict([doc])[0])
    return given


def assert_same(given, expected):
    assert set(given) == set(expected.files)
    for key in expected.files:
        if key == "ents":
            assert given[key].tolist() == expected[key].tolist()
        else:  # a task's own network may amplify the rounding of the vectors that it reads
            assert_close(given[key], expected[key], 1e-4 if "/" in key else 1e-5)


@pytest.mark.parametrize("read", [from_disk, from_bytes])
@pytest.mark.parametrize("name", PIPELINES)
def test_pipeline_gives_what_it_gave_then(saved, unpacked, then, name, read):
    assert_same(what_it_gives(read(unpacked / name), then), np.load(saved / "pipelines" / f"{name}.npz"))


@pytest.mark.parametrize("name", [name for name in PIPELINES if name != "replaced"])
def test_weights_of_a_pipeline_have_the_digest_of_then(unpacked, then, name):
    assert digest(load(unpacked / name / "elmo" / "model")) == then["pipelines"][name]


@pytest.mark.slow
@pytest.mark.parametrize("name", PIPELINES)
def test_pipeline_saved_again_gives_what_it_gave_then(saved, unpacked, then, tmp_path, name):
    spacy.load(unpacked / name).to_disk(tmp_path / name)
    assert_same(what_it_gives(spacy.load(tmp_path / name), then), np.load(saved / "pipelines" / f"{name}.npz"))


def test_pipeline_that_was_made_with_random_weights_loads_with_those_it_was_saved_with(saved, unpacked, then, tmp_path):
    """Then, `weights = null` asked for random weights, and the pipeline's own were saved with it."""
    path = shutil.copytree(unpacked / "listeners", tmp_path / "listeners")
    config = (path / "config.cfg").read_text()
    assert 'weights = "gone/tiny_2l_skip"' in config
    (path / "config.cfg").write_text(config.replace('weights = "gone/tiny_2l_skip"', "weights = null"))
    assert_same(what_it_gives(spacy.load(path), then), np.load(saved / "pipelines" / "listeners.npz"))


def test_finetuned_pipeline_trains_on(unpacked, then):
    nlp = spacy.load(unpacked / "finetuned")
    before = annotated(nlp, then)._.elmo
    optimizer = nlp.resume_training()
    for _ in range(2):  # the biLM is a step behind
        nlp.update(tagged(nlp, then), sgd=optimizer, annotates=["sentencizer"])
    assert np.abs(annotated(nlp, then)._.elmo - before).max() > 1e-3


def tagged(nlp, then):
    """Make the examples that the pipelines were trained with."""
    words = [word for sentence in then["sentences"] for word in sentence]
    reference = Doc(nlp.vocab, words=words, tags=TAGS)
    other = Doc(nlp.vocab, words=["Hello"], tags=["INTJ"])
    reference.cats, other.cats = {"long": 1.0, "short": 0.0}, {"long": 0.0, "short": 1.0}
    return [Example(Doc(nlp.vocab, words=[token.text for token in doc]), doc) for doc in (reference, other)]


@pytest.mark.parametrize("kind", ["DocBin", "bytes"])
def test_saved_doc_has_the_vectors_of_then(saved, kind):
    vocab = spacy.blank("en").vocab
    if kind == "DocBin":
        (doc,) = DocBin().from_disk(saved / "pipelines" / "listeners.spacy").get_docs(vocab)
    else:
        doc = Doc(vocab).from_bytes((saved / "pipelines" / "listeners.doc").read_bytes())
    expected = np.load(saved / "pipelines" / "listeners.npz")
    assert_close(doc._.elmo, expected["elmo"])
    assert_close(doc._.elmo_layers, expected["elmo_layers"])
    assert_close(restore_hooks(doc).vector, expected["vector"])
    assert_close(doc[4]._.elmo, expected["elmo"][4])
    assert doc[4]._.elmo_similarity(doc[11]) < 0.999  # "bank" in two sentences


# --- caches of training


@pytest.fixture
def cache(saved, tmp_path):
    """Return a function that unpacks a cache and returns its `cache_path`."""

    def unpack(name):
        for file in (name, f"{name}.index"):
            (tmp_path / file).write_bytes(gzip.decompress((saved / "cache" / f"{file}.gz").read_bytes()))
        return tmp_path / name

    return unpack


def update_with(path, unpacked, then, pipeline="listeners", exclude=(), precision="float32"):
    """Return the losses of an update with this cache, or the error that refuses it."""
    elmo = {"cache_path": str(path), "cache_precision": precision}
    nlp = spacy.load(unpacked / pipeline, exclude=exclude, config={"components": {"elmo": elmo}})
    nlp.resume_training()
    try:
        return nlp.update(tagged(nlp, then), sgd=False, losses={}, annotates=["sentencizer"])
    except ElmoError as error:
        return error
    finally:
        nlp.get_pipe("elmo").memory.clear()


def assert_says_what_to_do(error):
    assert "\n" not in str(error)
    assert any(advice in str(error) for advice in ("delete", "name another", "--force", "start again"))


@pytest.mark.parametrize(("name", "exclude", "precision"), [("rows", [], "float32"), ("mix", ["tagger"], "float16")])
def test_cache_is_read_or_refused_in_one_line(cache, unpacked, then, name, exclude, precision):
    path = cache(name)
    index = path.with_name(f"{name}.index")
    before = index.read_bytes()
    done = update_with(path, unpacked, then, exclude=exclude, precision=precision)
    if isinstance(done, ElmoError):
        assert_says_what_to_do(done)
    else:
        assert done == pytest.approx(then["cache"][name], rel=1e-5)
        assert index.read_bytes() == before  # it was complete


def test_cache_of_another_bilm_is_refused_in_one_line(cache, unpacked, then):
    error = update_with(cache("rows"), unpacked, then, pipeline="concat", exclude=["ner"])
    assert isinstance(error, ElmoError)
    assert_says_what_to_do(error)


# --- runs of pretraining


@pytest.fixture
def run(saved, tmp_path):
    """Return a function that resumes a copy of a run: `go_on(name, steps)` returns the directory."""
    text = shutil.copy(saved / "pretraining" / "text.txt", tmp_path / "text.txt")

    def go_on(name, steps):
        out = shutil.copytree(saved / "pretraining" / name, tmp_path / name)
        (fingerprint,) = json.loads((out / "corpus" / "corpus.json").read_text())["files"]
        os.utime(text, ns=(fingerprint[2], fingerprint[2]))  # git keeps no times; this is the encoded text
        config = Config.from_file(out / "pretrain.cfg")
        training = dataclasses.replace(config.training, max_steps=steps)
        pretrain(text, out, dataclasses.replace(config, training=training), resume=True, show_progress=False)
        return out

    return go_on


def log_of(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines], [line["loss"] for line in lines]


def test_checkpoint_goes_on_with_the_numbers_of_then(saved, run, then):
    out = run("adagrad", 24)
    steps, losses = zip(*then["pretraining"]["adagrad"]["losses"], strict=True)
    assert log_of(out) == (list(steps), pytest.approx(losses, abs=1e-5))
    expected = np.load(saved / "pretraining" / "adagrad.npz")["arr_0"]
    assert_close(load(out).encode([["w01", "w08", "w15", "new"]])[0], expected)


def test_checkpoint_of_a_run_with_dropout_from_another_model_goes_on(run, then):
    """The random numbers for dropout are torch's, and other versions may draw others."""
    out = run("adam", 24)
    steps, losses = zip(*then["pretraining"]["adam"]["losses"], strict=True)
    assert log_of(out) == (list(steps), pytest.approx(losses, rel=0.1))
    assert json.loads((out / "model_card.json").read_text())["initialized_from"] == "gone/adagrad"


def test_checkpoint_at_its_last_step_gives_the_model_of_then(run, then):
    assert digest(load(run("adam", 12))) == then["pretraining"]["adam"]["digest"]


# --- what `embed` writes


def vectors_in(path):
    with h5py.File(path) as file:
        return {name: file[name][...] for name in file if name != "sentence_to_index"}


def test_unfinished_embedding_is_finished_or_refused_in_one_line(saved, data, tmp_path):
    folder, out = saved / "embed", tmp_path / "killed.h5"
    shutil.copytree(folder / "killed.h5.unfinished", tmp_path / "killed.h5.part")
    try:
        embed_file(folder / "text.txt", out, model=str(data / TINY[0]), batch_size=2, resume=True)
    except ElmoError as error:
        assert_says_what_to_do(error)
        return
    found, expected = vectors_in(out), vectors_in(folder / "whole.h5")
    assert found.keys() == expected.keys()
    for name, vectors in expected.items():
        assert_close(found[name], vectors)


def test_neighbours_are_found_in_an_embedding_of_then(saved, then):
    arguments = ["neighbours", "bank", str(saved / "embed" / "whole.h5"), "--line", "0", "--json", "--quiet"]
    found = json.loads(CliRunner().invoke(elmo_cli, arguments).stdout)["neighbours"]
    assert [(use["line"], use["position"], use["word"]) for use in found] == [
        (use["line"], use["position"], use["word"]) for use in then["neighbours"]
    ]
    assert_close([use["similarity"] for use in found], [use["similarity"] for use in then["neighbours"]])
