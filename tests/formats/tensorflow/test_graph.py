"""TensorFlow's graphs: facts that only the graph has. Hostile graphs, and those of other programs, are one clear
error."""

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spacy_elmo import ElmoError, OptionsError
from spacy_elmo.formats.tensorflow import graph

CELLS = [f"lm/RNN_{direction}/rnn/rnn/multi_rnn_cell/cell_{layer}" for direction in (0, 1) for layer in (0, 1, 2)]


@pytest.fixture
def write(tmp_path, message):
    """Return a function that writes a `.meta` file with nodes `{name: (op, inputs, attributes)}`."""

    def encode(name, op, inputs=(), attributes=()):
        content = message(1, name.encode()) + message(2, op.encode())
        content += b"".join(message(3, one.encode()) for one in inputs)
        entries = (message(1, key.encode()) + message(2, value) for key, value in attributes)
        return message(1, content + b"".join(message(5, entry) for entry in entries))

    def write(nodes):
        path = tmp_path / "model.ckpt-1.meta"
        path.write_bytes(message(2, b"".join(encode(name, *node) for name, node in nodes.items())))
        return path

    return write


@pytest.fixture
def network(message):
    """Return the relevant nodes of three layers and two sets of filters, clipped at 3 and 0.3."""

    def clip(cell, kind, what, limit):
        path = f"{cell}/lstm_cell/{kind}/Minimum"
        value = message(8, message(1, 1) + message(5, struct.pack("<f", limit)))
        return {
            path: ("Minimum", (f"{cell}/lstm_cell/{what}", f"{path}/y:0")),
            f"{path}/y": ("Const", ("^lm/x",), (("dtype", message(6, 1)), ("value", value))),
        }

    nodes = {"gradients/lm/RNN_0/add": ("AddV2", ("lm/RNN_0/lstm_cell/x", "y"))}
    for cell in CELLS:
        nodes[f"{cell}/lstm_cell/MatMul"] = ("MatMul", ("x", "y"))
        nodes |= clip(cell, "clip_by_value", "add_1", 3) | clip(cell, "clip_by_value_1", "MatMul_1", 0.3)
        if "cell_0" not in cell:
            nodes[f"{cell}/add"] = ("Add", ("x", f"{cell}/lstm_cell/clip_by_value_1"))
    for number, windows in enumerate((50, 49)):
        end = f"_{number}" if number else ""
        sizes = message(3, bytes([1, 1, windows, 1])) if number else b"".join(message(3, n) for n in (1, 1, windows, 1))
        nodes[f"lm/CNN/MaxPool{end}"] = ("MaxPool", ("x",), (("ksize", message(1, sizes)),))
        nodes[f"lm/CNN/Tanh{end}"] = ("Tanh", ("x",))
    return nodes


def test_the_facts_of_a_graph_are_read(write, network):
    facts = graph.read(write(network), "lm/")
    assert facts == graph.Facts(3.0, 0.3, True, "tanh", {0: 50, 1: 49})


def test_constants_of_both_kinds_are_read(write, network, message):
    """TensorFlow writes few numbers as floats, and many as bytes."""
    value = message(8, message(1, 1) + message(4, struct.pack("<f", 0.7)))
    for cell in CELLS:
        path = f"{cell}/lstm_cell/clip_by_value/Minimum/y"
        network[path] = ("Const", (), (("value", value),))
    assert graph.read(write(network), "lm/").cell_clip == 0.7


def test_what_is_not_there_is_none(write, network):
    kept = {name: node for name, node in network.items() if node[0] == "MatMul"}
    assert graph.read(write(kept), "lm/") == graph.Facts(None, None, False, None, {})


def only(op, ending=""):
    """Return the names of an operation's nodes."""
    return lambda network: [name for name, node in network.items() if node[0] == op and name.endswith(ending)]


def remove(select):
    """Remove the first of these nodes."""
    return lambda network: network.pop(select(network)[0])


def change(select, *node):
    """Replace the first of these nodes."""
    return lambda network: network.update({select(network)[0]: node})


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (remove(only("Minimum")), "have different clips"),
        (remove(only("Const")), "is not a constant"),
        (change(only("Const"), "Const", (), (("value", b"\x42\x06\x2a\x04\x00\x00\x80\x3f"),)), "have different clips"),
        (change(only("Const"), "Const", (), (("value", b"\x42\x07\x2a\x05\x00\x00\x80\x3f\x00"),)), "not one number"),
        (change(only("Const"), "Const"), "no value"),
        (change(only("Minimum"), "Minimum", ("lm/RNN_0/x/mul", "y")), "clips RNN_0/x/mul"),
        (change(only("Minimum"), "Minimum", ("add_1",)), "clips nothing"),
        (remove(only("Add")), "some of its upper layers have skip connections"),
        (change(only("MaxPool"), "MaxPool", (), (("ksize", b"\x0a\x02\x18\x01"),)), "takes a maximum over"),
        (change(only("MaxPool"), "MaxPool"), "no ksize"),
        (change(only("Tanh"), "Relu"), "several activations"),
        (lambda network: [network.pop(name) for name in only("MatMul")(network)], "has no LSTMs"),
    ],
    ids=[
        "a cell without clip",
        "a clip without limit",
        "a cell of another clip",
        "a limit of five bytes",
        "a limit without value",
        "a clip of something else",
        "a clip of one input",
        "a layer without skip connection",
        "a maximum in one dimension",
        "a maximum over nothing",
        "two activations",
        "no LSTMs",
    ],
)
def test_a_graph_that_bilm_tf_does_not_make_is_refused(write, network, damage, expected):
    damage(network)
    with pytest.raises(OptionsError, match=rf"model\.ckpt-1\.meta: .*{expected}.*name its options\.json"):
        graph.read(write(network), "lm/")


def test_a_graph_longer_than_any_is_not_read(tmp_path):
    path = tmp_path / "model.meta"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(OptionsError, match="more than any biLM's graph"):
        graph.read(path, "lm/")


def test_a_graph_of_more_fields_than_any_is_given_up(write, network, monkeypatch):
    monkeypatch.setattr(graph, "_MOST_FIELDS", 100)
    with pytest.raises(OptionsError, match="more fields than any model"):
        graph.read(write(network), "lm/")


def test_a_graph_of_more_nodes_than_any_is_given_up(write, network, monkeypatch):
    monkeypatch.setattr(graph, "_MOST_NODES", 10)
    with pytest.raises(OptionsError, match="more nodes than any model"):
        graph.read(write(network), "lm/")


@given(st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=8), st.integers(0, 2**16))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_change_of_a_graph_is_an_error_of_ours_or_none(small_graph, changes, end):
    path, original = small_graph
    content = bytearray(original)
    for position, value in changes:
        content[position % len(content)] = value
    path.write_bytes(content[: end % (2 * len(content))])
    message = str(path)
    try:
        graph.read(path, "lm/")
    except ElmoError as error:
        message = str(error)
    assert str(path) in message


@pytest.fixture
def small_graph(write, network):
    """Return a graph that a test may change, and its bytes."""
    path = write(network)
    return path, path.read_bytes()
