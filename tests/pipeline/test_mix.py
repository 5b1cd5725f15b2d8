import pytest
import torch

from spacy_elmo import ElmoError
from spacy_elmo.pipeline.mix import FixedMix

LAYERS = torch.arange(24, dtype=torch.float32).reshape(3, 2, 4).square()


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("mean", (LAYERS[0] + LAYERS[1] + LAYERS[2]) / 3),
        ("top", LAYERS[2]),
        ("concat", torch.cat([LAYERS[0], LAYERS[1], LAYERS[2]], dim=1)),
        (0, LAYERS[0]),
        (1, LAYERS[1]),
        (-1, LAYERS[2]),
        ([0.5, -1.0, 2], 0.5 * LAYERS[0] - LAYERS[1] + 2 * LAYERS[2]),
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


@pytest.mark.parametrize("layers", [3, -4, [1.0, 2.0], [1.0] * 4])
def test_mix_that_does_not_fit_the_model_is_an_error(layers):
    with pytest.raises(ElmoError, match="layers"):
        FixedMix(layers).check(3)
