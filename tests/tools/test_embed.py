import gzip
import json
import multiprocessing
import os
import random
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import DocBin

import spacy_elmo
from spacy_elmo.cli import elmo_cli
from spacy_elmo.errors import CorpusError, ElmoError
from spacy_elmo.formats import load
from spacy_elmo.tools import embed as tool
from spacy_elmo.tools.embed import embed_file
from spacy_elmo.tools.embedding import spool as spools
from spacy_elmo.tools.embedding.encoder import Encoder
from spacy_elmo.tools.embedding.files import WRITERS, sentence_index
from spacy_elmo.tools.embedding.keys import check_keys
from spacy_elmo.tools.embedding.text import Text, windows

LINES = [
    "The quick brown fox jumps over the lazy dog .",
    "Hello",
    "naïve café “quoted” 今天 😀",
    "Hello",
    "a  b\tc",
    "The end / or not",
]
SENTENCES = [line.split() for line in LINES]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model(data):
    return str(data / "tiny_2l_skip")


@pytest.fixture(scope="module")
def expected(model):
    """All layers of each line."""
    return load(model).encode(SENTENCES)


def contents(path):
    """Every dataset of an HDF5 file: name to array, or to the string that it is."""
    with h5py.File(path) as file:
        names = []
        file.visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None)
        return {name: file[name][0] if file[name].dtype == object else file[name][...] for name in names}


def assert_same(one, other):
    one, other = contents(one), contents(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])
        assert getattr(value, "dtype", None) == getattr(other[name], "dtype", None)


# --- the layout of the older tools


@pytest.mark.parametrize(
    ("reference", "settings"),
    [
        ("elmo_all", {"layers": "all", "batch_size": 2}),
        ("elmo_top", {"layers": "top", "batch_size": 2}),
        ("elmo_average", {"layers": "average", "batch_size": 2}),
        ("elmo_all_forget", {"forget_sentences": True, "batch_size": 2}),
        ("bilm_dump_embeddings", {"forget_sentences": True, "batch_size": 1}),
        ("elmo_all_keys", {"use_sentence_keys": True, "batch_size": 2}),
    ],
)
def test_files_of_the_older_tools_are_met(shared, tmp_path, reference, settings):
    """The originals carried their LSTM state: `allennlp elmo` in batches of two lines, bilm-tf line by line."""
    cli = shared / "references" / "cli"
    text = cli / ("sents3.txt" if reference == "elmo_all_keys" else "sents.txt")
    out = tmp_path / "out.hdf5"
    embed_file(text, out, model=str(shared / "references" / "tiny_2l_skip"), carry_state=True, **settings)
    with h5py.File(out) as ours, h5py.File(cli / f"{reference}.hdf5") as theirs:
        assert list(ours) == list(theirs)
        for name, dataset in theirs.items():
            assert (ours[name].shape, ours[name].dtype, ours[name].chunks) == (dataset.shape, dataset.dtype, None)
            if name == "sentence_to_index":
                assert ours[name][0] == dataset[0]
                assert h5py.check_string_dtype(ours[name].dtype) == h5py.check_string_dtype(dataset.dtype)
            else:
                np.testing.assert_allclose(ours[name][...], dataset[...], rtol=0, atol=1e-5)


def test_reading_code_of_the_older_tools_works(text, model, tmp_path, expected):
    embed_file(text, tmp_path / "out.hdf5", model=model)
    with h5py.File(tmp_path / "out.hdf5", "r") as file:  # as in AllenNLP's tutorial
        index = json.loads(file.get("sentence_to_index")[0])
        vectors = file.get(index["naïve café “quoted” 今天 😀"])[...]
    assert index == {line: str(LINES.index(line)) for line in LINES} | {"Hello": "3"}
    np.testing.assert_array_equal(vectors, expected[2])


REDUCED = {
    "all": lambda layers: layers,
    "top": lambda layers: layers[-1],
    "average": lambda layers: layers.mean(axis=0),
    "0": lambda layers: layers[0],
    1: lambda layers: layers[1],
}


