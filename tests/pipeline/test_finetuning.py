"""The biLM trained with the task: correct gradients and steps, and weights that are saved and loaded as usual."""

import copy

import numpy as np
import pytest
import spacy
import torch
from spacy.tokens import Doc, Span
from spacy.training import Example
from thinc.api import Adam

from helpers.pipelines import WIDTH, bilm_of, examples, listener, moved, parameters, pipeline
from spacy_elmo import WeightsError
from spacy_elmo.formats import load
from spacy_elmo.pipeline.encoder import Recording
from spacy_elmo.pipeline.rows import to_rows
from spacy_elmo.pipeline.shim import shim_of

TAGGED = [
    ("We sat here . He left .", ["A", "B", "B", "B", "A", "B", "B"]),
    ("", []),
    ("Anna", ["A"]),
    ("We sat there and  waited .", ["A", "B", "B", "B", "B", "B", "B"]),  # a token is whitespace
]
TEXT = TAGGED[0][0]


@pytest.fixture
def make(tiny):
    """Return a function that makes a pipeline of sentencizer, elmo and tagger. It takes settings of `elmo`."""
    return lambda frozen=False, **elmo: pipeline(tiny, elmo={"frozen": frozen, **elmo})


def docs_of(nlp):
    return [nlp.get_pipe("sentencizer")(nlp.make_doc(text)) for text, _ in TAGGED]


def started(nlp):
    """Initialize, and take the first step. In it, spaCy's tagger is all zeros and passes no gradient to the layers
    below."""
    data = examples(nlp, TAGGED)
    nlp.initialize(lambda: data)
    nlp.update(data, sgd=False)
    nlp.get_pipe("tagger").finish_update(Adam(0.01))
    nlp.get_pipe("elmo").finish_update(Adam(0.0))
    return data


def test_rows_are_those_of_prediction(make):
    nlp = make()
    docs = docs_of(nlp)
    recording = Recording(nlp.get_pipe("elmo").model, docs)
    for one, other in zip(recording.rows, nlp.get_pipe("elmo").model.predict(docs), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_gradients_are_those_of_autograd_and_of_finite_differences(make, tiny):
    nlp = make()
    docs = docs_of(nlp)
    model = nlp.get_pipe("elmo").model
    random = np.random.default_rng(0)
    recording = Recording(model, docs)
    gradients = [random.normal(size=rows.shape).astype("f") for rows in recording.rows]
    for number, gradient in enumerate(gradients):
        recording.add_gradient(number, gradient)
    recording.backprop()
    ours = {name: p.grad for name, p in shim_of(model).bilm.named_parameters()}

    bilm = load(tiny).requires_grad_()
    total = torch.zeros(())
    for doc, gradient in zip(docs, gradients, strict=True):
        for sentence in doc.sents:
            words = [token for token in sentence if not token.is_space]
            (batch,) = bilm.stream_with_gradients([[token.text for token in words]])
            there = torch.from_numpy(gradient[[token.i for token in words]])
            total = total + (to_rows(batch.layers)[1:-1] * there).sum()
    total.backward()
    for name, parameter in bilm.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-4, rtol=1e-4)

    def loss():
        given = zip(gradients, model.predict(docs), strict=True)
        return sum(float((gradient.astype("d") * rows).sum()) for gradient, rows in given)

    checked = 0
    for name, parameter in shim_of(model).bilm.named_parameters():
        flat, slope = parameter.detach().view(-1), ours[name].view(-1)
        index = int(slope.abs().argmax())
        value, step = float(flat[index]), 1e-2
        flat[index] = value + step
        above = loss()
        flat[index] = value - step
        below = loss()
        flat[index] = value
        assert (above - below) / (2 * step) == pytest.approx(float(slope[index]), rel=0.05, abs=0.05), name
        checked += 1
    assert checked > 10


