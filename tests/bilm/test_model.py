"""The biLM as a whole: what changes its numbers, what does not, and what it refuses."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_elmo import ElmoError
from spacy_elmo.bilm import BiLM, BiLMOptions, CarriedState
from spacy_elmo.bilm.batching import Packing, WordTable
from spacy_elmo.formats import arrays, load

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def bilm(data):
    return load(data / "tiny_2l_skip")


@pytest.fixture(scope="module")
def alone(bilm, sentences):
    """Return the layers of each sentence, each encoded in a separate call with an empty word table."""
    layers = []
    for sentence in sentences:
        bilm.clear_word_table()
        layers += bilm.encode([sentence])
    return layers


def close(ours, expected):
    assert len(ours) == len(expected)
    for mine, theirs in zip(ours, expected, strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=TOLERANCE)


@settings(max_examples=150)
@given(drawn=st.data())
def test_any_architecture_gives_what_the_slow_implementation_gives(strategies, make_bilm, slowly, drawn):
    bilm = make_bilm(**drawn.draw(strategies.architectures()))
    text = drawn.draw(strategies.lists_of_sentences(min_size=1, max_size=3))
    close(bilm.encode(text, keep_boundaries=True), [slowly.encode(bilm, sentence) for sentence in text])


@pytest.mark.parametrize("projection_dim", [3, 6])
@pytest.mark.parametrize(("cell_clip", "proj_clip"), [(0.2, None), (None, 0.2), (0.2, 0.1), (0, 0), (None, None)])
def test_clips_that_trigger(make_bilm, slowly, projection_dim, cell_clip, proj_clip):
    bilm = make_bilm(dim=6, projection_dim=projection_dim, cell_clip=cell_clip, proj_clip=proj_clip)
    clipped = {"cell": 0, "projection": 0}
    sentence = ["some", "words", "of", "a", "sentence"]
    close(bilm.encode([sentence], keep_boundaries=True), [slowly.encode(bilm, sentence, clipped=clipped)])
    assert bool(clipped["cell"]) == bool(cell_clip)
    assert bool(clipped["projection"]) == bool(
        proj_clip and projection_dim == 3
    )  # like TensorFlow: no projection, no clip


def test_no_batch_changes_a_number(bilm, alone, sentences):
    close(bilm.encode(sentences), alone)


@given(drawn=st.data())
def test_company_order_and_repetition_change_no_number(bilm, alone, sentences, drawn):
    numbers = drawn.draw(st.lists(st.integers(0, len(sentences) - 1), max_size=40))
    max_batch_tokens = drawn.draw(st.sampled_from([1, 2, 7, 50, 4096]))
    ours = bilm.encode([sentences[number] for number in numbers], max_batch_tokens=max_batch_tokens)
    close(ours, [alone[number] for number in numbers])


@pytest.mark.parametrize("max_bytes", [0, 64, 64 * 20, 64 * 2**20])
def test_a_table_of_words_of_any_size_changes_no_number(data, alone, sentences, max_bytes):
    bilm = load(data / "tiny_2l_skip")
    bilm._table = WordTable(max_bytes=max_bytes)
    for _ in range(2):
        close(bilm.encode(sentences, max_batch_tokens=30), alone)


def test_encoding_twice_gives_the_same_bits(bilm, sentences):
    first = bilm.encode(sentences)
    for mine, theirs in zip(bilm.encode(sentences), first, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_boundaries_are_added_around_the_same_layers(bilm, alone, sentences):
    ours = bilm.encode(sentences, keep_boundaries=True)
    assert [layers.shape[1] for layers in ours] == [len(sentence) + 2 for sentence in sentences]
    close([layers[:, 1:-1] for layers in ours], alone)


def test_layers_are_float32_arrays_of_their_own(bilm):
    first, second = bilm.encode([["one", "two"], ["one", "two"]])
    assert first.dtype == np.float32
    first[:] = 0
    assert np.any(second != 0)


def test_layer_0_is_the_embedding_twice(bilm):
    layer = bilm.encode([["twice", "side", "by", "side"]])[0][0]
    np.testing.assert_array_equal(layer[:, :16], layer[:, 16:])


def test_no_sentences_no_layers(bilm):
    assert bilm.encode([]) == []


def test_no_sentences_leave_a_carried_state_as_it_is(bilm):
    text = [["a", "sentence"]]
    with_empty_call, without = CarriedState(), CarriedState()
    for state in (with_empty_call, without):
        bilm.encode(text, state=state)
    assert bilm.encode([], state=with_empty_call) == []
    close(bilm.encode(text, state=with_empty_call), bilm.encode(text, state=without))


def test_a_sentence_without_tokens_has_layers_without_tokens(bilm):
    assert [layers.shape for layers in bilm.encode([[], ["x"], []])] == [(3, 0, 32), (3, 1, 32), (3, 0, 32)]


def test_empty_tokens_and_lone_surrogates_have_the_same_bytes(bilm):
    """A lone surrogate has no bytes."""
    empty, surrogate = bilm.encode([["", "x"], ["\ud800", "x"]])
    np.testing.assert_allclose(empty, surrogate, rtol=0, atol=TOLERANCE)
    assert np.isfinite(empty).all()


def test_a_long_token_is_read_up_to_its_48th_byte(bilm):
    long, cut = bilm.encode([["y" * 10_000, "x"], ["y" * 48, "x"]])
    np.testing.assert_allclose(long, cut, rtol=0, atol=TOLERANCE)
    shorter = bilm.encode([["y" * 47, "x"]])[0]
    assert abs(shorter - cut).max() > 1e-3


@pytest.mark.parametrize("text", [["The fox"], "The fox", [["fine"], ""]])
def test_a_string_instead_of_tokens_is_refused(bilm, text):
    with pytest.raises(ElmoError, match="list of tokens"):
        bilm.encode(text)


def test_carried_state_moves_layers_and_its_absence_does_not(bilm):
    text = [["the", "same", "sentence"]]
    state = CarriedState()
    first, second = bilm.encode(text, state=state)[0], bilm.encode(text, state=state)[0]
    assert abs(first[1:] - second[1:]).max() > 0.01
    close([first], bilm.encode(text))
    close(bilm.encode(text), bilm.encode(text))


def test_carrying_state_leaves_the_model_in_float32(bilm):
    bilm.encode([["x"]], state=CarriedState())
    assert {parameter.dtype for parameter in bilm.parameters()} == {torch.float32}


def test_eight_threads_at_once_get_the_same_layers(data, alone, sentences):
    bilm = load(data / "tiny_2l_skip")
    bilm._table = WordTable(max_bytes=64 * 50)
    start = threading.Barrier(8)

    def encode(thread):
        order = np.random.default_rng(thread).permutation(len(sentences))
        start.wait()
        for _ in range(3):
            layers = bilm.encode([sentences[number] for number in order], max_batch_tokens=25)
            close(layers, [alone[number] for number in order])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(encode, range(8)))


def grad_layers(bilm, text):
    words = [word for sentence in text for word in ("<S>", *sentence, "</S>")]
    return bilm(bilm.embed(words), Packing.of([len(sentence) + 2 for sentence in text]))


@pytest.mark.parametrize("folder", ["tiny_2l_skip", "tiny_2l_clip"])
def test_layers_with_gradients_are_the_layers_without(data, sentences, folder):
    bilm = load(data / folder).requires_grad_()
    layers = grad_layers(bilm, sentences)
    assert layers.requires_grad
    lengths = [len(sentence) + 2 for sentence in sentences]
    ours = [part.numpy() for part in layers.detach().split(lengths, dim=1)]
    close(ours, bilm.encode(sentences, keep_boundaries=True))


@pytest.mark.parametrize(("projection_dim", "clip"), [(2, 0.2), (3, None)])  # test_lstm.py has all pairs
def test_gradients_of_all_parameters(make_bilm, projection_dim, clip):
    bilm = make_bilm(
        dim=3, projection_dim=projection_dim, filters=((1, 2), (3, 2)), embedding_dim=1, max_characters=6,
        cell_clip=clip, proj_clip=clip, activation="tanh", seed=1,
    ).double()  # fmt: skip
    text = [["ab", "c", "ab"], [], ["long-word"]]
    assert torch.autograd.gradcheck(lambda *_: grad_layers(bilm, text), tuple(bilm.parameters()))


def test_gradients_reach_every_parameter(data):
    bilm = load(data / "tiny_2l_skip").requires_grad_()
    grad_layers(bilm, [["every", "parameter"], ["counts"]]).square().sum().backward()
    for name, parameter in bilm.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_loaded_weights_are_frozen(bilm):
    assert not any(parameter.requires_grad for parameter in bilm.parameters())
    assert not bilm.training


def test_encoding_records_no_gradients(bilm):
    layers = [batch.layers for batch in bilm.stream([["no", "gradients"]])]
    assert not any(part.requires_grad for part in layers)


def optimizers():
    yield pytest.param(lambda parameters: torch.optim.SGD(parameters, lr=0.05), id="SGD")
    for name in ("foreach", "fused"):
        yield pytest.param(lambda parameters, name=name: torch.optim.Adam(parameters, lr=0.05, **{name: True}), id=name)


@pytest.mark.parametrize("is_used_between", [True, False])
@pytest.mark.parametrize("n_sentences", [1, 20], ids=["one", "many"])  # plain products and packed ones
@pytest.mark.parametrize("make_optimizer", [*optimizers()])
def test_nothing_made_from_frozen_weights_outlives_an_optimizer_step(
    data, make_optimizer, n_sentences, is_used_between
):
    bilm = load(data / "tiny_2l_skip")
    text = [["words", "to", "remember"]] * n_sentences
    before = bilm.encode(text)[0]
    list(bilm.requires_grad_().stream_with_gradients(text))
    for parameter in bilm.parameters():
        parameter.grad = torch.ones_like(parameter)
    make_optimizer(bilm.parameters()).step()
    after = bilm.encode(text)[0] if is_used_between else None
    again = bilm.requires_grad_(False).encode(text)[0]
    assert abs(again[0] - before[0]).max() > 0.1
    fresh = copy.deepcopy(bilm).encode(text)[0]
    close([again] if after is None else [after, again], [fresh] * (1 + is_used_between))


@pytest.mark.parametrize("n_sentences", [1, 20], ids=["one", "many"])
def test_forget_is_for_changes_behind_torchs_back(data, n_sentences):
    bilm, text = load(data / "tiny_2l_skip"), [["words", "to", "remember"]] * n_sentences
    bilm.encode(text)
    for parameter in bilm.parameters():
        parameter.data.mul_(0.5)
    bilm.forget()
    close(bilm.encode(text), copy.deepcopy(bilm).encode(text))


def change_in_place(bilm):
    with torch.no_grad():
        bilm.embedder.embedding.mul_(1.5)


def round_to_half_precision(bilm):
    bilm.half()
    bilm.float()


def load_other_state(bilm):
    bilm.load_state_dict({name: 1.5 * value for name, value in bilm.state_dict().items()})


def replace_data(bilm):
    bilm.embedder.embedding.data = 1.5 * bilm.embedder.embedding.data


@pytest.mark.parametrize("change", [change_in_place, round_to_half_precision, load_other_state, replace_data])
def test_changed_weights_empty_the_table_of_words(data, change):
    bilm = load(data / "tiny_2l_skip")
    text = [["words", "to", "remember"]]
    bilm.encode(text)
    change(bilm)
    after = bilm.encode(text)
    bilm.clear_word_table()
    close(after, bilm.encode(text))


def test_words_may_be_embedded_without_inference_mode_too(data):
    """`encode` fills the table in inference mode. Calls under no_grad then read it and add to it."""
    bilm = load(data / "tiny_2l_skip")
    bilm.encode([["first"]])
    bilm.encode([["second"]])
    with torch.no_grad():
        vectors = [bilm.embed([word])[0].numpy() for word in ("first", "third", "fourth")]
    close(vectors, [bilm.encode([[word]])[0][0, 0, :16] for word in ("first", "third", "fourth")])


@pytest.mark.parametrize("gradients", [True, False])
def test_no_words_no_vectors(data, gradients):
    with torch.set_grad_enabled(gradients):
        assert load(data / "tiny_2l_skip").embed([]).shape == (0, 16)


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, copy.copy, lambda bilm: pickle.loads(pickle.dumps(bilm))],
    ids=["deepcopy", "copy", "pickle"],
)
def test_a_copy_gives_the_same_layers(bilm, sentences, alone, duplicate):
    bilm.encode(sentences)
    twin = duplicate(bilm)
    assert twin.options == bilm.options
    close(twin.encode(sentences), alone)


def test_a_deep_copy_has_weights_of_its_own(bilm, sentences, alone):
    twin = copy.deepcopy(bilm)
    change_in_place(twin)
    assert abs(twin.encode([["x"]])[0] - bilm.encode([["x"]])[0]).max() > 0.01
    close(bilm.encode(sentences), alone)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_model_in_another_precision_gives_float32_layers_near_by(data, alone, sentences, dtype):
    """float16 has 11 bits and bfloat16 has 8. float64 is closer than the tolerance."""
    tolerance = {torch.float64: TOLERANCE, torch.float16: 0.03, torch.bfloat16: 0.3}[dtype]
    for ours, theirs in zip(load(data / "tiny_2l_skip").to(dtype).encode(sentences), alone, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


def options_of(data):
    return BiLMOptions.from_file(data / "tiny_2l_skip" / "options.json")


def test_random_weights_are_those_of_their_seed(data):
    options = options_of(data)
    first, again, other = (dict(arrays(BiLM(options, seed=seed))) for seed in (1, 1, 2))
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
        if name.endswith(("W_0", "char_embed", "W_proj")):
            assert np.any(array != other[name]), name


def test_random_weights_do_not_depend_on_the_global_random_state(data):
    torch.manual_seed(5)
    first = dict(arrays(BiLM(options_of(data))))
    torch.manual_seed(6)
    for name, array in arrays(BiLM(options_of(data))):
        np.testing.assert_array_equal(array, first[name])


def test_random_weights_start_as_in_the_training_of_bilm_tf(data):
    weights = dict(arrays(BiLM(options_of(data))))
    assert np.all(weights["CNN_high_0/b_carry"] == -2)
    for name, array in weights.items():
        assert np.isfinite(array).all(), name
        if name.endswith(("/B", "b_transform", "b_proj")) or "b_cnn" in name:
            assert np.all(array == 0), name
    assert 0.9 < abs(weights["char_embed"]).max() <= 1
    assert 0.04 < abs(weights["CNN/W_cnn_2"]).max() <= 0.05
    lstm = weights["RNN_0/RNN/MultiRNNCell/Cell0/LSTMCell/W_0"]
    assert 0.9 * (6 / 160) ** 0.5 < abs(lstm).max() <= (6 / 160) ** 0.5


def process_settings():
    return (
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.get_float32_matmul_precision(),
    )


def test_constructing_loading_and_encoding_leave_the_process_as_it_was(data):
    before = process_settings()
    BiLM(options_of(data))
    bilm = load(data / "tiny_2l_skip")
    bilm.encode([["a", "b"]])
    bilm.encode([["a", "b"]], state=CarriedState())
    assert process_settings() == before


def test_inference_mode_does_not_leak_between_the_batches_of_a_stream(bilm):
    for _ in bilm.stream([["a"], ["b"]], max_batch_tokens=1):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()


def test_a_stream_numbers_its_sequences_and_gives_each_once(bilm, sentences):
    seen = {}
    for batch in bilm.stream(sentences, max_batch_tokens=40):
        assert batch.layers.shape == (3, sum(batch.lengths), 32)
        seen |= dict(zip(batch.numbers, batch.lengths, strict=True))
    assert seen == {number: len(sentence) + 2 for number, sentence in enumerate(sentences)}


@pytest.mark.parametrize("state", [None, CarriedState()], ids=["zero", "carried"])
def test_a_stream_without_boundaries_is_what_is_between_them(bilm, state):
    text = [["We", "sat"], [], ["down", "here", "and", "rested"], ["x"]]
    (whole,) = bilm.stream(text, state=copy.deepcopy(state))
    (inner,) = bilm.stream(text, state=state, keep_boundaries=False)
    assert (inner.numbers, inner.lengths) == (whole.numbers, [length - 2 for length in whole.lengths])
    parts = whole.layers.split(whole.lengths, dim=1)
    torch.testing.assert_close(inner.layers, torch.cat([part[:, 1:-1] for part in parts], dim=1), rtol=0, atol=1e-6)


def test_a_carried_state_goes_on_behind_boundaries_that_are_not_kept(bilm):
    text, state, other = [["We", "sat"], ["x"]], CarriedState(), CarriedState()
    for _ in range(2):
        whole = bilm.encode(text, keep_boundaries=True, state=state)
        close(bilm.encode(text, state=other), [layers[:, 1:-1] for layers in whole])


def test_gradients_without_boundaries_are_those_with_them(data, sentences):
    gradients = []
    for kept in (True, False):
        bilm = load(data / "tiny_2l_skip").requires_grad_()
        (batch,) = bilm.stream_with_gradients(sentences[:3], keep_boundaries=kept)
        parts = batch.layers.split(batch.lengths, dim=1)
        sum((part[:, 1:-1] if kept else part).square().sum() for part in parts).backward()
        gradients.append([parameter.grad for parameter in bilm.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_word_input_model_needs_its_vocabulary(data):
    lstm = options_of(data).lstm
    with pytest.raises(ElmoError, match="vocabulary"):
        BiLM(BiLMOptions(lstm=lstm, char_cnn=None))


@pytest.mark.parametrize("missing", ["<S>", "</S>", "<UNK>"])
def test_a_vocabulary_without_a_special_word_is_refused(data, missing):
    words = [word for word in ("<S>", "</S>", "<UNK>", "word") if word != missing]
    with pytest.raises(ElmoError, match=missing):
        BiLM(BiLMOptions(lstm=options_of(data).lstm, char_cnn=None), words)


def test_a_word_input_model_takes_unknown_words_as_unknown(data):
    bilm = BiLM(BiLMOptions(lstm=options_of(data).lstm, char_cnn=None), ["<S>", "</S>", "<UNK>", "word"])
    unknown, marker, word = bilm.encode([["never-seen"], ["<UNK>"], ["word"]])
    close([unknown], [marker])
    assert abs(unknown - word).max() > 0.01


def test_a_bilm_pickled_by_a_version_that_knew_one_family_gives_the_same_vectors(data, sentences):
    bilm = load(data / "tiny_2l_skip")
    expected = bilm.encode(sentences[:3])
    for layer in bilm.layers:
        del layer.__dict__["forget_bias"]
    del bilm.embedder.__dict__["alphabet"]
    close(pickle.loads(pickle.dumps(bilm)).encode(sentences[:3]), expected)