@pytest.mark.parametrize("float16", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("layers", REDUCED, ids=str)
def test_layers_are_those_of_encode(text, model, tmp_path, expected, layers, float16):
    report = embed_file(text, tmp_path / "out.h5", model=model, layers=layers, float16=float16, forget_sentences=True)
    found = contents(tmp_path / "out.h5")
    assert found.keys() == {str(number) for number in range(len(LINES))}
    for number, encoded in enumerate(expected):
        assert found[str(number)].dtype == (np.float16 if float16 else np.float32)
        np.testing.assert_allclose(
            found[str(number)], REDUCED[layers](encoded), rtol=0, atol=2e-3 if float16 else 1e-6, strict=False
        )
    assert (report.lines, report.tokens, report.width) == (len(LINES), sum(map(len, SENTENCES)), 32)


@pytest.mark.parametrize("layers", ["3", "-1", "tip", 7])
def test_layer_that_is_none_is_an_error(text, model, tmp_path, layers):
    with pytest.raises(ElmoError, match="from 0 to 2"):
        embed_file(text, tmp_path / "out.h5", model=model, layers=layers)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_page_runs_from_top_to_bottom_and_prints_what_it_shows(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "embedding.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```(bash|python)\n(.*?)```(?:\n\n```\n(.*?)```)?", page, re.DOTALL)
    assert len(blocks) > 6
    for language, block, shown in blocks:
        if "--engine ray" in block:
            continue  # has tests of its own
        if language == "python":
            exec(block, {})
        else:
            run_in_shell(block)
        printed, said = capsys.readouterr()
        assert without_sizes(printed + "".join(re.findall("✘.*\n", said))) == without_sizes(shown)


def without_sizes(text):
    """They depend on the versions of the packages that write."""
    return re.sub(r"[\d.]+ [kM]B", "", text)


def run_in_shell(block):
    """Run what is ours in this process."""
    before, command, arguments = block.rpartition("python -m spacy elmo ")
    assert command
    subprocess.run(["bash", "-ec", before], check=True)
    with pytest.raises(SystemExit):
        elmo_cli(shlex.split(arguments))


@given(st.lists(st.text('ab \\"é😀', max_size=3), max_size=12))
def test_index_is_that_of_a_dictionary(lines):
    assert sentence_index(lambda: iter(lines)).decode() == json.dumps({line: str(n) for n, line in enumerate(lines)})


# --- other formats


def read_npz(path):
    with np.load(path) as file:
        return [file[str(number)] for number in range(len(LINES))]


def read_table(path):
    if path.suffix == ".parquet":
        table = pytest.importorskip("pyarrow.parquet").read_table(path)
    else:
        table = pytest.importorskip("pyarrow").ipc.open_file(path).read_all()
    columns = [name for name in table.column_names if name not in ("line", "sentence", "tokens")]
    assert table["line"].to_pylist() == list(range(len(LINES)))
    if "sentence" in table.column_names:
        assert table["sentence"].to_pylist() == LINES
        assert table["tokens"].to_pylist() == SENTENCES
    arrays = zip(*(table[name].to_pylist() for name in columns), strict=True)
    return [np.array(layers[0] if columns == ["vectors"] else layers) for layers in arrays]


def read_docs(path):
    docs = list(DocBin(store_user_data=True).from_disk(path).get_docs(spacy.blank("en").vocab))
    assert [[token.text for token in doc] for doc in docs] == SENTENCES
    for doc in docs:
        if doc._.elmo_layers is not None:
            np.testing.assert_allclose(doc._.elmo, doc._.elmo_layers.mean(axis=0), rtol=1e-3, atol=1e-3)
    return [doc._.elmo if doc._.elmo_layers is None else doc._.elmo_layers for doc in docs]


READERS = {".npz": read_npz, ".parquet": read_table, ".arrow": read_table, ".spacy": read_docs}


@pytest.mark.parametrize("float16", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("layers", ["all", "top"])
@pytest.mark.parametrize("suffix", READERS)
def test_other_formats_hold_the_same_arrays(text, model, tmp_path, expected, suffix, layers, float16, monkeypatch):
    if suffix in (".parquet", ".arrow"):
        pytest.importorskip("pyarrow")
    monkeypatch.setattr("spacy_elmo.tools.embedding.files._GROUP", 4000)  # several groups
    out = tmp_path / f"out{suffix}"
    embed_file(text, out, model=model, layers=layers, float16=float16)
    for found, encoded in zip(READERS[suffix](out), expected, strict=True):
        np.testing.assert_allclose(found, REDUCED[layers](encoded), rtol=0, atol=2e-3 if float16 else 1e-6)


def test_npz_has_the_index(text, model, tmp_path):
    embed_file(text, tmp_path / "out.npz", model=model)
    with np.load(tmp_path / "out.npz") as file:
        assert json.loads(file["sentence_to_index"][0])["Hello"] == "3"


def test_forgotten_sentences_are_no_columns(text, model, tmp_path):
    pytest.importorskip("pyarrow")
    embed_file(text, tmp_path / "out.parquet", model=model, forget_sentences=True)
    assert len(read_table(tmp_path / "out.parquet")) == len(LINES)
    assert b"Hello" not in (tmp_path / "out.parquet").read_bytes()


def test_docs_of_raw_text_keep_their_spaces_and_similarity(tmp_path, model):
    (tmp_path / "raw.txt").write_text("It isn't  here.\nNor there!\n")
    embed_file(tmp_path / "raw.txt", tmp_path / "out.spacy", model=model, layers="average", pipeline="en")
    docs = list(DocBin(store_user_data=True).from_disk(tmp_path / "out.spacy").get_docs(spacy.blank("en").vocab))
    assert [doc.text for doc in docs] == ["It isn't  here.", "Nor there!"]
    rows = dict(zip([token.text for token in docs[0]], docs[0]._.elmo, strict=True))
    assert list(rows) == ["It", "is", "n't", " ", "here", "."]
    assert not rows.pop(" ").any()
    np.testing.assert_allclose([*rows.values()], load(model).encode([[*rows]])[0].mean(axis=0), rtol=0, atol=1e-6)
    assert 0 < spacy_elmo.restore_hooks(docs[0])[0].similarity(docs[1]) < 1
    here = docs[0][4]
    with docs[0].retokenize() as retokenizer:  # as many tokens as before
        retokenizer.merge(docs[0][1:3])
        retokenizer.split(here, ["he", "re"], heads=[(here, 0), (here, 1)])
    with pytest.raises(ElmoError, match="retokenized"):
        docs[0]._.elmo  # noqa: B018


def test_package_that_is_missing_is_named_before_any_work(text, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ElmoError, match=r"spacy-elmo\[arrow\]"):
        embed_file(text, tmp_path / "out.parquet", model=model)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ElmoError, match=r"spacy-elmo\[ray\]"):
        embed_file(text, tmp_path / "out.h5", model=model, engine="ray")
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


# --- texts


def test_sentences_name_the_arrays(text, model, tmp_path, expected):
    embed_file(text, tmp_path / "out.h5", model=model, use_sentence_keys=True)
    with h5py.File(tmp_path / "out.h5") as file:
        for line, encoded in zip(LINES, expected, strict=True):
            np.testing.assert_allclose(file[line], encoded, rtol=0, atol=1e-6)
    embed_file(text, tmp_path / "out.npz", model=model, use_sentence_keys=True)
    with np.load(tmp_path / "out.npz") as arrays:
        assert sorted(arrays.files) == sorted(set(LINES))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("fine\n.\n", r"line 2: HDF5 cannot name an array '\.': "),
        ("one\ntwo\none/two\n", r"line 1: HDF5 cannot name an array 'one' beside 'one/two' \(line 3\)"),
        ("one/two/three\none/two\n", r"line 2: HDF5 cannot name an array 'one/two' beside 'one/two/three' \(line 1\)"),
        ("a/b\na//b\n", "line 2: HDF5 cannot name an array 'a//b': a slash"),
        ("fine\n" * 1200 + "one\none/two\n", r"line 1201: HDF5 .* 'one' beside 'one/two' \(line 1202\)"),
        ("fine\na /./ b\n", "line 2: HDF5 .* a slash"),
        ("fine\n/a\n", "line 2: HDF5 .* a slash"),
        ("fine\na /\n", "line 2: HDF5 .* a slash"),
    ],
)
def test_sentence_that_cannot_be_a_key_is_an_error_naming_its_line(tmp_path, model, lines, words):
    """Before any work is done, so that the same run without keys is not refused."""
    (tmp_path / "text.txt").write_text(lines)
    with pytest.raises(ElmoError, match=f"text.txt, {words}"):
        embed_file(tmp_path / "text.txt", tmp_path / "out.h5", model=model, use_sentence_keys=True)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


