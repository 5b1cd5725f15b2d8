import json

import h5py
import numpy as np
import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import DocBin

import spacy_elmo
from helpers.embedding import LINES, REDUCED, SENTENCES
from spacy_elmo import ElmoError
from spacy_elmo.formats import load
from spacy_elmo.tools.embed import embed_file
from spacy_elmo.tools.embedding.files import sentence_index


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
    """The originals carried their LSTM state: `allennlp elmo` in batches of two lines, and bilm-tf line by line."""
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


@given(st.lists(st.text('ab \\"é😀', max_size=3), max_size=12))
def test_index_is_that_of_a_dictionary(lines):
    assert sentence_index(lambda: iter(lines)).decode() == json.dumps({line: str(n) for n, line in enumerate(lines)})


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
    with docs[0].retokenize() as retokenizer:  # the number of tokens stays the same
        retokenizer.merge(docs[0][1:3])
        retokenizer.split(here, ["he", "re"], heads=[(here, 0), (here, 1)])
    with pytest.raises(ElmoError, match="retokenized"):
        docs[0]._.elmo  # noqa: B018
