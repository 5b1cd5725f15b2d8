import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Config

from spacy_elmo import ElmoError, WeightsError
from spacy_elmo.bilm import BiLM
from spacy_elmo.formats import load
from spacy_elmo.pipeline.component import ElmoComponent

SENTENCES = [
    "I deposited money at the bank yesterday.",
    "We sat on the bank of the river.",
    "",
    " ",
    "x",
    "Every cell in the body contains DNA; the prison cell was locked.\n\nReally?",
]


@pytest.fixture
def tiny(data):
    return str(data / "tiny_2l_skip")


def make(lang="en", **config):
    nlp = spacy.blank(lang)
    nlp.add_pipe("elmo", config=config)
    return nlp


# Exactness


def test_layers_equal_the_originals(data):
    for folder in ("tiny_2l_skip", "tiny_2l_clip"):
        expected = np.load(data / folder / "expected.npz")
        keys = [key for key in expected.files if "zs_" in key and "nobe" not in key]
        assert keys
        sentences = json.loads((data / "sentences.json").read_text())
        nlp = make(
            keep_layers=True,
            model={"weights": str(data / folder), "get_spans": {"@misc": "spacy-elmo.doc_spans.v1"}},
        )
        checked = 0
        for key in keys:
            words = sentences[int(key[-2:])]
            if any(not word or word.isspace() or not is_unicode(word) for word in words):
                continue
            doc = nlp.get_pipe("elmo")(Doc(nlp.vocab, words=words))
            np.testing.assert_allclose(doc._.elmo_layers, expected[key][:, 1:-1], atol=1e-5)
            np.testing.assert_allclose(doc._.elmo, expected[key][:, 1:-1].mean(0), atol=1e-5)
            checked += len(words)
        assert checked > 20


def is_unicode(word):
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def test_component_and_bilm_agree_on_whole_docs_and_sentences(tiny):
    bilm = load(tiny)
    words, starts = ["The", "fox", "jumps", ".", "It", "was", "lazy", "."], [True, *[False] * 3, True, *[False] * 3]
    nlp = make(keep_layers=True, model={"weights": tiny})
    doc = nlp.get_pipe("elmo")(Doc(nlp.vocab, words=words, sent_starts=starts))
    expected = np.concatenate(bilm.encode([words[:4], words[4:]]), axis=1)
    np.testing.assert_allclose(doc._.elmo_layers, expected, atol=1e-5)
    whole = nlp.get_pipe("elmo")(Doc(nlp.vocab, words=words))
    np.testing.assert_allclose(whole._.elmo_layers, bilm.encode([words])[0], atol=1e-5)


# Determinism


def test_same_sentence_same_vectors_in_any_batch_and_order(nlp):
    alone = [nlp(text)._.elmo for text in SENTENCES]
    for texts in (SENTENCES, SENTENCES[::-1], SENTENCES * 5):
        for batch_size in (1, 2, 1000):
            for doc in nlp.pipe(texts, batch_size=batch_size):
                expected = alone[SENTENCES.index(doc.text)]
                np.testing.assert_allclose(doc._.elmo, expected, atol=1e-5)


def test_batch_and_window_sizes_change_no_vector(nlp):
    small = make(model={"max_batch_tokens": 7})
    for one, other in zip(nlp.pipe(SENTENCES * 3), small.pipe(SENTENCES * 3), strict=True):
        np.testing.assert_allclose(one._.elmo, other._.elmo, atol=1e-5)


