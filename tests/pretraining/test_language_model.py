import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.bilm.characters import PADDING, token_ids
from spacy_elmo.bilm.softmax import Candidates, Softmax
from spacy_elmo.errors import PretrainingError
from spacy_elmo.pretraining.batches import Batch
from spacy_elmo.pretraining.language_model import LanguageModel

WORDS = ["<S>", "</S>", "<UNK>", "a", "the", "naïve", "東京", "x" * 30, "b", "longest", "of", "all"]


def characters(width=12):
    table = np.full((len(WORDS), width), PADDING, dtype=np.uint16)
    for row, word in zip(table, WORDS, strict=True):
        ids = token_ids(word, width)
        row[: len(ids)] = ids
    return table


def random_batch(rows=3, steps=4, seed=0, starts=0.3, n_targets=20):
    rng = np.random.default_rng(seed)
    return Batch(
        rng.integers(len(WORDS), size=(2, rows, steps)),
        rng.integers(n_targets, size=(2, rows, steps)),
        rng.random((rows, steps)) < starts,
    )


def random_states(lm, rows, seed=0):
    options, generator = lm.bilm.options.lstm, torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(2, rows, options.projection_dim, generator=generator).double(),
            torch.randn(2, rows, options.dim, generator=generator).double(),
        )
        for _ in range(options.n_layers)
    ]


ARCHITECTURES = [
    {},
    {"use_skip_connections": False},
    {"n_layers": 3},
    {"n_layers": 1},
    {"cell_clip": 0.2, "proj_clip": 0.1},
    {"cell_clip": None, "proj_clip": None},
    {"projection_dim": 10},
    {"dim": 10, "projection_dim": 10, "filters": ((1, 4), (3, 6))},
    {"activation": "tanh", "n_highway": 2},
    {"n_highway": 0, "max_characters_per_token": 5},
]
architecture = pytest.mark.parametrize("model", ARCHITECTURES, ids=[str(model) for model in ARCHITECTURES])


def close(found, expected, **tolerance):
    torch.testing.assert_close(found, expected, **{"rtol": 1e-9, "atol": 1e-11, **tolerance})