def test_training_moves_all_weights_and_stays_where_it_is_saved(make, tmp_path):
    nlp = make()
    data = examples(nlp, TAGGED)
    optimizer = nlp.initialize(lambda: data)
    before = parameters(nlp)
    for _ in range(3):
        losses = nlp.update(data, sgd=optimizer, annotates=["sentencizer"])
    assert moved(before, parameters(nlp)) == set(before)
    assert losses["elmo"] > 0
    nlp.to_disk(tmp_path / "saved")
    saved = spacy.load(tmp_path / "saved")
    assert not moved(parameters(nlp), parameters(saved))
    text = TEXT
    np.testing.assert_allclose(nlp(text)._.elmo, saved(text)._.elmo, rtol=0, atol=1e-6)
    bilm_of(nlp).requires_grad_(False)  # like the saved one, to get the same bits
    np.testing.assert_array_equal(nlp(text)._.elmo, saved(text)._.elmo)
    assert [t.tag_ for t in saved(text)] == [t.tag_ for t in nlp(text)]


@pytest.mark.parametrize("annotates", [["sentencizer", "elmo"], ["elmo"]])
def test_annotating_in_training_loses_no_gradient(make, annotates):
    nlp = make()
    data = started(nlp)
    before = parameters(nlp)
    for _ in range(2):
        nlp.update(data, sgd=Adam(0.01), annotates=annotates)
    assert moved(before, parameters(nlp)) == set(before)


def test_evaluation_with_averages_between_updates_breaks_nothing(make):
    nlp = make()
    data = started(nlp)
    optimizer = Adam(0.01, use_averages=True)
    for _ in range(3):
        nlp.update(data, sgd=optimizer, annotates=["sentencizer"])
        with nlp.use_params(optimizer.averages):
            nlp.evaluate(data)
    copy.deepcopy(nlp.get_pipe("elmo"))


def test_learning_rate_of_a_replaced_bilm_is_kept(make, tmp_path):
    nlp = make(lr_scale=0.02)
    started(nlp)
    nlp.replace_listeners("elmo", "tagger", ["model.tok2vec"])
    nlp.to_disk(tmp_path / "replaced")
    for one in (nlp, spacy.load(tmp_path / "replaced")):
        shims = [shim for node in one.get_pipe("tagger").model.walk() for shim in node.shims]
        assert [(shim.trainable, shim.lr_scale) for shim in shims] == [(True, 0.02)]


def test_frozen_weights_do_not_move(make):
    nlp = make(frozen=True)
    data = examples(nlp, TAGGED)
    optimizer = nlp.initialize(lambda: data)
    before = parameters(nlp)
    for _ in range(3):
        losses = nlp.update(data, sgd=optimizer)
    assert not moved(before, parameters(nlp))
    assert losses["elmo"] == 0


def test_component_among_the_frozen_ones_does_not_move(make):
    nlp = make()
    data = examples(nlp, TAGGED)
    optimizer = nlp.initialize(lambda: data)
    before = parameters(nlp)
    for _ in range(3):
        nlp.update(data, sgd=optimizer, exclude=["elmo"], annotates=["sentencizer"])
    assert not moved(before, parameters(nlp))


def test_nlp_update_learns_as_the_training_loop_does(make):
    """With an optimizer, `nlp.update` asks elmo to step before the tagger has learned. The training loop asks at the
    end."""
    results = []
    for with_loop in (True, False):
        spacy.util.fix_random_seed(0)
        nlp = make()
        data = examples(nlp, TAGGED)
        nlp.initialize(lambda data=data: data)
        optimizer = Adam(0.01)
        for _ in range(4):
            if with_loop:
                nlp.update(data, sgd=False, annotates=["sentencizer"])
                for name in ("elmo", "tagger"):
                    nlp.get_pipe(name).finish_update(optimizer)
            else:
                nlp.update(data, sgd=optimizer, annotates=["sentencizer"])
        if not with_loop:
            nlp.get_pipe("elmo").hub.training.begin_batch([])  # the last step, which waits for the next update
        results.append(parameters(nlp))
    for name in results[0]:
        torch.testing.assert_close(results[0][name], results[1][name], atol=1e-5, rtol=1e-4)


def test_a_loaded_pipeline_predicts_as_fast_as_a_frozen_one_until_it_learns(make, tmp_path):
    """Packed products and the word table are for weights without gradients."""
    nlp = make()
    data = started(nlp)
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    loaded(TEXT)
    assert not any(parameter.requires_grad for parameter in bilm_of(loaded).parameters())
    before = parameters(loaded)
    for _ in range(2):
        loaded.update(data, sgd=Adam(0.01), annotates=["sentencizer"])
    assert moved(before, parameters(loaded))