def test_eight_threads_at_once_give_the_same_vectors(nlp):
    expected = [nlp(text)._.elmo for text in SENTENCES]
    fresh = make()  # not loaded yet, so the threads also race to load the weights
    results = {}

    def work(number):
        component = fresh.get_pipe("elmo")
        for _ in range(5):
            docs = [fresh.make_doc(text) for text in SENTENCES]
            results[number] = [doc._.elmo for doc in component.pipe(docs)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(8))
    for vectors in results.values():
        for one, other in zip(vectors, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


# Configuration


@pytest.mark.parametrize(
    ("layers", "mixed"),
    [
        ("mean", lambda layers: layers.mean(0)),
        ("top", lambda layers: layers[-1]),
        ("concat", lambda layers: np.concatenate(list(layers), axis=1)),
        (1, lambda layers: layers[1]),
        ([0.2, 0.3, 0.5], lambda layers: np.tensordot([0.2, 0.3, 0.5], layers, 1)),
    ],
)
@pytest.mark.parametrize("keep_layers", [False, True])
def test_layers_setting_mixes_the_kept_layers(layers, mixed, keep_layers, tiny):
    reference = make(keep_layers=True, model={"weights": tiny})("We sat here.")
    doc = make(layers=layers, keep_layers=keep_layers, model={"weights": tiny})("We sat here.")
    np.testing.assert_allclose(doc._.elmo, mixed(reference._.elmo_layers), atol=1e-5)
    assert (doc._.elmo_layers is not None) == keep_layers


def test_settings_of_what_is_annotated_can_be_changed(tiny):
    nlp = make(model={"weights": tiny})
    elmo = nlp.get_pipe("elmo")
    elmo.keep_layers, elmo.vectors = True, "none"
    doc = nlp("We sat here.")
    assert doc._.elmo_layers.shape == (3, 4, 32)
    assert not doc.user_hooks
    assert not doc.tensor.size


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"layers": "bottom"}, "layers"),
        ({"layers": 7}, "a layer from 0 to 2"),
        ({"layers": [1.0]}, "weights"),
        ({"cache_mb": -1}, "cache_mb"),
        ({"lr_scale": -0.1}, "lr_scale"),
        ({"model": {"max_batch_tokens": 0}}, "max_batch_tokens"),
        ({"model": {"max_sequence_length": -1}}, "max_sequence_length"),
        ({"model": {"device": "tpu9"}}, "device"),
        ({"model": {"weights": "/no/such/model"}}, "/no/such/model"),
        ({"model": {"weights": "no_such_name"}}, "en_elmo_sm"),
        ({"model": {"weights": None}}, r"model\.weights is null .* or \"random\""),
        (
            {"weights": "/models/mine"},
            r"weights is a setting of model: write config=\{\"model\": \{\"weights\": '/models/mine'\}\}",
        ),
    ],
)
def test_wrong_settings_are_one_clear_error(config, message):
    with pytest.raises(ElmoError, match=message):
        make(**config)("text")


def test_unknown_values_are_refused_by_the_config():
    for config in ({"vectors": "sometimes"}, {"model": {"precision": "float8"}}, {"no_such": 1}):
        with pytest.raises(ValueError, match=r"(?s)elmo|precision"):
            make(**config)


def test_missing_gpu_is_a_clear_error():
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ElmoError, match="sees no GPU"):
        make(model={"device": "cuda:1"})


def test_random_weights_only_when_asked_for():
    random, again = make(model={"weights": "random"}), make(model={"weights": "random"})
    assert np.abs(random("some text")._.elmo - make()("some text")._.elmo).max() > 0.01
    np.testing.assert_allclose(random("some text")._.elmo, again("some text")._.elmo, atol=1e-6)


def test_weights_that_are_null_are_an_error_only_when_they_are_needed():
    nlp = spacy.blank("en")
    elmo = nlp.add_pipe("elmo", config={"model": {"weights": None}})
    with pytest.raises(WeightsError, match="null"):
        nlp("some text")
    elmo.from_bytes(make().get_pipe("elmo").to_bytes())  # as when a pipeline saved with them is loaded
    assert nlp("some text")._.elmo is not None


def test_it_tells_what_it_is(tiny):
    elmo = make(layers="top", model={"weights": tiny}).get_pipe("elmo")
    assert repr(elmo) == (
        f"<elmo: weights={tiny!r}, layers='top', device='cpu', precision='float32', frozen=True, not loaded yet>"
    )
    assert (elmo.n_layers, elmo.width) == (3, 32)
    assert re.fullmatch(r"<elmo: .*n_layers=3, width=32, engine='\w+', device='cpu', .*frozen=True>", repr(elmo))
    assert make(layers="concat", model={"weights": tiny}).get_pipe("elmo").width == 3 * 32
    assert "weights='/no/such'" in repr(make(model={"weights": "/no/such"}).get_pipe("elmo"))


def test_layers_may_be_a_tuple(nlp):
    listed, tupled = make(layers=[0.2, 0.5, 0.3]), make(layers=(0.2, 0.5, 0.3))
    np.testing.assert_array_equal(listed("some text")._.elmo, tupled("some text")._.elmo)
    assert list(Config().from_str(tupled.config.to_str())["components"]["elmo"]["layers"]) == [0.2, 0.5, 0.3]


