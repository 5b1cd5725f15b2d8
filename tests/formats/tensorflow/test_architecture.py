"""Options from shapes and the graph's facts. Shapes that no biLM has are one clear error."""

import pytest

from spacy_elmo import OptionsError
from spacy_elmo.formats.tensorflow.architecture import derive
from spacy_elmo.formats.tensorflow.graph import Facts

CELL = "RNN_0/RNN/MultiRNNCell/Cell{}/LSTMCell/W_0"
FACTS = Facts(cell_clip=3.0, proj_clip=None, use_skip_connections=True, activation="tanh", pooled={0: 16, 1: 15})


@pytest.fixture
def shapes():
    """Return the shapes for two layers, two sets of filters and a highway layer."""
    return {
        CELL.format(0): (8, 24),
        CELL.format(1): (8, 24),
        "CNN/W_cnn_0": (1, 1, 5, 2),
        "CNN/W_cnn_1": (1, 2, 5, 3),
        "CNN_high_0/W_carry": (5, 5),
    }


def test_options_are_derived(shapes):
    options = derive(shapes, FACTS, "model")
    lstm, cnn = options.lstm, options.char_cnn
    assert (lstm.dim, lstm.projection_dim, lstm.n_layers, lstm.cell_clip, lstm.proj_clip) == (6, 4, 2, 3.0, None)
    assert (cnn.filters, cnn.embedding_dim, cnn.n_highway) == (((1, 2), (2, 3)), 5, 1)
    assert (cnn.activation, cnn.max_characters_per_token) == ("tanh", 16)


def test_a_model_with_an_embedding_reads_words(shapes):
    assert derive({**shapes, "embedding": (7, 4)}, FACTS, "model").char_cnn is None


@pytest.mark.parametrize(
    ("changes", "facts", "expected"),
    [
        ({CELL.format(0): None}, FACTS, "Cell0/LSTMCell/W_0 is missing"),
        ({CELL.format(0): (8,)}, FACTS, r"W_0 has the shape \[8\]"),
        ({CELL.format(0): (0, 24)}, FACTS, r"W_0 has the shape \[0, 24\]"),
        ({CELL.format(0): (80, 24)}, FACTS, "projection_dim 40 is larger than dim 6"),
        ({"CNN/W_cnn_1": (2, 5, 3)}, FACTS, r"CNN/W_cnn_1 has the shape \[2, 5, 3\]"),
        ({"CNN/W_cnn_0": None}, FACTS, "character CNN of graph and variables differs"),
        ({}, Facts(None, None, False, "relu", {0: 16, 1: 16}), "character CNN of graph and variables differs"),
        ({}, Facts(None, None, False, None, {0: 16, 1: 15}), "character CNN of graph and variables differs"),
        ({}, Facts(float("nan"), None, False, "relu", {0: 16, 1: 15}), "cell_clip is nan"),
        ({}, Facts(-1.0, None, False, "relu", {0: 16, 1: 15}), "cell_clip is -1"),
    ],
    ids=[
        "no LSTM",
        "an LSTM of one dimension",
        "an LSTM of no size",
        "a projection upwards",
        "filters of three dimensions",
        "no filters",
        "filters of other widths",
        "no activation",
        "a clip that is no number",
        "a negative clip",
    ],
)
def test_what_is_no_bilm_is_an_error_that_names_the_model(shapes, changes, facts, expected):
    changed = {name: shape for name, shape in {**shapes, **changes}.items() if shape is not None}
    with pytest.raises(OptionsError, match=rf"model\.index.*{expected}"):
        derive(changed, facts, "model.index")
