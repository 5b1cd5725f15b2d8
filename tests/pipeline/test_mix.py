import numpy as np
import pytest
import torch

from spacy_elmo import ElmoError
from spacy_elmo.bilm import ScalarMix
from spacy_elmo.bilm import scalar_mix as parity_mix
from spacy_elmo.pipeline.mix import FixedMix, mix_weights, scalar_mix
from spacy_elmo.pipeline.rows import row_width, to_layers, to_rows

LAYERS = torch.arange(24, dtype=torch.float32).reshape(3, 2, 4).square()


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("mean", (LAYERS[0] + LAYERS[1] + LAYERS[2]) / 3),
        ("average", (LAYERS[0] + LAYERS[1] + LAYERS[2]) / 3),
        ("top", LAYERS[2]),
        ("concat", torch.cat([LAYERS[0], LAYERS[1], LAYERS[2]], dim=1)),
        (0, LAYERS[0]),
        (1, LAYERS[1]),
        (-1, LAYERS[2]),
        ([0.5, -1.0, 2], 0.5 * LAYERS[0] - LAYERS[1] + 2 * LAYERS[2]),
        (np.array([0.5, -1.0, 2]), 0.5 * LAYERS[0] - LAYERS[1] + 2 * LAYERS[2]),
        (np.int64(1), LAYERS[1]),
    ],
)
def test_mix_is_what_its_name_says(layers, expected):
    mix = FixedMix(layers)
    mix.check(3)
    torch.testing.assert_close(mix(LAYERS), expected)


@pytest.mark.parametrize("layers", ["bottom", "", [], [1.0, float("nan"), 0.0], True])
def test_unknown_mix_is_an_error(layers):
    with pytest.raises(ElmoError, match="layers is"):
        FixedMix(layers)


@pytest.mark.parametrize("layers", ["mean", "top", "concat", 0, -2, [0.5, -1.0, 2]])
def test_mix_of_rows_is_that_of_their_layers(layers):
    twice = torch.cat([LAYERS[:1, :, :2]] * 2, dim=2)
    stored = torch.cat([twice, LAYERS[1:]])
    rows = to_rows(stored).numpy()
    found = FixedMix(layers).of_rows(rows, layer_width=4)
    np.testing.assert_allclose(found, FixedMix(layers)(stored), rtol=1e-6)
    assert not np.shares_memory(found, rows)
    assert FixedMix(layers).of_rows(rows[:0], layer_width=4).shape == (0, found.shape[1])


@pytest.mark.parametrize("layers", [3, -4, [1.0, 2.0], [1.0] * 4])
def test_mix_that_does_not_fit_the_model_is_an_error(layers):
    with pytest.raises(ElmoError, match="layers"):
        FixedMix(layers).check(3)


# The listener's mix

WIDTH = 8


@pytest.fixture
def rows():
    """Rows of three Docs. The second is empty, and the third has a token that the biLM did not read."""
    random = np.random.default_rng(0)
    docs = [random.normal(size=(n, row_width(3, WIDTH))).astype("f") for n in (4, 0, 3)]
    docs[2][1] = 0
    return docs


def initialized(rows, **settings):
    model = scalar_mix(WIDTH, **settings)
    model.initialize(X=rows)
    return model


def test_learned_mix_starts_as_the_mean_and_is_that_of_the_network(rows):
    model = initialized(rows)
    for mixed, one in zip(model.predict(rows), rows, strict=True):
        np.testing.assert_allclose(mixed, to_layers(torch.from_numpy(one), WIDTH).mean(0), atol=1e-6)
    model = initialized(rows, initial_weights=[0.3, -0.2, 0.5], initial_gamma=1.7)
    reference = ScalarMix(3, initial_weights=[0.3, -0.2, 0.5], initial_gamma=1.7)
    for mixed, one in zip(model.predict(rows), rows, strict=True):
        np.testing.assert_allclose(mixed, reference(to_layers(torch.from_numpy(one), WIDTH)).detach(), atol=1e-6)
    weights, gamma = mix_weights(model)
    np.testing.assert_allclose(weights, reference.weights.softmax(0).tolist(), atol=1e-6)
    assert gamma == pytest.approx(1.7)


@pytest.mark.parametrize("mix", ["mean", "average", "top", 0, -2, [0.2, 0.5, 0.3]])
def test_fixed_mix_is_that_of_the_component(rows, mix):
    model = initialized(rows, mix=mix)
    assert not model.has_param("s")
    for mixed, one in zip(model.predict(rows), rows, strict=True):
        np.testing.assert_allclose(mixed, FixedMix(mix)(to_layers(torch.from_numpy(one), WIDTH)), atol=1e-6)


def test_concatenation_is_that_of_the_component(rows):
    model = scalar_mix(3 * WIDTH, "concat")
    for mixed, one in zip(model.predict(rows), rows, strict=True):
        np.testing.assert_array_equal(mixed, FixedMix("concat")(to_layers(torch.from_numpy(one), WIDTH)))


