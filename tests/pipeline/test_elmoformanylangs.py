"""A model of ELMoForManyLangs in a pipeline behaves like other models."""

import json
import multiprocessing
import shutil
import subprocess
import sys

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc

from helpers.pipelines import bilm_of, blank, listener, moved, parameters, train
from spacy_elmo.bilm.products import _HAS
from spacy_elmo.formats import digest

DOC_SPANS = {"@misc": "spacy-elmo.doc_spans.v1"}
TAGGED = [("the quick fox jumps", [*"DANV"]), ("Привет мир", [*"IN"]), ("the lazy dog", [*"DAN"])]
UNREAD = (3, 11, 18, 20)  # no tokens, or tokens that spaCy refuses or the component does not read

pytestmark = pytest.mark.filterwarnings("ignore:.* are unknown to the model")


@pytest.fixture(params=["words_chars", "words_only"])
def weights(request, data):
    return data / "elmoformanylangs" / request.param


@pytest.fixture
def words_chars(data):
    return data / "elmoformanylangs" / "words_chars"


def make(weights, tagger=False, model=None, **settings):
    nlp = blank(weights, "xx", {"get_spans": DOC_SPANS, **(model or {})}, **settings)
    if tagger:
        nlp.add_pipe("tagger", config={"model": {"tok2vec": listener()}})
    return nlp


def losses_of(nlp):
    """Return the tagger's loss in each update of its training."""
    return [losses["tagger"] for losses in train(nlp, 40, annotates=(), tagged=TAGGED)]


def vectors(nlp, words=("the", "quick", "мир")):
    return nlp.get_pipe("elmo")(Doc(nlp.vocab, words=list(words)))._.elmo


def test_layers_on_docs_are_those_of_the_original(weights, sentences):
    nlp = make(weights, keep_layers=True)
    expected = np.load(weights / "expected.npz")
    numbers = [n for n in range(len(sentences)) if n not in UNREAD]
    docs = [Doc(nlp.vocab, words=sentences[n]) for n in numbers]
    for number, doc in zip(numbers, nlp.get_pipe("elmo").pipe(docs), strict=True):
        if not any(token.is_space for token in doc):
            np.testing.assert_allclose(doc._.elmo_layers, expected[f"alone_{number:02d}"], rtol=0, atol=1e-5)


def test_a_saved_pipeline_needs_no_other_file(weights, tmp_path):
    copy = shutil.copytree(weights, tmp_path / "model")
    nlp = make(copy)
    expected, digest_before = vectors(nlp), digest(bilm_of(nlp))
    nlp.to_disk(tmp_path / "saved")
    content = nlp.to_bytes()
    shutil.rmtree(copy)
    for loaded in (spacy.load(tmp_path / "saved"), make(copy).from_bytes(content)):
        np.testing.assert_array_equal(vectors(loaded), expected)
        assert digest(bilm_of(loaded)) == digest_before
        assert bilm_of(loaded).lexicons == bilm_of(nlp).lexicons


def test_it_takes_the_place_of_another_model(words_chars, data):
    nlp = make(data / "tiny_2l_skip").from_bytes(make(words_chars).to_bytes())
    np.testing.assert_array_equal(vectors(nlp), vectors(make(words_chars)))
    nlp.from_bytes(make(data / "tiny_2l_skip").to_bytes())
    assert bilm_of(nlp).lexicons is None


@pytest.mark.parametrize("frozen", [True, False])
def test_a_task_learns_from_it(weights, frozen, tmp_path):
    nlp = make(weights, tagger=True, frozen=frozen)
    before = digest(bilm_of(nlp))
    losses = losses_of(nlp)
    assert losses[-1] < losses[0] / 3
    assert (digest(bilm_of(nlp)) == before) == frozen
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    assert digest(bilm_of(loaded)) == digest(bilm_of(nlp))
    for text, _ in TAGGED:
        assert [token.tag_ for token in loaded(text)] == [token.tag_ for token in nlp(text)]


def test_fine_tuning_reaches_words_and_characters(words_chars):
    nlp = make(words_chars, tagger=True, frozen=False)
    before = parameters(nlp)
    train(nlp, 5, annotates=(), tagged=TAGGED)
    changed = moved(before, parameters(nlp))
    assert {"embedder.words.weight", "embedder.char_cnn.embedding", "embedder.projection.weight"} <= changed
    assert {"layers.0.bias", "layers.1.projection"} <= changed


def test_outputs_remembered_in_training_change_nothing(words_chars):
    with_cache, without = (make(words_chars, tagger=True, cache_mb=size) for size in (16, 0))
    np.testing.assert_allclose(losses_of(with_cache), losses_of(without), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [
        ("float16", 0.05),
        pytest.param(
            "int8", 0.2, marks=pytest.mark.skipif(not _HAS["int8"], reason="no int8 products on this processor")
        ),
    ],
)
def test_reduced_precision_stays_near(words_chars, precision, tolerance, tmp_path):
    if not _HAS[precision]:
        pytest.skip(f"no products in {precision} on this processor")
    expected = vectors(make(words_chars))
    nlp = make(words_chars, model={"precision": precision})
    ours = vectors(nlp)
    assert not np.array_equal(ours, expected)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance)
    nlp.to_disk(tmp_path)
    np.testing.assert_allclose(vectors(spacy.load(tmp_path)), ours, rtol=0, atol=1e-5)


SCRIPT = """
import json, multiprocessing, sys, warnings
import spacy

TEXTS = ["the quick fox", "Привет мир", "the lazy dog jumps"]

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    warnings.simplefilter("ignore")
    nlp = spacy.blank("xx")
    nlp.add_pipe("elmo", config={"model": {"weights": sys.argv[2]}})
    docs = nlp.pipe(TEXTS, n_process=2, batch_size=1)
    with open(sys.argv[3], "w") as out:
        json.dump([doc._.elmo.tolist() for doc in docs], out)
"""


@pytest.mark.parametrize("method", [m for m in ("fork", "spawn") if m in multiprocessing.get_all_start_methods()])
def test_two_processes_give_the_same_vectors(words_chars, method, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf8")
    out = tmp_path / "out.json"
    subprocess.run([sys.executable, script, method, str(words_chars), str(out)], check=True, timeout=300)
    nlp = make(words_chars)
    for text, got in zip(
        ["the quick fox", "Привет мир", "the lazy dog jumps"], json.loads(out.read_text()), strict=True
    ):
        np.testing.assert_allclose(got, nlp(text)._.elmo, rtol=0, atol=1e-5)


def test_a_model_that_knows_little_of_the_text_says_so_once(words_chars):
    nlp = make(words_chars)
    with pytest.warns(UserWarning, match=r"\d+% of the characters read so far .* unknown to the model") as caught:
        list(nlp.pipe(["ѳѳѳѳѳѳ ѫѫѫѫѫѫѫ ѱѱѱѱѱѱѱѱѱѱ ѯѯѯѯ", "ѵѵѵѵѵѵѵѵѵѵ ѷѷѷѷѷѷѷѷѷѷѷѷѷ"] * 3, batch_size=1))
    assert len([one for one in caught if "unknown to the model" in str(one.message)]) == 1