@given(st.lists(st.text("a./ ", min_size=1, max_size=4).map(str.strip).filter(bool), min_size=1, max_size=4))
def test_sentences_are_refused_as_keys_where_hdf5_would_not_hold_them_all(tmp_path_factory, lines):
    directory = tmp_path_factory.mktemp("keys")
    (directory / "text.txt").write_text("\n".join(lines))
    try:
        check_keys(Text(directory / "text.txt"), ".h5")
        refused = False
    except ElmoError:
        refused = True
    distinct = sorted(set(lines))
    try:
        with h5py.File(directory / "out.h5", "w") as file:
            for line in distinct:
                file.create_dataset(line, data=[0.0])
        held = sorted(contents(directory / "out.h5")) == distinct
    except (ValueError, TypeError):
        held = False
    assert refused == (not held)


def test_sentence_keys_are_for_formats_that_have_keys(text, model, tmp_path):
    with pytest.raises(ElmoError, match="hold them anyway"):
        embed_file(text, tmp_path / "out.spacy", model=model, use_sentence_keys=True)


BLANK = "one\n\n \ntwo words\n" + "\n" * 9


def test_blank_lines_are_an_error_that_says_where(tmp_path, model):
    (tmp_path / "text.txt").write_text(BLANK)
    with pytest.raises(ElmoError, match=r"11 blank lines \(2, 3, 5, 6, 7, \.\.\.\).*--allow-blank"):
        embed_file(tmp_path / "text.txt", tmp_path / "out.h5", model=model)
    with pytest.raises(ElmoError, match="sentences are keys"):
        embed_file(tmp_path / "text.txt", tmp_path / "out.h5", model=model, use_sentence_keys=True, allow_blank=True)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