def test_layer_normalization_is_by_doc_and_layer(rows):
    """The same text has the same result in any batch, and each Doc is normalized like a batch of one in the
    originals."""
    model = initialized(rows, do_layer_norm=True, initial_weights=[0.3, -0.2, 0.5])
    together = model.predict(rows)
    for number, one in enumerate(rows):
        np.testing.assert_allclose(together[number], model.predict([one])[0], atol=1e-6)
        there = one.any(axis=1)
        layers = to_layers(torch.from_numpy(one[there]), WIDTH)
        expected = parity_mix(layers, torch.tensor([0.3, -0.2, 0.5]), 1.0, do_layer_norm=True)
        np.testing.assert_allclose(together[number][there], expected, atol=1e-5)
        assert not together[number][~there].any()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_layer_norm": True},
        {"mix": [0.2, 0.5, 0.3]},
        {"mix": "concat"},
        {"mix": "concat", "do_layer_norm": True},
        {"initial_weights": [0.3, -0.2, 0.5], "initial_gamma": 1.7, "l2_coef": 0.1},
    ],
    ids=str,
)
def test_gradients_agree_with_finite_differences(rows, settings):
    width = 3 * WIDTH if settings.get("mix") == "concat" else WIDTH
    model = scalar_mix(width, **settings)
    model.initialize(X=rows)
    random = np.random.default_rng(1)
    d_mixed = [random.normal(size=(len(one), width)).astype("f") for one in rows]
    _, backprop = model(rows, is_train=True)
    d_rows = backprop(d_mixed)

    def loss():
        given = sum(float((d * y).sum()) for d, y in zip(d_mixed, model.predict(rows), strict=True))
        l2 = settings.get("l2_coef", 0.0)
        return given + (l2 * float((model.get_param("s") ** 2).sum()) if l2 else 0.0)

    def slope(array, index, step=1e-2):
        value = array[index]
        array[index] = value + step
        above = loss()
        array[index] = value - step
        below = loss()
        array[index] = value
        return (above - below) / (2 * step)

    for one, gradient in zip(rows, d_rows, strict=True):
        assert gradient.shape == one.shape
        for index in [(0, 0), (2, 3), (2, 9), (0, 17)] if len(one) else []:
            assert gradient[index] == pytest.approx(slope(one, index), rel=0.02, abs=0.02)
    if model.has_param("s"):
        for name in ("s", "gamma"):
            parameter = model.get_param(name)
            for index in range(len(parameter)):
                assert model.get_grad(name)[index] == pytest.approx(slope(parameter, index), rel=0.02, abs=0.02)


def test_grad_factor_scales_what_goes_upstream_only(rows):
    gradients = []
    for grad_factor in (1.0, 0.5, 0.0):
        model = initialized(rows, grad_factor=grad_factor)
        mixed, backprop = model(rows, is_train=True)
        gradients.append((backprop(mixed), model.get_grad("s")))
    (full, d_s), (half, same), (none, also) = gradients
    for a, b, c in zip(full, half, none, strict=True):
        np.testing.assert_allclose(0.5 * a, b, atol=1e-6)
        assert not c.any()
    np.testing.assert_array_equal(d_s, same)
    np.testing.assert_array_equal(d_s, also)


def test_dropout_is_for_training_only_and_gradients_follow_it(rows):
    np.random.seed(0)
    model = initialized(rows, dropout=0.5)
    dropped, backprop = model(rows, is_train=True)
    whole = model.predict(rows)
    kept = dropped[0] != 0
    assert 0.2 < kept.mean() < 0.8
    np.testing.assert_allclose(dropped[0][kept], 2 * whole[0][kept], rtol=1e-5)
    d_rows = backprop([np.ones_like(one) for one in dropped])
    assert 0 < (d_rows[0] == 0).mean() < 1


def test_no_docs_is_no_error():
    assert scalar_mix(WIDTH).predict([]) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mix": "bottom"}, "mix is 'bottom', expected \"learned\""),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"l2_coef": -1.0}, "l2_coef is -1.0"),
        ({"mix": "mean", "initial_gamma": 2.0}, "learned"),
        ({"mix": "top", "initial_weights": [0.0, 0.0, 0.0]}, "learned"),
    ],
)
def test_wrong_settings_are_errors(settings, message):
    with pytest.raises(ElmoError, match=message):
        scalar_mix(WIDTH, **settings)


@pytest.mark.parametrize(
    ("width", "settings", "message"),
    [
        (10, {}, "width is 10"),
        (16, {}, "width is 16"),
        (WIDTH, {"mix": "concat"}, "width is 8"),
        (25, {"mix": "concat"}, "width is 25"),
        (WIDTH, {"initial_weights": [1.0, 2.0]}, "initial_weights has 2 weights"),
        (WIDTH, {"mix": [1.0, 2.0]}, "mix lists 2 weights"),
        (WIDTH, {"mix": 3}, "mix is 3"),
    ],
)
def test_what_does_not_fit_the_bilm_is_an_error(rows, width, settings, message):
    with pytest.raises(ElmoError, match=message):
        scalar_mix(width, **settings).initialize(X=rows).predict(rows)


def test_initializing_with_an_empty_list_is_as_with_nothing(rows):
    model = scalar_mix(WIDTH, initial_weights=[0.3, -0.2, 0.5])
    model.initialize(X=[])
    assert model.get_param("s").tolist() == pytest.approx([0.3, -0.2, 0.5])
    scalar_mix(WIDTH).initialize(X=[])


def test_mix_that_was_never_initialized_says_so(rows):
    with pytest.raises(ElmoError, match="initialize"):
        scalar_mix(WIDTH).predict(rows)


def test_learned_numbers_survive_bytes_and_copies(rows):
    model = initialized(rows, initial_weights=[0.3, -0.2, 0.5], initial_gamma=1.7)
    again = scalar_mix(WIDTH).from_bytes(model.to_bytes())
    assert mix_weights(again) == mix_weights(model) == mix_weights(model.copy())


def test_averages_reach_the_mix(rows):
    model = initialized(rows)
    other = {(model.id, "s"): np.array([5.0, 0, 0], "f"), (model.id, "gamma"): np.array([2.0], "f")}
    with model.use_params(other):
        weights, gamma = mix_weights(model)
        assert gamma == 2.0
        assert weights[0] > 0.9
    assert mix_weights(model) == (pytest.approx([1 / 3] * 3), 1.0)
