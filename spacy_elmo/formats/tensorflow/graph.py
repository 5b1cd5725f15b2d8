"""Read a TensorFlow graph (`.meta`, `saved_model.pb`) for those options of a biLM that only the graph has.

The shapes of the variables give most of an architecture. Clips, activation, skip connections and the longest word are
only in the nodes of the network, whose names come from bilm-tf's code. Nothing of a graph is run. The field numbers are
those of TensorFlow's saved_model, meta_graph, graph, function, node_def, attr_value and tensor.proto.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from spacy_elmo.errors import OptionsError, WeightsError
from spacy_elmo.formats.archive import File, read_whole, size_of
from spacy_elmo.formats.tensorflow.protobuf import MalformedError, Reader, Value, as_bytes, as_text, varint
from spacy_elmo.support.messages import reason

_MOST_BYTES = 2**28
_MOST_FIELDS = 2**23  # bilm-tf's training graph for three GPUs and 20 time steps has 430,000
_MOST_NODES = 2**17  # to keep

_ADD = ("Add", "AddV2")
_ACTIVATIONS = {"Relu": "relu", "Tanh": "tanh"}
_MATMUL, _MAXIMUM, _MINIMUM, _CONSTANT = "MatMul", "MaxPool", "Minimum", "Const"
_KEPT = {*_ADD, *_ACTIVATIONS, _MATMUL, _MAXIMUM, _MINIMUM, _CONSTANT}
_CELL = re.compile(r"(RNN_[01]/.*\blstm_cell)/")
_CONVOLUTION = re.compile(r"CNN/[A-Za-z]+(?:_(\d+))?")


@dataclass(frozen=True)
class Facts:
    """What a graph says about a biLM.

    activation: None if it has no character CNN.
    pooled: over how many windows the maximum is taken, by the number of the filter set.
    """

    cell_clip: float | None
    proj_clip: float | None
    use_skip_connections: bool
    activation: str | None
    pooled: Mapping[int, int]


@dataclass(frozen=True)
class _Node:
    """inputs: names of the nodes that it reads; attributes: its settings, not parsed yet."""

    op: str
    inputs: tuple[str, ...]
    attributes: tuple[memoryview, ...]


def read(file: File, scope: str) -> Facts:
    """Read the facts about the biLM whose variables are in `scope` (with a slash at its end).

    Raises:
        OptionsError: the file is damaged or hostile, has no graph of this biLM, or one that bilm-tf cannot have made.
    """
    if size_of(file) > _MOST_BYTES:
        raise OptionsError(f"{file}: {size_of(file):,} bytes are more than any biLM's graph has; refused")
    reader = Reader(_MOST_FIELDS)
    try:
        nodes = _own_nodes(reader, _graphs(reader, memoryview(_read(file)), file.name), scope)
        return _facts(reader, nodes)
    except MalformedError as error:
        raise OptionsError(
            f"{file}: cannot be read as the graph of a biLM ({reason(error)}); name its options.json"
        ) from None


def _read(file: File) -> bytes:
    try:
        return read_whole(file, _MOST_BYTES)
    except WeightsError as error:
        raise OptionsError(str(error)) from None


def _graphs(reader: Reader, content: memoryview, name: str) -> Iterator[memoryview]:
    """Yield the graphs. SavedModel: 2 meta_graphs; MetaGraphDef, which a `.meta` file is: 2 graph_def."""
    for meta_graph in [content] if name.endswith(".meta") else reader.all(content, 2):
        yield from reader.all(meta_graph, 2)


def _own_nodes(reader: Reader, graphs: Iterable[memoryview], scope: str) -> dict[str, _Node]:
    """The biLM's nodes of the relevant kinds, by their names after the scope."""
    found = {}
    for graph in graphs:
        for message in _messages(reader, graph):
            name, node = _parse_node(reader, message)
            if node.op in _KEPT and name.startswith(scope):
                inputs = tuple(one.removeprefix(scope).partition(":")[0] for one in node.inputs)
                found[name.removeprefix(scope)] = replace(node, inputs=inputs)
                if len(found) > _MOST_NODES:
                    raise MalformedError("it has more nodes than any model")
    return found


def _messages(reader: Reader, graph: memoryview) -> Iterator[memoryview]:
    """Yield the nodes of a graph and its functions. TensorFlow 2 keeps in functions what 1 kept in the graph itself.

    GraphDef: 1 node, 2 library; library: 1 function; function: 3 node_def.
    """
    for number, value in reader.fields(graph):
        if number == 1:
            yield as_bytes(value)
        elif number == 2:
            for function in reader.all(as_bytes(value), 1):
                yield from reader.all(function, 3)


def _parse_node(reader: Reader, message: memoryview) -> tuple[str, _Node]:
    """NodeDef: 1 name, 2 op, 3 input, 5 attr."""
    name, op, inputs, attributes = "", "", [], []
    for number, value in reader.fields(message):
        if number == 1:
            name = as_text(value)
        elif number == 2:
            op = as_text(value)
        elif number == 3:
            inputs.append(as_text(value))
        elif number == 5:
            attributes.append(as_bytes(value))
    return name, _Node(op, tuple(inputs), tuple(attributes))