def test_gradients_of_partial_batches_add_up(make):
    results = []
    for parts in (1, 2):
        spacy.util.fix_random_seed(0)
        nlp = make()
        data = started(nlp)
        size = len(data) // parts
        for start in range(0, len(data), size):
            nlp.update(data[start : start + size], sgd=False, annotates=["sentencizer"])
        elmo = nlp.get_pipe("elmo")
        elmo.hub.training.backprop()
        bilm = shim_of(elmo.model).bilm
        results.append({name: parameter.grad for name, parameter in bilm.named_parameters()})
    # the tagger's loss is a mean over the batch, so halves weigh differently: compare directions
    whole, halves = (torch.cat([gradient.flatten() for gradient in one.values()]) for one in results)
    assert torch.cosine_similarity(whole, halves, dim=0) > 0.8


def test_learning_rate_of_the_bilm_is_its_own(make):
    steps = []
    for lr_scale in (1.0, 0.1, 0.0):
        spacy.util.fix_random_seed(0)
        nlp = make(lr_scale=lr_scale)
        data = started(nlp)
        before = parameters(nlp)
        nlp.update(data, sgd=False)
        nlp.get_pipe("elmo").finish_update(Adam(0.01))
        after = parameters(nlp)
        steps.append(max(float((after[name] - before[name]).abs().max()) for name in before))
    assert steps[0] > 1e-3
    assert steps[1] == pytest.approx(steps[0] / 10, rel=0.01)
    assert steps[2] == 0


def test_averages_reach_the_bilm_and_are_what_is_saved(make):
    nlp = make()
    data = started(nlp)
    optimizer = Adam(0.01, use_averages=True)
    for _ in range(3):
        nlp.update(data, sgd=optimizer, annotates=["sentencizer"])
    nlp.get_pipe("elmo").hub.training.begin_batch([])
    last = parameters(nlp)
    with nlp.use_params(optimizer.averages):
        averaged = parameters(nlp)
        vectors = nlp(TEXT)._.elmo
        saved = spacy.util.load_model_from_config(nlp.config).from_bytes(nlp.to_bytes())
    assert moved(last, averaged) == set(last)
    assert not moved(last, parameters(nlp))
    assert not moved(averaged, parameters(saved))
    np.testing.assert_allclose(saved(TEXT)._.elmo, vectors, atol=1e-6)


def test_evaluation_between_updates_sees_the_weights_of_now(make):
    nlp = make(lr_scale=1.0)
    data = examples(nlp, TAGGED)
    optimizer = nlp.initialize(lambda: data)
    seen = []
    for _ in range(3):
        nlp.update(data, sgd=optimizer, annotates=["sentencizer"])
        seen.append(nlp(TEXT)._.elmo.copy())
        bilm = bilm_of(nlp)
        words = [t.text for t in next(iter(nlp(TEXT).sents))]
        np.testing.assert_allclose(seen[-1][: len(words)], bilm.encode([words])[0].mean(0), atol=1e-5)
    assert np.abs(seen[0] - seen[2]).max() > 1e-4


def test_grad_factor_of_zero_leaves_the_bilm_alone(make):
    nlp = make()
    nlp.remove_pipe("tagger")
    nlp.add_pipe("tagger", config={"model": {"tok2vec": listener(grad_factor=0.0)}})
    data = examples(nlp, TAGGED)
    optimizer = nlp.initialize(lambda: data)
    before = parameters(nlp)
    for _ in range(3):
        nlp.update(data, sgd=optimizer)
    assert all(torch.allclose(before[name], weight, atol=1e-7) for name, weight in parameters(nlp).items())