@pytest.mark.parametrize("suffix", WRITERS)
def test_blank_lines_may_have_arrays_of_no_tokens(tmp_path, model, suffix):
    if suffix in (".parquet", ".arrow"):
        pytest.importorskip("pyarrow")
    (tmp_path / "text.txt").write_text(BLANK)
    report = embed_file(tmp_path / "text.txt", tmp_path / f"out{suffix}", model=model, allow_blank=True)
    assert (report.lines, report.tokens) == (13, 3)
    if suffix == ".h5":
        found = contents(tmp_path / "out.h5")
        assert [found[str(number)].shape for number in (0, 1, 2, 3)] == [(3, n, 32) for n in (1, 0, 0, 2)]


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_text_of_blank_lines_alone_may_have_no_tokens(tmp_path, model, suffix):
    if suffix in (".parquet", ".arrow"):
        pytest.importorskip("pyarrow")
    (tmp_path / "text.txt").write_text("\n\n")
    report = embed_file(tmp_path / "text.txt", tmp_path / f"out{suffix}", model=model, allow_blank=True)
    assert (report.lines, report.tokens) == (2, 0)


@pytest.mark.parametrize("settings", [{}, {"force": True}, {"resume": True}])
@pytest.mark.parametrize("is_directory", [True, False])
def test_what_lies_in_the_place_of_the_spool_and_is_not_ours_stays(text, model, tmp_path, settings, is_directory):
    place = tmp_path / "out.h5.part"
    if is_directory:
        place.mkdir()
    mine = place / "mine.txt" if is_directory else place
    mine.write_text("mine")
    with pytest.raises(ElmoError, match=r"out\.h5\.part: not from a run of embed"):
        embed_file(text, tmp_path / "out.h5", model=model, **settings)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("x" * 65_532, "line 2: npz cannot name an array 'x{60}...': it is too long"),
        ("fine.npy", r"line 1: npz cannot name an array 'fine' beside 'fine.npy' \(line 2\)"),
    ],
)
def test_a_sentence_that_cannot_be_a_name_in_a_npz_is_an_error(tmp_path, model, line, words):
    (tmp_path / "text.txt").write_text(f"fine\n{line}\n")
    with pytest.raises(ElmoError, match=words):
        embed_file(tmp_path / "text.txt", tmp_path / "out.npz", model=model, use_sentence_keys=True)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_names_that_a_npz_holds_and_hdf5_does_not_are_taken(tmp_path, model):
    lines = ["and", "and/or", "/", ".", "x" * 65_531, "b.npy"]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    embed_file(tmp_path / "text.txt", tmp_path / "out.npz", model=model, use_sentence_keys=True)
    with np.load(tmp_path / "out.npz") as file:
        assert {line: file[line].shape for line in file.files} == dict.fromkeys(lines, (3, 1, 32))


