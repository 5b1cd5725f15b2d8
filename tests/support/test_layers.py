import numpy as np
import pytest

from spacy_elmo.errors import ElmoError
from spacy_elmo.support.layers import parse_layers, parse_mix

COMPONENT = ("mean", "top", "concat")
EMBED = ("all", "top", "mean")
ONE = ("mean", "top")


@pytest.mark.parametrize("words", [COMPONENT, EMBED, ONE])
def test_average_is_the_mean_wherever_layers_are_chosen(words):
    assert parse_layers("average", words) == parse_layers("mean", words) == "mean"


@pytest.mark.parametrize(("asked", "expected"), [("top", "top"), (0, 0), (-1, -1), ("2", 2), (np.int64(1), 1)])
def test_a_word_or_the_number_of_a_layer_is_taken(asked, expected):
    found = parse_layers(asked, ONE, 3)
    assert found == expected
    assert type(found) in (int, str)


@pytest.mark.parametrize("asked", [3, -4, "3", "-1", True, 1.0, None, "", "tip", "9" * 5000, [1.0, 0.0, 0.0]])
def test_no_such_layer_is_an_error_that_says_which_there_are(asked):
    with pytest.raises(ElmoError, match=r'layers is .*, expected "mean", "top" or a layer from 0 to 2$'):
        parse_layers(asked, ONE, 3)


@pytest.mark.parametrize(
    ("asked", "words", "hint"),
    [
        ("all", COMPONENT, r'"concat" \(all layers side by side\)'),
        ("all", ("learned", *COMPONENT), r'"concat" .* or "learned" \(a mix that the task learns\)'),
        ("all", ONE, r'"mean" \(the mean of all layers\)'),
        ("concat", EMBED, r'"all" \(each layer by itself\)'),
        ("learned", COMPONENT, '"mean"'),
    ],
)
def test_a_word_that_means_something_elsewhere_is_refused_with_what_is_probably_wanted(asked, words, hint):
    with pytest.raises(ElmoError, match=f"layers is '{asked}', expected .*; perhaps you want {hint}"):
        parse_layers(asked, words)


@pytest.mark.parametrize("weights", [[0.5, 0.25, 0.25], (1, 0, -1), np.array([0.5, 0.5, 0.0]), np.ones(3, "f")])
def test_a_mix_may_be_a_weight_for_each_layer(weights):
    found = parse_mix(weights, COMPONENT, 3)
    assert found == list(weights)
    assert all(type(weight) in (int, float) for weight in found)


@pytest.mark.parametrize("weights", [[], [1.0, float("nan")], ["0.5", "0.5"], [[1.0], [0.0]], {"top": 1.0}])
def test_what_is_no_list_of_numbers_is_an_error(weights):
    with pytest.raises(ElmoError, match=r'elmo: mix is .*"concat", the number of a layer or a list of weights$'):
        parse_mix(weights, COMPONENT, setting="elmo: mix")


def test_more_or_fewer_weights_than_layers_are_an_error():
    with pytest.raises(ElmoError, match="layers lists 2 weights, but the biLM has 3 layers"):
        parse_mix([0.5, 0.5], COMPONENT, 3)