def test_second_elmo_component_is_refused_and_leaves_the_pipeline_as_it_was(nlp, bundled_width):
    with pytest.raises(ElmoError, match="two elmo components"):
        nlp.add_pipe("elmo", name="elmo2")
    assert nlp.pipe_names == ["elmo"]
    assert nlp("still works")._.elmo.shape == (2, bundled_width)


def test_model_of_another_kind_is_refused(nlp):
    from thinc.api import Linear

    with pytest.raises(ElmoError, match=r"spacy-elmo\.BiLM\.v1"):
        ElmoComponent(nlp.vocab, Linear(2, 2))


# Texts


@pytest.mark.parametrize(
    "words",
    [
        ["a"],
        ["👩‍👩‍👧‍👦", "👍🏽"],
        ["今天", "天气", "很", "好"],
        ["مرحبا", "بالعالم"],
        ["שלום", "עולם"],
        ["x" * 10_000, "é" * 10_000],
    ],
)
def test_any_script_and_length_gets_vectors(nlp, words, bundled_width):
    doc = nlp.get_pipe("elmo")(Doc(nlp.vocab, words=words))
    assert doc._.elmo.shape == (len(words), bundled_width)
    assert np.isfinite(doc._.elmo).all()
    assert all(token.has_vector for token in doc)


def test_text_is_cut_behind_max_characters(nlp):
    component = nlp.get_pipe("elmo")
    long, cut = (component(Doc(nlp.vocab, words=["x" * n])) for n in (10_000, 48))
    np.testing.assert_allclose(long._.elmo, cut._.elmo, atol=1e-5)


@pytest.mark.parametrize("lang", ["de", "ru", "xx"])
def test_nothing_assumes_english(lang):
    doc = make(lang)("Der schnelle Fuchs. Привет, мир!")
    assert all(token.has_vector for token in doc)


def test_sentence_boundaries_change_vectors_only_when_set(nlp):
    text = "We sat there. The bank was steep."
    split = spacy.blank("en")
    split.add_pipe("sentencizer")
    split.add_pipe("elmo")
    sentence = nlp("The bank was steep.")
    np.testing.assert_allclose(split(text)._.elmo[4:], sentence._.elmo, atol=1e-5)
    assert np.abs(nlp(text)._.elmo[4:] - sentence._.elmo).max() > 1e-3


def test_long_sentences_are_read_in_pieces():
    words = [f"word{i % 13}" for i in range(50)]
    nlp = make(model={"max_sequence_length": 20})
    doc = nlp.get_pipe("elmo")(Doc(nlp.vocab, words=words))
    piece = nlp.get_pipe("elmo")(Doc(nlp.vocab, words=words[20:40]))
    np.testing.assert_allclose(doc._.elmo[20:40], piece._.elmo, atol=1e-5)


# Errors and streams


def test_error_handler_gets_only_the_doc_at_fault():
    nlp = make()
    component = nlp.get_pipe("elmo")
    get_spans = component.model.attrs["get_spans"]

    def fail_on_two(doc):
        if doc.text == "two":
            raise RuntimeError("bad doc")
        return get_spans(doc)

    component.model.attrs["get_spans"] = fail_on_two
    seen = []
    component.set_error_handler(lambda name, proc, docs, error: seen.append((name, [d.text for d in docs], str(error))))
    docs = list(component.pipe(map(nlp.make_doc, ["one", "", "two", "three", " "])))
    assert [doc.text for doc in docs] == ["one", "", "three", " "]
    assert all(doc._.elmo is not None for doc in docs)
    assert seen == [("elmo", ["two"], "bad doc")]


def test_without_an_error_handler_errors_are_raised():
    nlp = make(model={"weights": "/no/such"})
    with pytest.raises(ElmoError, match="/no/such"):
        list(nlp.pipe(["one", "two"]))


def test_short_docs_share_batches(nlp, monkeypatch):
    rows = []
    forward = BiLM.forward

    def count(bilm, embeddings, packing, *others):
        rows.append(len(packing.rows))
        return forward(bilm, embeddings, packing, *others)

    monkeypatch.setattr(BiLM, "forward", count)
    assert len(list(nlp.pipe(["a short text"] * 300, batch_size=1000))) == 300
    assert rows == [300]