def test_a_raw_line_may_be_longer_than_parsers_allow(tmp_path, model):
    (tmp_path / "text.txt").write_text("ab " * 350_000)
    report = embed_file(tmp_path / "text.txt", tmp_path / "out.h5", model=model, pipeline="xx", layers="0")
    assert report.tokens == 350_000


def test_empty_text_is_an_error(tmp_path, model):
    (tmp_path / "text.txt").touch()
    with pytest.raises(CorpusError, match=r"text\.txt: the text is empty"):
        embed_file(tmp_path / "text.txt", tmp_path / "out.h5", model=model)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_packed_text_reads_the_same(text, model, tmp_path):
    packed = tmp_path / "text.txt.gz"
    packed.write_bytes(gzip.compress(text.read_bytes()))
    for path, out in ((text, "plain.h5"), (packed, "packed.h5")):
        embed_file(path, tmp_path / out, model=model)
    assert_same(tmp_path / "plain.h5", tmp_path / "packed.h5")


@pytest.mark.parametrize(("settings", "words"), [({"pipeline": "no_such"}, "no_such: neither"), ({}, "no such text")])
def test_what_is_not_there_is_named(tmp_path, text, model, settings, words):
    with pytest.raises(CorpusError, match=words):
        embed_file(text if settings else tmp_path / "nowhere", tmp_path / "out.h5", model=model, **settings)


def test_saved_pipeline_tokenizes(tmp_path, model):
    nlp = spacy.blank("en")
    nlp.tokenizer.add_special_case("NewYork", [{"ORTH": "New"}, {"ORTH": "York"}])
    nlp.to_disk(tmp_path / "nlp")
    (tmp_path / "raw.txt").write_text("In NewYork.\n")
    embed_file(tmp_path / "raw.txt", tmp_path / "out.h5", model=model, pipeline=str(tmp_path / "nlp"))
    np.testing.assert_allclose(
        contents(tmp_path / "out.h5")["0"], load(model).encode([["In", "New", "York", "."]])[0], rtol=0, atol=1e-6
    )


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.integers(1, 6), st.integers(1, 9))
def test_windows_hold_all_lines_in_order_within_their_bounds(tmp_path_factory, lengths, batch_size, max_tokens):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    lines = [" ".join(f"{number}.{n}" for n in range(length)) for number, length in enumerate(lengths)]
    path.write_text("\n".join(lines) + "\n")
    found = list(windows(Text(path), batch_size, max_tokens))
    assert [sentence for window in found for sentence in window.sentences] == [line.split() for line in lines]
    first = 0
    for window in found:
        assert window.first == first
        first += len(window.sentences)
        assert 1 <= len(window.sentences) <= batch_size
        assert len(window.sentences) == 1 or sum(map(len, window.sentences)) <= max_tokens


