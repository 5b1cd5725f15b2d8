import json
import subprocess
import sys

import h5py
import numpy as np
import pytest

from spacy_elmo import formats
from spacy_elmo.errors import ElmoError
from spacy_elmo.tools import neighbours as module
from spacy_elmo.tools.embed import embed_file
from spacy_elmo.tools.embedded import EmbeddedCorpus
from spacy_elmo.tools.layers import pick
from spacy_elmo.tools.neighbours import neighbours, query_in_corpus, query_in_sentence

LINES = [
    "the bank lent money",
    "a bank of the river",
    "no such word here",
    "the bank lent money",
    "bank to bank",
    "a cat sat on the bank",
]


@pytest.fixture(scope="module")
def model(data):
    return data / "tiny_2l_skip"


def written(tmp_path, model, layers="all", lines=LINES, **settings):
    """Write a corpus with `embed`."""
    text = tmp_path / "text.txt"
    text.write_text("\n".join(lines) + "\n")
    out = tmp_path / f"{layers}.hdf5"
    embed_file(text, out, model=str(model), layers=layers, **settings)
    return out


def expected(model, layers, query_words, position, lines=LINES, any_word=False):
    """Return every use and its cosine, computed by the model one after the other. Of equal sentences, the last
    counts."""
    bilm = formats.load(model)
    vector = pick(bilm.encode([query_words])[0], layers)[position].astype(np.float64)
    found = {}
    for number, line in enumerate(lines):
        words = line.split()
        vectors = pick(bilm.encode([words])[0], layers).astype(np.float64)
        for i, word in enumerate(words):
            if (any_word or word == query_words[position]) and (words, i) != (query_words, position):
                cosine = vectors[i] @ vector / np.linalg.norm(vectors[i]) / np.linalg.norm(vector)
                found[line, i] = (-cosine, number, i)
    return sorted(found.values())


@pytest.mark.parametrize("layers", ["all", "average", "top", "1"])
@pytest.mark.parametrize("any_word", [False, True])
@pytest.mark.parametrize("chunk_bytes", [1, module._CHUNK_BYTES])
def test_nearest_uses_are_those_of_the_direct_computation(tmp_path, model, monkeypatch, layers, any_word, chunk_bytes):
    monkeypatch.setattr(module, "_CHUNK_BYTES", chunk_bytes)
    with EmbeddedCorpus(written(tmp_path, model, layers)) as corpus:
        query = query_in_sentence(corpus, "bank", "my bank lent me money", str(model))
        found = neighbours(corpus, query, any_word, top=4)
    how = "average" if layers == "all" else layers  # inferred, where the file does not say
    best = expected(model, how, ["my", "bank", "lent", "me", "money"], 1, any_word=any_word)[:4]
    assert [(use.line, use.position) for use in found] == [(line, position) for _, line, position in best]
    np.testing.assert_allclose([use.similarity for use in found], [-cosine for cosine, _, _ in best], atol=1e-5)
    assert all(LINES[use.line].split()[use.position] == use.word and use.sentence == LINES[use.line] for use in found)


@pytest.mark.parametrize("layers", ["top", "0"])
def test_of_a_file_with_all_layers_any_can_be_chosen(tmp_path, model, layers):
    with EmbeddedCorpus(written(tmp_path, model), layers=layers) as corpus:
        query = query_in_sentence(corpus, "bank", "my bank lent me money", str(model))
        found = neighbours(corpus, query, any_word=True)
    best = expected(model, layers, ["my", "bank", "lent", "me", "money"], 1, any_word=True)[:10]
    np.testing.assert_allclose([use.similarity for use in found], [-cosine for cosine, _, _ in best], atol=1e-5)


@pytest.mark.parametrize("with_text", [False, True])
def test_the_query_itself_and_its_repetition_are_not_among_its_neighbours(tmp_path, model, with_text):
    path = written(tmp_path, model)
    with EmbeddedCorpus(path, tmp_path / "text.txt" if with_text else None) as corpus:
        for query in (
            query_in_corpus(corpus, "bank", 3),
            query_in_sentence(corpus, "bank", LINES[3], str(model)),
        ):
            found = neighbours(corpus, query)
            assert sorted((use.line, use.position) for use in found) == [(1, 1), (4, 0), (4, 2), (5, 5)]


def test_a_repeated_sentence_is_one_use(tmp_path, model):
    path = written(tmp_path, model)
    with EmbeddedCorpus(path, tmp_path / "text.txt") as corpus:
        found = neighbours(corpus, query_in_corpus(corpus, "bank", 1), top=10)
    assert [use.sentence for use in found].count(LINES[0]) == 1
    assert len(found) == 4