def copying(nlp, change=lambda words: words):
    """Train the tagger on copies of the Docs, as spaCy's entity_linker does."""
    tagger = nlp.get_pipe("tagger")
    plain = tagger.update

    def update(given, **settings):
        docs = [Doc(nlp.vocab, words=change([token.text for token in one.x])) for one in given]
        for doc, one in zip(docs, given, strict=True):
            for token in doc:
                token.is_sent_start = one.x[token.i].is_sent_start
        return plain([Example(doc, one.y) for doc, one in zip(docs, given, strict=True)], **settings)

    tagger.update = update


def test_gradients_of_copied_docs_reach_the_bilm(make, caplog):
    spacy.util.logger.propagate = True
    results = []
    for with_copies in (False, True):
        spacy.util.fix_random_seed(0)
        nlp = make()
        data = started(nlp)
        if with_copies:
            copying(nlp)
        for _ in range(3):
            nlp.update(data, sgd=Adam(0.01), annotates=["sentencizer"])
        results.append(parameters(nlp))
    assert moved(parameters(make()), results[0])
    for name in results[0]:
        torch.testing.assert_close(results[0][name], results[1][name], atol=1e-6, rtol=1e-5)
    assert "does not reach the biLM" not in caplog.text


def test_copy_of_a_doc_gets_as_many_rows_as_it_has_tokens(make):
    nlp = make()
    nlp.initialize(lambda: examples(nlp, TAGGED))
    texts = ["I like cats", "I like cats \n", "\n"]  # whitespace is not read
    for order in (texts, texts[::-1]):
        docs = [nlp.get_pipe("sentencizer")(nlp.make_doc(text)) for text in order]
        nlp.get_pipe("elmo").update([Example(doc, doc) for doc in docs])
        copies = [doc.copy() for doc in docs]
        rows = nlp.get_pipe("elmo").rows(copies, is_train=True)
        assert [len(one) for one in rows] == [len(doc) for doc in docs]


def test_component_left_out_of_a_new_initialization_is_not_given_other_weights(make):
    nlp = make()
    data = started(nlp)
    for _ in range(3):
        nlp.update(data, sgd=Adam(0.01), annotates=["sentencizer"])
    with nlp.select_pipes(disable=["tagger"]):
        nlp.initialize(lambda: data)
    with pytest.raises(WeightsError, match="tagger: was trained with other weights"):
        nlp("We sat here.")


def test_gradients_that_cannot_reach_the_bilm_are_warned_about_once(make, caplog):
    spacy.util.logger.propagate = True
    nlp = make()
    data = started(nlp)
    copying(nlp, lambda words: [word.upper() for word in words])
    for _ in range(3):
        nlp.update(data, sgd=Adam(0.01), annotates=["sentencizer"])
    assert caplog.text.count("does not reach the biLM") == 1


def test_initialized_anew_it_starts_from_the_weights_as_they_were(make, tmp_path, caplog):
    spacy.util.logger.propagate = True
    nlp = make()
    data, before = started(nlp), parameters(nlp)
    for _ in range(2):
        nlp.update(data, sgd=Adam(0.01), annotates=["sentencizer"])
    assert moved(before, parameters(nlp))
    nlp.initialize(lambda: data)
    assert not moved(before, parameters(nlp))
    assert nlp.update(data, sgd=Adam(0.01))["elmo"] == 0.0
    assert not moved(before, parameters(nlp))  # no step is pending
    nlp.update(data, sgd=Adam(0.01))
    nlp.update(data, sgd=Adam(0.01))
    nlp.to_disk(tmp_path / "saved")
    assert "fine-tuned after it was loaded" not in caplog.text
    loaded = spacy.load(tmp_path / "saved")
    saved = parameters(loaded)
    loaded.initialize(lambda: data)
    assert not moved(saved, parameters(loaded))
    for _ in range(3):
        loaded.update(data, sgd=Adam(0.01))
    assert moved(saved, parameters(loaded))
    assert "fine-tuned after it was loaded" not in caplog.text
    loaded.initialize(lambda: data)
    assert "fine-tuned after it was loaded" in caplog.text