# --- files that exist, runs that stop


def test_existing_file_is_kept_unless_forced(text, model, tmp_path):
    out = tmp_path / "out.h5"
    out.write_text("precious")
    for resume in (False, True):
        with pytest.raises(ElmoError, match=r"out\.h5: exists already; --force"):
            embed_file(text, out, model=model, resume=resume)
    assert out.read_text() == "precious"
    embed_file(text, out, model=model, force=True)
    assert len(contents(out)) == len(LINES) + 1


@pytest.mark.parametrize(("name", "words"), [("folder.h5", "directory"), ("no/out.h5", "make it"), ("o.txt", "suffix")])
def test_output_that_cannot_be_is_an_error(text, model, tmp_path, name, words):
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(ElmoError, match=words):
        embed_file(text, tmp_path / name, model=model)


@pytest.mark.parametrize(
    "settings",
    [{"batch_size": 0}, {"max_batch_tokens": 0}, {"engine": "fast"}, {"workers": 0}, {"gpus_per_worker": -1}],
    ids=str,
)
def test_setting_out_of_range_is_an_error_that_names_it(text, model, tmp_path, settings):
    with pytest.raises(ElmoError, match=next(iter(settings))):
        embed_file(text, tmp_path / "out.h5", model=model, **settings)


fork = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
STEPS = (
    (spools.os, "fsync"),
    (spools.os, "truncate"),
    (spools.shutil, "rmtree"),
    (Path, "open"),
    (Path, "mkdir"),
    (Path, "touch"),
    (Path, "rename"),
    (Path, "replace"),
    (Path, "unlink"),
    (h5py.Group, "create_dataset"),
)


def killed_at(step, work):
    """Run `work` in a process that kills itself at the given step; whether it came to that."""

    def run():
        left = iter(range(step))

        def dying(call):
            def counted(*args, **kwargs):
                if next(left, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)

            return counted

        for place, name in STEPS:
            setattr(place, name, dying(getattr(place, name)))
        work()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("force", [False, True])
def test_run_killed_at_any_step_goes_on_to_the_same_file(text, model, tmp_path, force):
    settings = {"model": model, "batch_size": 2}
    embed_file(text, tmp_path / "whole.h5", **settings)
    out = tmp_path / "out.h5"
    step = 0
    while True:
        if force:
            out.write_text("old")
        if not killed_at(step, lambda: embed_file(text, out, force=force, **settings)):
            break
        if spools.directory_of(out).exists() or not out.exists() or out.read_bytes() == b"old":
            embed_file(text, out, resume=True, force=force, **settings)
        assert_same(tmp_path / "whole.h5", out)
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {"text.txt", "whole.h5", "out.h5"}
        out.unlink()
        step += 1
    assert step > 20


@fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_interrupted_run_is_neither_dropped_nor_taken_for_another_unasked(text, model, tmp_path):
    out, settings = tmp_path / "out.h5", {"model": model, "batch_size": 1}
    assert killed_at(25, lambda: embed_file(text, out, **settings))
    with pytest.raises(ElmoError, match="--resume goes on, --force begins anew"):
        embed_file(text, out, **settings)
    with pytest.raises(ElmoError, match="run differs in --layers and --float16;"):
        embed_file(text, out, resume=True, layers="top", float16=True, **settings)
    text.write_text("Something else\n")
    with pytest.raises(ElmoError, match="run differs in the text;"):
        embed_file(text, out, resume=True, **settings)
    embed_file(text, out, force=True, **settings)
    assert contents(out).keys() == {"0", "sentence_to_index"}


