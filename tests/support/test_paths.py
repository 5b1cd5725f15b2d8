"""A path that no file can have is one error in one line, which names the setting, wherever somebody gives it."""

import sys

import pytest
import spacy

from helpers.pipelines import pipeline, train
from spacy_elmo import ElmoError, WeightsError
from spacy_elmo.errors import CorpusError
from spacy_elmo.formats import load, open_model, read_softmax, write
from spacy_elmo.formats.known import CACHE, cache_directory
from spacy_elmo.pretraining.blimp import read_pairs
from spacy_elmo.pretraining.config import Config, CorpusConfig
from spacy_elmo.pretraining.run import pretrain
from spacy_elmo.pretraining.vocabulary import Vocabulary
from spacy_elmo.support.paths import path_of
from spacy_elmo.tools.convert import convert
from spacy_elmo.tools.embed import embed_file
from spacy_elmo.tools.prepare import prepare
from spacy_elmo.tools.static import average_words
from spacy_elmo.tools.tokenized import of_each
from spacy_elmo.tools.visualize import files_of


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a\0b", r"^out: 'a\\x00b' cannot be a path \(.*null.*\)$"),
        ("a\ud800", r"^out: 'a\\ud800' cannot be a path \(.*surrogates.*\)$"),
        ("x" * 300, r"^out: 'x{99}… is too long for a path$"),
        (b"name", r"^out: expected a path, got b'name'$"),
        (7, r"^out: expected a path, got 7$"),
        (None, r"^out: expected a path, got None$"),
    ],
    ids=["NUL", "surrogate", "long", "bytes", "number", "None"],
)
def test_what_cannot_be_a_path_is_an_error_that_names_the_setting(value, message):
    with pytest.raises(WeightsError, match=message):
        path_of(value, "out", WeightsError)


def test_a_path_is_one_whether_it_exists_or_not(tmp_path):
    (tmp_path / "there").touch()
    for name in ("there", "missing", "missing/in/it", "there/in/it"):
        assert path_of(str(tmp_path / name), "out") == tmp_path / name


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, with a text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("the bank of the river\n")
    return tmp_path


def train_with_cache(model, path):
    train(pipeline(model, elmo={"cache_path": path}), 1)


def pretrain_with(**settings):
    return pretrain("text.txt", "run", Config(corpus=CorpusConfig(**settings)))


USES = {
    "embed text": ("text", lambda model, path: embed_file(path, "out.h5", model=model)),
    "embed out": ("out", lambda model, path: embed_file("text.txt", f"{path}.h5", model=model)),
    "embed model": ("weights", lambda model, path: embed_file("text.txt", "out.h5", model=path)),
    "convert source": ("weights", lambda model, path: convert(path, "converted")),
    "convert target": ("target", lambda model, path: convert(model, path)),
    "cache_path": ("cache_path", train_with_cache),
    "to_disk": ("elmo: path", lambda model, path: pipeline(model).get_pipe("elmo").to_disk(path)),
    "from_disk": ("elmo: path", lambda model, path: pipeline(model).get_pipe("elmo").from_disk(path)),
    "open_model": ("weights", lambda model, path: open_model(path)),
    "load": ("weights", lambda model, path: load(path)),
    "options": ("options", lambda model, path: load(model, path)),
    "read_softmax": ("folder", lambda model, path: read_softmax(path, 4)),
    "write": ("directory", lambda model, path: write(load(model), path)),
    "prepare raw": ("text", lambda model, path: prepare(path, "prepared")),
    "prepare out": ("out", lambda model, path: prepare("text.txt", path)),
    "pretrain corpus": ("corpus", lambda model, path: pretrain(path, "run", Config())),
    "pretrain out": ("out", lambda model, path: pretrain("text.txt", path, Config())),
    "config": ("config", lambda model, path: Config.from_file(path)),
    "heldout": (r"\[corpus\] heldout", lambda model, path: pretrain_with(heldout=path)),
    "vocabulary of a config": (r"\[corpus\] vocabulary", lambda model, path: pretrain_with(vocabulary=path)),
    "vocabulary": ("vocabulary", lambda model, path: Vocabulary.from_file(path)),
    "blimp": ("directory", lambda model, path: read_pairs(path)),
    "text of a command": ("text", lambda model, path: list(of_each(path, iter))),
    "static": ("out", lambda model, path: average_words("text.txt", path, model=model)),
    "visualize": ("out", lambda model, path: files_of(path)),
}


@pytest.mark.parametrize("name", ["a\0b", "a\ud800", "x" * 300], ids=["NUL", "surrogate", "long"])
@pytest.mark.parametrize("use", USES)
def test_it_is_told_wherever_a_path_is_given(data, folder, use, name):
    if use == "cache_path" and name == "a\ud800":
        pytest.skip("spaCy cannot hold it in a config")
    setting, call = USES[use]
    with pytest.raises(ElmoError, match=rf"^{setting}: ") as caught:
        call(str(data / "tiny_2l_skip"), name)
    assert str(caught.value).isprintable()
    assert [path.name for path in folder.iterdir()] == ["text.txt"]


def begin_run(model, out):
    """Pretrain until the run has its folder."""
    with pytest.raises(CorpusError, match="missing"):
        pretrain("text.txt", out, Config(corpus=CorpusConfig(vocabulary="missing")))


FOLDERS = {
    "convert": convert,
    "write": lambda model, out: write(load(model), out),
    "prepare": lambda model, out: prepare("text.txt", out, held_out=0),
    "pretrain": begin_run,
    "static": lambda model, out: average_words("text.txt", out, model=model, min_count=1),
    "to_disk": lambda model, out: pipeline(model).get_pipe("elmo").to_disk(out),
}


@pytest.mark.skipif(sys.platform == "win32", reason="links need a permission")
@pytest.mark.parametrize("use", FOLDERS)
def test_a_link_to_a_folder_that_does_not_exist_makes_that_folder(data, folder, use):
    (folder / "link").symlink_to("else/where")
    FOLDERS[use](str(data / "tiny_2l_skip"), "link")
    assert sorted(path.name for path in folder.iterdir()) == ["else", "link", "text.txt"]
    assert (folder / "link").is_symlink()
    assert any((folder / "else" / "where").iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="links need a permission")
@pytest.mark.parametrize("use", FOLDERS)
def test_a_link_that_leads_back_to_itself_is_an_error(data, folder, use):
    (folder / "link").symlink_to("link")
    with pytest.raises(ElmoError, match=r"'link' cannot be written .*symbolic links"):
        FOLDERS[use](str(data / "tiny_2l_skip"), "link")


@pytest.mark.skipif(sys.platform == "win32", reason="links need a permission")
def test_downloads_go_to_the_folder_that_a_link_names(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to("else/where")
    monkeypatch.setenv(CACHE, str(tmp_path / "link"))
    assert cache_directory() == tmp_path / "else" / "where"


def test_a_line_break_in_a_name_does_not_break_the_line_of_the_error():
    with pytest.raises(WeightsError, match=r"^no\\nmodel: no such weights") as caught:
        spacy.blank("en").add_pipe("elmo", config={"model": {"weights": "no\nmodel"}}).read_weights()
    assert str(caught.value).isprintable()