def test_bilm_of_a_components_own_initialized_anew_starts_from_the_weights_as_they_were(tiny, tmp_path, caplog):
    spacy.util.logger.propagate = True
    bilm = {"@architectures": "spacy-elmo.BiLM.v1", "weights": tiny}
    bilm["get_spans"] = {"@misc": "spacy-elmo.sentence_spans.v1"}
    tok2vec = {"@architectures": "spacy-elmo.Tok2Vec.v1", "bilm": bilm, "width": WIDTH, "frozen": False}
    nlp = spacy.blank("en")
    nlp.add_pipe("tagger", config={"model": {"tok2vec": tok2vec}})
    data = examples(nlp, TAGGED)

    def digest(nlp):
        return shim_of(next(node for node in nlp.get_pipe("tagger").model.walk() if node.name == "elmo_bilm")).digest

    def learn(nlp):
        """Return digests of the weights before and after."""
        optimizer = nlp.initialize(lambda: data)
        before = digest(nlp)
        for _ in range(3):
            nlp.update(data, sgd=optimizer)
        return before, digest(nlp)

    first, second = learn(nlp), learn(nlp)
    assert first[0] == second[0] != first[1]
    nlp.to_disk(tmp_path / "saved")
    assert "fine-tuned after it was loaded" not in caplog.text
    loaded = spacy.load(tmp_path / "saved")
    assert learn(loaded)[0] == second[1]
    assert "fine-tuned after it was loaded" not in caplog.text
    learn(loaded)
    assert "spacy-elmo.Tok2Vec.v1: its biLM was fine-tuned after it was loaded" in caplog.text


@pytest.mark.parametrize("excluded", [False, True])
def test_evaluation_before_a_loaded_listener_had_anything_to_read(make, tmp_path, excluded):
    """spaCy evaluates after the first batch. A listener that is not trained must not continue with other weights."""
    nlp = make()
    nlp.add_pipe("ner", config={"model": {"tok2vec": listener()}})
    data = examples(nlp, TAGGED)
    data[0].reference.ents = [Span(data[0].reference, 0, 1, "PERSON")]
    nlp.initialize(lambda: data)
    nlp.update(data, sgd=Adam(0.01), annotates=["sentencizer"])
    nlp.to_disk(tmp_path / "saved")
    nlp = spacy.load(tmp_path / "saved")
    data = examples(nlp, TAGGED)  # without entities
    for example in data:
        example.reference.set_ents([], default="missing")
    nlp.resume_training()
    before = parameters(nlp)
    for _ in range(2):
        nlp.update(data, sgd=False, annotates=["sentencizer"])
        for name in ("elmo", "tagger", *([] if excluded else ["ner"])):
            nlp.get_pipe(name).finish_update(Adam(0.01))
    assert moved(before, parameters(nlp))
    if excluded:
        with pytest.raises(WeightsError, match="ner: was trained with other weights"):
            nlp.evaluate(data)
    else:
        nlp.evaluate(data)


@pytest.mark.parametrize("resumed", [False, True])
def test_listener_that_a_first_batch_has_nothing_for_goes_on_beside_the_others(make, tmp_path, resumed):
    """For example, spaCy's NER skips a batch without annotated entities."""
    nlp = make()
    nlp.add_pipe("morphologizer", config={"model": {"tok2vec": listener()}})
    data = examples(nlp, TAGGED)
    for example in data:
        for token in example.reference:
            token.pos_ = "NOUN" if token.tag_ == "A" else "VERB"
    optimizer = nlp.initialize(lambda: data)
    nlp.get_pipe("elmo").unfreeze(0)
    nlp.update(data, sgd=optimizer, annotates=["sentencizer"])
    if resumed:
        nlp.to_disk(tmp_path / "saved")
        nlp = spacy.load(tmp_path / "saved")
        data, optimizer = examples(nlp, TAGGED), nlp.resume_training()
        for example in data:
            for token in example.reference:
                token.pos_ = "NOUN" if token.tag_ == "A" else "VERB"
    nlp.get_pipe("elmo").unfreeze(None)
    before = parameters(nlp)
    for exclude in (["morphologizer"], ["morphologizer"], [], []):
        nlp.update(data, sgd=optimizer, annotates=["sentencizer"], exclude=exclude)
    assert moved(before, parameters(nlp))
    nlp.evaluate(data)
    nlp.to_disk(tmp_path / "trained")
    spacy.load(tmp_path / "trained")("We sat here.")