def test_resumed_run_encodes_only_what_is_missing(text, model, tmp_path, monkeypatch):
    out, settings = tmp_path / "out.h5", {"model": model, "batch_size": 2}
    embed_file(text, tmp_path / "whole.h5", **settings)
    with monkeypatch.context() as patch:
        patch.setattr(tool, "writer_for", lambda *_: full_disk)
        with pytest.raises(ElmoError, match=r"No space left.*kept in out\.h5\.part.*--resume"):
            embed_file(text, out, **settings)
    assert not out.exists()
    with spools.directory_of(out).joinpath("lengths").open("r+b") as lengths:
        lengths.truncate(3 * 8 + 5)  # in the middle of the second window, and of a number
    seen = []
    encode = Encoder.__call__
    monkeypatch.setattr(Encoder, "__call__", lambda self, some: seen.append(some) or encode(self, some))
    embed_file(text, out, resume=True, **settings)
    assert seen == [SENTENCES[2:4], SENTENCES[4:6]]
    assert_same(tmp_path / "whole.h5", out)


def full_disk(path, *_):
    path.write_text("half")
    raise OSError(28, "No space left on device")


def test_carried_state_of_a_resumed_run_is_that_of_one_run(text, model, tmp_path, monkeypatch):
    out, settings = tmp_path / "out.h5", {"model": model, "batch_size": 2, "carry_state": True}
    embed_file(text, tmp_path / "whole.h5", **settings)
    with monkeypatch.context() as patch:
        add, calls = spools.Spool.add, iter("ab")
        patch.setattr(spools.Spool, "add", lambda self, some: next(calls) and add(self, some))
        with pytest.raises(StopIteration):
            embed_file(text, out, **settings)
    embed_file(text, out, resume=True, **settings)
    assert_same(tmp_path / "whole.h5", out)


SPOOLED = sum(map(len, SENTENCES)) * 3 * 32 * 4  # bytes


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on files")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("room", [SPOOLED // 2, SPOOLED], ids=["for half the spool", "for the spool, not the file"])
def test_file_system_that_is_full_leaves_no_file_and_can_be_resumed(text, model, tmp_path, suffix, room):
    if suffix in (".parquet", ".arrow"):
        pytest.importorskip("pyarrow")
    out, said = tmp_path / f"out{suffix}", tmp_path / "said"

    def run():
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        try:
            embed_file(text, out, model=model, batch_size=2)
        except ElmoError as error:
            said.write_text(str(error))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert "cannot be written" in said.read_text()
    assert not out.exists()
    assert not (tmp_path / f"out{suffix}.part" / out.name).exists()  # half a file
    assert (tmp_path / f"out{suffix}.part/vectors").stat().st_size <= room
    embed_file(text, out, model=model, batch_size=2, resume=True)
    embed_file(text, tmp_path / f"whole{suffix}", model=model, batch_size=2)
    assert out.read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on files")