def test_texts_that_a_pipeline_splits(tmp_path, model):
    lines = ["The bank, they say, lends.", "A bank!"]
    path = written(tmp_path, model, lines=lines, pipeline="en")
    with EmbeddedCorpus(path, tmp_path / "text.txt", "en") as corpus:
        (found,) = neighbours(corpus, query_in_corpus(corpus, "bank", 0))
        assert (found.line, found.position, found.sentence) == (1, 1, "A bank !")
    with EmbeddedCorpus(path) as corpus, pytest.raises(ElmoError, match="--pipeline"):
        query_in_corpus(corpus, "bank,", 0)


@pytest.mark.parametrize(
    ("word", "position", "message"),
    [("cat", None, "not a word of"), ("bank", None, "at 0, 2,"), ("bank", 1, "at 0, 2,")],
)
def test_a_word_that_is_not_there_or_there_twice_is_an_error(tmp_path, model, word, position, message):
    with EmbeddedCorpus(written(tmp_path, model)) as corpus:
        assert query_in_corpus(corpus, "bank", 4, 2).position == 2
        with pytest.raises(ElmoError, match=message):
            query_in_corpus(corpus, word, 4, position)
        with pytest.raises(ElmoError, match=message):
            query_in_sentence(corpus, word, LINES[4], str(model), position)


def test_a_word_that_the_corpus_lacks_is_an_error(tmp_path, model):
    with EmbeddedCorpus(written(tmp_path, model)) as corpus:
        query = query_in_sentence(corpus, "dog", "my dog", str(model))
        with pytest.raises(ElmoError, match=r"all\.hdf5: has no other use of 'dog'"):
            neighbours(corpus, query)
        assert len(neighbours(corpus, query, any_word=True, top=3)) == 3


def test_a_corpus_of_another_model_is_an_error(tmp_path, data, model, bundled_width):
    with EmbeddedCorpus(written(tmp_path, model)) as corpus:
        assert formats.load(data / "tiny_2l_clip").options.width == corpus.width
        with pytest.raises(ElmoError, match="not from"):
            query_in_sentence(corpus, "dog", "my dog", str(data / "tiny_2l_clip"))
        with pytest.raises(ElmoError, match=f"32 wide, those of en_elmo_sm are {bundled_width}"):
            query_in_sentence(corpus, "dog", "my dog")


def test_lines_without_a_sentence_are_an_error(tmp_path, model):
    with EmbeddedCorpus(written(tmp_path, model)) as corpus:
        for line in (0, 99):  # line 0 occurs again as line 3, and the index has only that
            with pytest.raises(ElmoError, match=f"line {line} has no sentence"):
                query_in_corpus(corpus, "bank", line)


def test_a_file_without_sentences_takes_them_from_the_text(tmp_path, model):
    path = written(tmp_path, model, forget_sentences=True)
    with pytest.raises(ElmoError, match=r"all\.hdf5: has no sentences.*--text"):
        EmbeddedCorpus(path)
    with EmbeddedCorpus(path, tmp_path / "text.txt") as corpus:
        assert len(neighbours(corpus, query_in_corpus(corpus, "bank", 0))) == 4
    (tmp_path / "other.txt").write_text("the bank lent\n")
    with EmbeddedCorpus(path, tmp_path / "other.txt") as corpus, pytest.raises(ElmoError, match=r"4 tokens.* has 3"):
        query_in_corpus(corpus, "bank", 0)


def test_layers_cannot_be_chosen_where_there_are_none(tmp_path, model):
    with pytest.raises(ElmoError, match="no layers to choose"):
        EmbeddedCorpus(written(tmp_path, model, "top"), layers="1")
    with EmbeddedCorpus(written(tmp_path, model), layers="7") as corpus, pytest.raises(ElmoError, match="from 0 to 2"):
        query_in_corpus(corpus, "bank", 1)


def damaged(path, change):
    with h5py.File(path, "w") as file:
        file["0"], file["1"] = np.ones((2, 8), np.float32), np.ones((1, 8), np.float32)
        file["sentence_to_index"] = [json.dumps({"a bank": "0", "bank": "1"})]
        change(file)
    return path


def link(file):
    del file["1"]
    file["1"] = h5py.ExternalLink("elsewhere.hdf5", "1")


def replace(name, value):
    def change(file):
        del file[name]
        if value is not None:
            file[name] = value

    return change


def sparse(file):
    """Write a file of a few KB that asks for gigabytes."""
    del file["1"]
    file.create_dataset("1", (1, 10**9), np.float32, chunks=(1, 2**20))