def _facts(reader: Reader, nodes: Mapping[str, _Node]) -> Facts:
    cells = {match[1] for name, node in nodes.items() if node.op == _MATMUL and (match := _CELL.match(name))}
    if not cells:
        raise MalformedError("it has no LSTMs")
    cell_clip, proj_clip = (_common(clips, len(cells)) for clips in _clips(reader, nodes))
    activation, pooled = _convolutions(reader, nodes)
    return Facts(cell_clip, proj_clip, _has_skip_connections(nodes, len(cells)), activation, pooled)


def _clips(reader: Reader, nodes: Mapping[str, _Node]) -> tuple[Mapping[str, set[float]], Mapping[str, set[float]]]:
    """Return the limits of the cells and of their projections, by their names, at all time steps."""
    cells: dict[str, set[float]] = defaultdict(set)
    projections: dict[str, set[float]] = defaultdict(set)
    of_kind = {"add": cells, "MatMul": projections}  # a cell is a sum of products, its projection one product
    for name, node in nodes.items():
        if node.op == _MINIMUM and (match := _CELL.match(name)):
            clipped, limit = node.inputs if len(node.inputs) == 2 else ("", "")
            kind = re.sub(r"_\d+$", "", clipped.rpartition("/")[2])
            if kind not in of_kind:
                raise MalformedError(f"{name} clips {clipped or 'nothing'}")
            of_kind[kind][match[1]].add(_constant(reader, nodes, limit))
    return cells, projections


def _has_skip_connections(nodes: Mapping[str, _Node], n_cells: int) -> bool:
    """Whether a wrapper adds a cell's input to its output, in all layers except the first."""
    found = set()
    for name, node in nodes.items():
        cell = f"{name.rpartition('/')[0]}/lstm_cell/"
        if node.op in _ADD and any(one.startswith(cell) for one in node.inputs):
            found.add(cell)
    if found and len(found) != n_cells - 2:
        raise MalformedError("only some of its upper layers have skip connections")
    return bool(found)


def _convolutions(reader: Reader, nodes: Mapping[str, _Node]) -> tuple[str | None, dict[int, int]]:
    """Return the activation, and over how many windows the maximum is taken, by the number of the filter set."""
    activations, pooled = set(), {}
    for name, node in nodes.items():
        if match := _CONVOLUTION.fullmatch(name):
            if node.op == _MAXIMUM:
                pooled[int(match[1] or 0)] = _windows(reader, node)
            elif node.op in _ACTIVATIONS:
                activations.add(_ACTIVATIONS[node.op])
    if len(activations) > 1:
        raise MalformedError("it has several activations")
    return next(iter(activations), None), pooled


def _common(clips: Mapping[str, set[float]], n_cells: int) -> float | None:
    """Return the one limit that all cells have; None if they have none."""
    limits = set().union(*clips.values())
    if len(limits) > 1 or len(clips) not in (0, n_cells):
        raise MalformedError("its cells have different clips")
    return next(iter(limits), None)


def _constant(reader: Reader, nodes: Mapping[str, _Node], name: str) -> float:
    """Return the value of a float32 constant.

    AttrValue: 8 tensor; TensorProto: 4 tensor_content, 5 float_val.
    """
    node = nodes.get(name)
    if node is None or node.op != _CONSTANT:
        raise MalformedError(f"{name} is not a constant")
    tensor = reader.single(as_bytes(_attribute(reader, node, "value").get(8, memoryview(b""))))
    content = as_bytes(tensor.get(4, tensor.get(5, memoryview(b""))))
    if len(content) != 4:
        raise MalformedError(f"{name} is not one number")
    return float(str(np.frombuffer(content, "<f4")[0]))  # 0.3, as in options.json, instead of float32's 0.30000001


def _windows(reader: Reader, node: _Node) -> int:
    """Return over how many windows a maximum is taken: the third number of [1, 1, windows, 1].

    AttrValue: 1 list; list: 3 i, packed or not.
    """
    sizes: list[int] = []
    for number, value in reader.fields(as_bytes(_attribute(reader, node, "ksize").get(1, memoryview(b"")))):
        if number == 3 and isinstance(value, int):
            sizes.append(value)
        elif number == 3:
            at = 0
            while at < len(as_bytes(value)):
                size, at = varint(as_bytes(value), at)
                sizes.append(size)
    if len(sizes) != 4:
        raise MalformedError(f"it takes a maximum over {sizes[:5]}")
    return sizes[2]


def _attribute(reader: Reader, node: _Node, key: str) -> dict[int, Value]:
    """Entry of a map: 1 key, 2 value."""
    for message in node.attributes:
        entry = reader.single(message)
        if as_text(entry.get(1, memoryview(b""))) == key:
            return reader.single(as_bytes(entry.get(2, memoryview(b""))))
    raise MalformedError(f"a {node.op} has no {key}")