def test_pipe_takes_a_generator_as_it_comes(nlp):
    taken = []

    def texts():
        for number in range(5000):
            taken.append(number)
            yield "a b"

    stream = nlp.pipe(texts(), batch_size=16)
    next(stream)
    assert len(taken) < 100


def test_memory_zone(nlp):
    expected = nlp("in a zone")._.elmo
    with nlp.memory_zone():
        inside = [doc._.elmo.copy() for doc in nlp.pipe(["in a zone", "zonal words unseen before"])]
    np.testing.assert_allclose(inside[0], expected, atol=1e-5)
    np.testing.assert_allclose(nlp("in a zone")._.elmo, expected, atol=1e-5)


def test_select_pipes_leaves_docs_without_vectors(nlp):
    with nlp.select_pipes(disable=["elmo"]):
        assert nlp("no vectors")._.elmo is None
    assert nlp("vectors")._.elmo is not None


MEMORY = """
import spacy
from pathlib import Path
from spacy.tokens import Doc

def peak():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) // 1024

nlp = spacy.blank("en")
nlp.add_pipe("elmo")
doc = Doc(nlp.vocab, words=[f"w{number % 5003}" for number in range(100_000)])
nlp("loaded")
before = peak()
assert nlp.get_pipe("elmo")(doc)._.elmo.any(axis=1).all()
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads peak memory where Linux tells it")
def test_a_doc_of_hundred_thousand_tokens_takes_little_more_than_its_vectors(bundled_width):
    done = subprocess.run([sys.executable, "-c", MEMORY], check=True, capture_output=True, text=True)
    vectors = 100_000 * bundled_width * 4 / 2**20
    assert vectors / 2 < int(done.stdout) < 5 * vectors  # all layers at once would take at least 8 times as much


FLAT = """
import random
import spacy
from pathlib import Path

def resident():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) // 1024

def texts(count):
    choose = random.Random(0).choices
    for _ in range(count):
        yield " ".join(f"w{number}" for number in choose(range(60_000), k=4))

nlp = spacy.blank("en")
nlp.add_pipe("elmo", config={"vectors": "none", "model": {"weights": WEIGHTS}})
after = []
for number, doc in enumerate(nlp.pipe(texts(120_000), batch_size=1000), start=1):
    if number % 40_000 == 0:
        after.append(resident())
print(*after)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory where Linux tells it")
def test_memory_stays_flat_over_a_long_stream(data):
    """The first parts fill spaCy's vocabulary and oneDNN's kernels. After that, memory must not grow with the number of
    texts."""
    script = FLAT.replace("WEIGHTS", repr(str(data / "tiny_2l_skip")))
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    first, second, last = map(int, done.stdout.split())
    assert second - first < 40
    assert last - second < 18  # the vectors between them would be 160,000 tokens of at least 128 bytes


def test_hundred_thousand_tokens_in_one_doc(tiny):
    nlp = make(model={"weights": tiny})
    words = [f"w{number * 7919 % 5003}" for number in range(100_000)]
    doc = nlp.get_pipe("elmo")(Doc(nlp.vocab, words=words))
    assert doc._.elmo.shape == (100_000, 32)
    piece = nlp.get_pipe("elmo")(Doc(nlp.vocab, words=words[3000:4000]))
    np.testing.assert_allclose(doc._.elmo[3000:4000], piece._.elmo, atol=1e-5)


# With other components


def test_tensor_is_left_to_a_tok2vec_whose_listeners_follow(bundled_width):
    nlp = spacy.blank("en")
    nlp.add_pipe("tok2vec")
    nlp.add_pipe("elmo")
    tagger = nlp.add_pipe("tagger", config={"model": {"tok2vec": listener("tok2vec")}})
    tagger.add_label("X")
    nlp.initialize()
    doc = nlp("one two three")
    assert doc.tensor.shape == (3, 96)
    assert doc[0].vector.shape == (bundled_width,)