def odd_numbers(file):
    """Write floating-point numbers that numpy has no type for."""
    del file["1"]
    kind = h5py.h5t.IEEE_F64LE.copy()
    kind.set_size(32)
    kind.set_precision(250)
    kind.set_fields(249, 200, 49, 0, 200)
    h5py.h5d.create(file.id, b"1", kind, h5py.h5s.create_simple((1, 8)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (link, "not read"),
        (odd_numbers, "'1'|line 1 cannot be read; the file is damaged"),
        (replace("1", np.ones((0, 1, 8), np.float32)), "shape"),
        (replace("1", np.ones((1, 0), np.float32)), "shape"),
        (replace("sentence_to_index", ['{"a \\ud800": 1, "bank": 0}']), "sentence_to_index is not"),
        (replace("1", None), "no vectors for line 1"),
        (replace("1", np.ones((1, 8), int)), "int64"),
        (replace("1", np.ones(8, np.float32)), "shape"),
        (replace("1", np.ones((1, 7), np.float32)), "unlike"),
        (replace("1", np.ones((3, 1, 8), np.float32)), "unlike"),
        (replace("1", np.ones((2, 8), np.float32)), "2 tokens"),
        (replace("1", np.full((1, 8), np.nan, np.float32)), "NaN"),
        (replace("1", np.full((1, 8), 1e30, np.float32)), "absurdly large"),
        (replace("sentence_to_index", ["{"]), "sentence_to_index is not"),
        (replace("sentence_to_index", ["[1]"]), "sentence_to_index is not"),
        (replace("sentence_to_index", ['{"a": "b"}']), "sentence_to_index is not"),
        (replace("sentence_to_index", [3]), "sentence_to_index is not"),
        (replace("sentence_to_index", ['{"a": Infinity}']), "sentence_to_index is not"),
        (replace("sentence_to_index", ["[" * 200_000]), "sentence_to_index is not"),
        (sparse, "declared but has no values"),
        (replace("sentence_to_index", ["{}"]), "contains no sentence"),
    ],
)
def test_damaged_and_hostile_files_are_errors_that_name_them(tmp_path, change, message):
    path = damaged(tmp_path / "corpus.hdf5", change)
    with pytest.raises(ElmoError, match=rf"corpus\.hdf5: .*{message}"):  # noqa: SIM117
        with EmbeddedCorpus(path) as corpus:
            neighbours(corpus, query_in_corpus(corpus, "bank", 0), any_word=True)


ENDLESS = """
import sys
from spacy_elmo.errors import ElmoError
from spacy_elmo.tools.embedded import EmbeddedCorpus
try:
    EmbeddedCorpus(sys.argv[1])
except ElmoError as error:
    print(error)
"""


@pytest.mark.parametrize("size", [0, 2**64 - 16, 2**64 - 1, 2**63])
def test_heap_that_libhdf5_walks_for_ever_is_an_error(tmp_path, size):
    path = damaged(tmp_path / "corpus.hdf5", lambda file: None)
    content = bytearray(path.read_bytes())
    string = content.index(b"GCOL") + 16
    free = string + 16 + -(-int.from_bytes(content[string + 8 : string + 16], "little") // 8) * 8
    at = free if size == 0 else string
    content[at + 8 : at + 16] = size.to_bytes(8, "little")
    path.write_bytes(content)
    call = [sys.executable, "-c", ENDLESS, str(path)]  # a separate process, so that the test can end it
    done = subprocess.run(call, capture_output=True, text=True, timeout=300)
    assert "corpus.hdf5: sentence_to_index" in done.stdout or not size  # free space after the string does no harm


@pytest.mark.parametrize("content", [None, b"", b"no HDF5"])
def test_no_such_file_and_no_hdf5_are_errors(tmp_path, content):
    path = tmp_path / "corpus.hdf5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ElmoError, match=r"corpus\.hdf5: (no such file|cannot be read as HDF5)"):
        EmbeddedCorpus(path)


def test_zero_vectors_are_near_nothing(tmp_path):
    path = damaged(tmp_path / "corpus.hdf5", replace("1", np.zeros((1, 8), np.float32)))
    with EmbeddedCorpus(path) as corpus:
        (use,) = neighbours(corpus, query_in_corpus(corpus, "bank", 0))
    assert use.similarity == 0


@pytest.mark.parametrize("name", ["elmo_all", "elmo_average", "elmo_top"])
def test_files_of_allennlp_are_read(shared, name):
    references = shared / "references"
    with EmbeddedCorpus(references / "cli" / f"{name}.hdf5") as corpus:
        query = query_in_sentence(corpus, "fox", "The fox", str(references / "tiny_2l_skip"))
        (use,) = neighbours(corpus, query)
    assert (use.line, use.position, use.word) == (3, 3, "fox")