def test_disk_that_fills_while_hdf5_is_written_is_one_error_and_no_crash(tmp_path, model):
    """HDF5's own tables, flushed when the file is closed, are most of this one."""
    rooms = [60_000, 110_000, 140_000]
    (tmp_path / "text.txt").write_text("".join(f"w{n}\n" for n in range(300)))
    call = [sys.executable, "-c", LIMITED, str(tmp_path), model, *map(str, rooms)]
    done = subprocess.run(call, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for room, said in zip(rooms, done.stdout.splitlines(), strict=True):
        assert f"{room}.h5: cannot be written" in said
        assert "--resume" in said
        left = {path.name for path in (tmp_path / f"{room}.h5.part").iterdir()}
        assert left == {"job.json", "lengths", "vectors"}


LIMITED = """
import resource, sys
from spacy_elmo.errors import ElmoError
from spacy_elmo.tools.embed import embed_file
folder, model, *rooms = sys.argv[1:]
for room in map(int, rooms):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try:
        embed_file(f"{folder}/text.txt", f"{folder}/{room}.h5", model=model, layers="top")
    except ElmoError as error:
        print(error)
"""


# --- size

MEASURE = """
import resource, sys
from spacy_elmo.tools.embed import embed_file
embed_file(sys.argv[1], sys.argv[2], model=sys.argv[3], layers="top", max_batch_tokens=1024)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures in the units of Linux")
def test_memory_does_not_grow_with_the_text(tmp_path, model):
    pick = random.Random(0)
    words = [f"word{n}" for n in range(500)]
    peaks = []
    for n_lines in (4_000, 40_000):
        path = tmp_path / f"{n_lines}.txt"
        path.write_text("".join(" ".join(pick.choices(words, k=3)) + "\n" for _ in range(n_lines)))
        call = [sys.executable, "-c", MEASURE, str(path), str(tmp_path / f"{n_lines}.h5"), model]
        peaks.append(int(subprocess.run(call, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] < peaks[0] + 25  # MB; the vectors are 15 MB, the lengths of HDF5's own tables the rest


# --- Ray


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    ray.init(
        num_cpus=2, object_store_memory=200 * 2**20, include_dashboard=False, log_to_driver=False, logging_level="error"
    )
    # workers cannot import this module
    __import__("ray.cloudpickle").cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield ray
    ray.shutdown()


class Mortal(Encoder):
    """Kills its process once, at the given call of the sentences of the first process that comes to it."""

    grave: Path

    def __call__(self, sentences):
        if any("die" in sentence for sentence in sentences) and not self.grave.exists():
            self.grave.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(sentences)


@pytest.mark.slow
def test_ray_gives_the_file_of_one_process_even_where_an_actor_is_killed(ray, tmp_path, model, monkeypatch):
    from ray.data import DataContext

    text = tmp_path / "text.txt"
    lines = [f"line number {n} " + "so " * (n % 7) for n in range(400)]
    lines[150] = "here one shall die"
    text.write_text("\n".join(lines))
    settings = {"model": model, "batch_size": 20}
    embed_file(text, tmp_path / "one.h5", **settings)
    options = DataContext.get_current().execution_options.preserve_order
    grave = tmp_path / "grave"
    monkeypatch.setattr(Mortal, "grave", grave, raising=False)
    monkeypatch.setattr(tool, "Encoder", Mortal)
    embed_file(text, tmp_path / "many.h5", engine="ray", workers=2, **settings)
    assert grave.exists()
    one, many = contents(tmp_path / "one.h5"), contents(tmp_path / "many.h5")
    assert one.keys() == many.keys()
    assert one.pop("sentence_to_index") == many.pop("sentence_to_index")
    for name, vectors in one.items():
        np.testing.assert_allclose(many[name], vectors, rtol=0, atol=1e-6)
    assert DataContext.get_current().execution_options.preserve_order == options


@pytest.mark.slow
def test_ray_that_cannot_be_reached_is_an_error_and_nothing_is_left(tmp_path, text, model, monkeypatch):
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")

    def unreachable(address, **_):
        raise ConnectionError(f"nothing answers at {address}")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", unreachable)
    with pytest.raises(ElmoError, match=r"Ray cannot be reached.*at nowhere:1"):
        embed_file(text, tmp_path / "out.h5", model=model, engine="ray", ray_address="nowhere:1")
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


class Failing(Encoder):
    def __call__(self, sentences):
        raise RuntimeError("out of luck")


@pytest.mark.slow
def test_actor_that_fails_is_an_error_and_what_is_done_is_kept(ray, text, model, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tool, "Encoder", Failing)
        with pytest.raises(ElmoError, match=r"out of luck.*--resume"):
            embed_file(text, tmp_path / "out.h5", model=model, engine="ray")
    embed_file(text, tmp_path / "out.h5", model=model, engine="local", resume=True)
    assert len(contents(tmp_path / "out.h5")) == len(LINES) + 1