def test_spacy_listener_naming_elmo_reads_its_vectors(bundled_width):
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"vectors": "none"})
    tagger = nlp.add_pipe("tagger", config={"model": {"tok2vec": listener("elmo", bundled_width)}})
    tagger.add_label("X")
    nlp.initialize()
    doc = nlp("one two three")
    np.testing.assert_array_equal(doc.tensor, doc._.elmo)
    assert nlp.get_pipe("elmo").listening_components == ["tagger"]
    nlp.remove_pipe("tagger")
    assert nlp.get_pipe("elmo").listening_components == []


def test_listeners_for_two_owners_of_the_tensor_are_an_error(bundled_width):
    nlp = spacy.blank("en")
    nlp.add_pipe("tok2vec")
    nlp.add_pipe("elmo")
    nlp.add_pipe("tagger", config={"model": {"tok2vec": listener("tok2vec")}})
    with pytest.raises(ElmoError, match=r"doc\.tensor.* \(for morphologizer\).* tagger listens to another"):
        nlp.add_pipe("morphologizer", config={"model": {"tok2vec": listener("elmo", bundled_width)}})


@pytest.mark.parametrize("before", ["tok2vec", None])
def test_spacy_listener_for_any_upstream_reads_whoever_wrote_before_it(before, bundled_width):
    nlp = spacy.blank("en")
    if before:
        nlp.add_pipe(before)
    nlp.add_pipe("elmo", config={"vectors": "hooks"})
    tagger = nlp.add_pipe("tagger", config={"model": {"tok2vec": listener("*", 96 if before else bundled_width)}})
    tagger.add_label("X")
    nlp.initialize()
    doc = nlp("one two three")
    assert doc.tensor.shape == (3, 96 if before else bundled_width)
    again = nlp.get_pipe("elmo")(doc)
    assert again.tensor.shape == doc.tensor.shape
    assert before or (doc.tensor == doc._.elmo).all()


def test_tensor_asked_for_where_another_component_reads_its_own_is_an_error():
    nlp = spacy.blank("en")
    nlp.add_pipe("tok2vec")
    nlp.add_pipe("elmo", config={"vectors": "tensor"})
    with pytest.raises(ElmoError, match=r'doc\.tensor.* \(for the setting vectors = "tensor"\).* tagger listens'):
        nlp.add_pipe("tagger", config={"model": {"tok2vec": listener("tok2vec")}})


def listener(upstream, width=96):
    return {"@architectures": "spacy.Tok2VecListener.v1", "width": width, "upstream": upstream}


def test_training_other_components_leaves_the_frozen_bilm_as_it_is():
    nlp = spacy.blank("en")
    elmo = nlp.add_pipe("elmo")
    textcat = nlp.add_pipe("textcat")
    for label in ("A", "B"):
        textcat.add_label(label)
    examples = [
        Example.from_dict(nlp.make_doc(text), {"cats": {"A": a, "B": 1 - a}})
        for text, a in [("good day", 1.0), ("bad day", 0.0)]
    ]
    nlp.initialize(lambda: examples)
    before = nlp("good day")._.elmo
    losses = nlp.update(examples, sgd=nlp.create_optimizer(), annotates=["elmo"])
    assert losses["elmo"] == 0.0
    assert losses["textcat"] > 0.0
    np.testing.assert_allclose(nlp("good day")._.elmo, before, atol=1e-6)  # a training step would change them by 1e-3
    assert elmo.is_trainable
    with pytest.raises(ElmoError, match="labels"):
        elmo.add_label("A")


def test_initialize_shows_what_is_wrong_with_the_weights():
    nlp = make(model={"weights": "/no/such"})
    with pytest.raises(ElmoError, match="/no/such"):
        nlp.initialize(lambda: [Example.from_dict(nlp.make_doc("text"), {})])


def test_modes_and_defaults_of_torch_change_nothing(nlp, tmp_path):
    import torch

    expected = nlp("We sat here.")._.elmo
    with torch.inference_mode():
        inside = make()
        np.testing.assert_allclose(inside("We sat here.")._.elmo, expected, atol=1e-5)
    inside.to_disk(tmp_path)
    with torch.no_grad():
        np.testing.assert_allclose(inside("We sat here.")._.elmo, expected, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_allclose(make()("We sat here.")._.elmo, expected, atol=1e-5)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        try:
            torch.set_default_dtype(dtype)
            vectors = make()("We sat here.")._.elmo
        finally:
            torch.set_default_dtype(torch.float32)
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
        assert vectors.dtype == np.float32