@architecture
@pytest.mark.parametrize("carried", [False, True])
def test_loss_states_and_gradients_are_those_of_the_second_implementation(make_model, slowly, model, carried):
    lm = make_model(**model)
    batch, table = random_batch(seed=1), characters(lm.bilm.options.char_cnn.max_characters_per_token)
    assert batch.starts[:, 1:].any()
    assert not batch.starts[:, 1:].all(axis=0).any()
    states = random_states(lm, 3) if carried else None
    loss, finals = lm(batch, table, states)
    expected, expected_finals = slowly.loss(lm, batch, table, states)
    close(loss, expected)
    for found, other in zip(finals, expected_finals, strict=True):
        close(found, tuple(other))
    parameters = list(lm.parameters())
    for (name, _), found, other in zip(
        lm.named_parameters(),
        torch.autograd.grad(loss, parameters),
        torch.autograd.grad(expected, parameters, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(found, other, rtol=1e-8, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@settings(max_examples=15)
@given(rows=st.integers(1, 5), steps=st.integers(1, 7), seed=st.integers(0, 999), starts=st.sampled_from([0, 0.2, 1]))
def test_loss_is_that_of_the_second_implementation_for_any_batch(make_model, slowly, rows, steps, seed, starts):
    lm, batch = make_model(seed=seed), random_batch(rows, steps, seed, starts)
    states = random_states(lm, rows, seed)
    close(lm(batch, characters(), states)[0], slowly.loss(lm, batch, characters(), states)[0])


@pytest.mark.parametrize("sampled", [False, True])
def test_gradients_are_finite_differences(make_model, sampled):
    lm, batch, table = make_model(), random_batch(seed=1), characters()
    states = random_states(lm, 3)
    candidates = Candidates.draw(8, 20, np.random.default_rng(0)) if sampled else None
    loss, _ = lm(batch, table, states, candidates)
    loss.backward()
    generator, epsilon = torch.Generator().manual_seed(0), 1e-6
    for name, parameter in lm.named_parameters():
        way = torch.randn(parameter.shape, generator=generator).double()
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * epsilon * way
                values.append(lm(batch, table, states, candidates)[0].item())
                parameter -= sign * epsilon * way
        slope = (values[0] - values[1]) / (2 * epsilon)
        assert (parameter.grad * way).sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-8), name


def test_states_carry_over_what_one_long_batch_would_have_read(make_model):
    lm, table, long = make_model(), characters(), random_batch(steps=8, starts=0.1)
    parts = [
        Batch(long.words[..., part], long.targets[..., part], long.starts[:, part]) for part in (slice(3), slice(3, 8))
    ]
    first, states = lm(parts[0], table)
    second, states = lm(parts[1], table, states)
    whole, expected = lm(long, table)
    close((3 * first + 5 * second) / 8, whole)
    for found, other in zip(states, expected, strict=True):
        close(found, other)


def test_row_that_starts_afresh_does_not_see_its_state(make_model):
    lm, table, batch = make_model(), characters(), random_batch(starts=0)
    fresh = dataclasses.replace(batch, starts=np.array([[True, False, False, False]] * 3))
    close(lm(fresh, table, random_states(lm, 3))[0], lm(batch, table)[0])
    assert abs(lm(batch, table, random_states(lm, 3))[0] - lm(batch, table)[0]) > 1e-3


def test_states_are_cut_off_from_the_gradient(make_model):
    lm = make_model()
    _, states = lm(random_batch(), characters())
    assert not any(part.requires_grad for state in states for part in state)


def test_loss_is_the_mean_of_the_two_directions(make_model):
    lm, table, batch = make_model(), characters(), random_batch()
    hidden, _ = lm.read(batch, table, None, torch.Generator())
    losses = [
        torch.nn.functional.cross_entropy(
            hidden[direction] @ lm.softmax.weight.T + lm.softmax.bias,
            torch.from_numpy(batch.targets[direction].T.reshape(-1)),
        )
        for direction in (0, 1)
    ]
    assert abs(losses[0] - losses[1]) > 1e-3
    close(lm(batch, table)[0], (losses[0] + losses[1]) / 2)


def test_directions_do_not_see_each_other(make_model):
    lm, table, batch = make_model(), characters(), random_batch()
    other = batch.words.copy()
    other[1] = (other[1] + 1) % len(WORDS)
    hidden, _ = lm.read(batch, table, None, torch.Generator())
    changed, _ = lm.read(dataclasses.replace(batch, words=other), table, None, torch.Generator())
    close(changed[0], hidden[0])
    assert (changed[1] - hidden[1]).abs().max() > 1e-3


def constant(make_model, dropout, **model):
    """Make a model whose first layer gives the same output everywhere for any input, and whose later layers output
    zero."""
    lm = make_model(dropout=dropout, **model).train()
    with torch.no_grad():
        for parameter in lm.bilm.layers.parameters():
            parameter.zero_()
        first = lm.bilm.layers[0]
        first.bias.fill_(2.0)
        first.bias[:, 10:20] = -1000  # forget
        first.projection.fill_(0.1)
    return lm


def read(lm, seed, rows=40, steps=10):
    with torch.no_grad():
        batch = random_batch(rows, steps)
        return lm.read(batch, characters(), None, torch.Generator().manual_seed(seed))[0]


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_dropout_strikes_the_last_output_about_as_often_as_asked_and_makes_up_for_it(make_model, dropout):
    lm = constant(make_model, dropout, n_layers=1)
    full = read(lm.eval(), 0)[0, 0, 0]
    dropped = read(lm.train(), 0)
    assert (dropped == 0).double().mean().item() == pytest.approx(dropout, abs=0.03)
    close(dropped[dropped != 0], (full / (1 - dropout)).expand((dropped != 0).sum()))


def test_skip_connection_takes_the_input_as_dropout_left_it(make_model):
    lm = constant(make_model, 0.3, n_layers=2)
    full = read(lm.eval(), 0)[0, 0, 0]
    dropped = read(lm.train(), 0)
    assert (dropped == 0).double().mean().item() == pytest.approx(1 - 0.7**2, abs=0.03)
    close(dropped[dropped != 0], (full / 0.7**2).expand((dropped != 0).sum()))


def test_dropout_strikes_the_input_of_the_first_layer(make_model):
    lm = make_model(dropout=0.5, n_layers=1).train()
    last = lm.bilm.layers[0]
    with torch.no_grad():
        last.weight[:, 6:] = 0  # no state is carried, so differences along a row come from the input
        last.bias[:, 10:20] = -1000
    batch = dataclasses.replace(random_batch(), words=np.full((2, 3, 4), 5))
    with torch.no_grad():
        hidden = lm.read(batch, characters(), None, torch.Generator().manual_seed(0))[0].reshape(-1, 6)
    kept = [{round(value.item(), 9) for value in column if value} for column in hidden.T]
    assert any(len(values) > 2 for values in kept)  # the directions alone would give two


def test_dropout_is_off_in_evaluation(make_model):
    lm, batch = make_model(dropout=0.5), random_batch()
    assert lm(batch, characters(), seed=1)[0] == lm(batch, characters(), seed=2)[0]
    assert lm(batch, characters())[0] == make_model()(batch, characters())[0]


def test_dropout_depends_on_the_seed_only(make_model):
    lm, batch = make_model(dropout=0.3).train(), random_batch()
    torch.manual_seed(1)
    first = lm(batch, characters(), seed=7)[0]
    torch.manual_seed(2)
    assert lm(batch, characters(), seed=7)[0] == first
    assert lm(batch, characters(), seed=8)[0] != first


def test_gradients_with_dropout_are_finite_differences(make_model):
    lm, batch, table = make_model(dropout=0.4).train(), random_batch(), characters()
    lm(batch, table, seed=3)[0].backward()
    parameter, epsilon, values = lm.bilm.layers[0].weight, 1e-6, []
    way = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)).double()
    for sign in (1, -1):
        with torch.no_grad():
            parameter += sign * epsilon * way
        values.append(lm(batch, table, seed=3)[0].item())
        with torch.no_grad():
            parameter -= sign * epsilon * way
    slope = (values[0] - values[1]) / (2 * epsilon)
    assert (parameter.grad * way).sum().item() == pytest.approx(slope, rel=1e-4)


def test_bilm_that_reads_words_is_refused():
    bilm = BiLM(BiLMOptions.from_dict({"lstm": {"dim": 4, "projection_dim": 4}}), ["<S>", "</S>", "<UNK>"])
    with pytest.raises(PretrainingError, match="reads whole words"):
        LanguageModel(bilm, Softmax(3, 4))
