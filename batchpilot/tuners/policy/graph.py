"""From the bytes of an ONNX model to its network and metadata, refusing every graph but the one of `layout`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchpilot.tuners.policy import layout
from batchpilot.tuners.policy.layout import Node
from batchpilot.tuners.policy.network import Network
from batchpilot.tuners.policy.wire import (
    Kind,
    Message,
    numbers,
    one_number,
    one_part,
    one_text,
    parts,
    read_message,
    texts,
)

_FLOAT, _INT64 = 1, 7
_DTYPES: dict[int, np.dtype[Any]] = {_FLOAT: np.dtype("<f4"), _INT64: np.dtype("<i8")}
_INT_ATTRIBUTE = 2

_MODEL = {1: Kind("ir_version", True), 2: Kind("producer_name"), 3: Kind("producer_version"), 7: Kind("graph")} | {
    8: Kind("opset_import"),
    14: Kind("metadata_props"),
}
_GRAPH = {1: Kind("node"), 2: Kind("name"), 5: Kind("initializer"), 11: Kind("input"), 12: Kind("output")}
_NODE = {1: Kind("input"), 2: Kind("output"), 4: Kind("op_type"), 5: Kind("attribute")}
_ATTRIBUTE = {1: Kind("name"), 3: Kind("i", True), 20: Kind("type", True)}
_TENSOR = {1: Kind("dims", True), 2: Kind("data_type", True), 8: Kind("name"), 9: Kind("raw_data")}
_OPSET = {1: Kind("domain"), 2: Kind("version", True)}
_ENTRY = {1: Kind("key"), 2: Kind("value")}
_VALUE = {1: Kind("name"), 2: Kind("type")}
_TYPE = {1: Kind("tensor_type")}
_TENSOR_TYPE = {1: Kind("elem_type", True), 2: Kind("shape")}
_SHAPE = {1: Kind("dim")}
_DIM = {1: Kind("dim_value", True), 2: Kind("dim_param")}

Port = tuple[str, int, tuple[int | str, ...]]
"""Name, element type and shape of an input or output."""


class Model(NamedTuple):
    """What a policy file's model holds.

    Attributes:
        network: its graph.
        metadata: its entries.
        opset: the operators' version.
        producer: what wrote it.
    """

    network: Network
    metadata: dict[str, str]
    opset: int
    producer: str


def read_model(data: bytes) -> Model:
    """Read a serialised ONNX model.

    Args:
        data: its bytes.

    Raises:
        ValueError: it is no ONNX model, or not the graph that a policy has; the message says what differs.
    """
    model = read_message(data, _MODEL, "the model")
    opset = _opset(model)
    metadata = _metadata(model)
    graph = read_message(one_part(model, "graph", "the model"), _GRAPH, "the graph")
    network = _network(graph)
    producer = f"{one_text(model, 'producer_name', 'the model')} {one_text(model, 'producer_version', 'the model')}"
    return Model(network, metadata, opset, producer.strip())


def _opset(model: Message) -> int:
    imported = [read_message(part, _OPSET, "an operator set") for part in parts(model, "opset_import")]
    found = [(one_text(each, "domain", "an operator set"), one_number(each, "version", "it")) for each in imported]
    if found != [("", layout.OPSET)]:
        raise ValueError(f"the model uses operator sets {found}; a policy uses ONNX's own, version {layout.OPSET}")
    return layout.OPSET


def _metadata(model: Message) -> dict[str, str]:
    entries: dict[str, str] = {}
    for part in parts(model, "metadata_props"):
        entry = read_message(part, _ENTRY, "a metadata entry")
        key = one_text(entry, "key", "a metadata entry")
        if key in entries:
            raise ValueError(f"the metadata hold {key!r} twice")
        entries[key] = one_text(entry, "value", f"metadata entry {key!r}")
    return entries


def _network(graph: Message) -> Network:
    """The network, once nodes, inputs and outputs are known to be those of a policy."""
    arrays = dict(_tensor(part) for part in parts(graph, "initializer"))
    found = [_node(part) for part in parts(graph, "node")]
    activations = tuple(node.op_type for node in found if node.op_type in layout.ACTIVATIONS)
    fields = sum(node.op_type == "ArgMax" for node in found)
    for index, (node, expected) in enumerate(zip_longest(found, layout.nodes(activations, fields))):
        if node != expected:
            raise ValueError(f"node {index} of the graph is {_shown(node)}; a policy has {_shown(expected)} there")
    layers = len(activations) + 1
    names = layout.tensors(layers)
    if list(arrays) != names:
        raise ValueError(f"the graph's constants are {list(arrays)}; a policy of {layers} layers has {names}")
    for name, array in arrays.items():
        if (array.dtype.kind == "i") != (name == layout.SIZES):
            raise ValueError(f"the constant {name} holds {array.dtype}; sizes are int64 and all others float32")
    lowest, highest = arrays[layout.LOWEST], arrays[layout.HIGHEST]
    if lowest.shape or highest.shape or lowest != -highest:
        raise ValueError(f"inputs are clipped between {lowest} and {highest}; one number and its negative are needed")
    if arrays[layout.SIZES].shape != (fields,):
        raise ValueError(f"sizes has shape {arrays[layout.SIZES].shape}; the policy moves {fields} limits")
    network = Network(
        mean=arrays[layout.MEAN],
        std=arrays[layout.STD],
        clip=float(highest),
        weights=tuple(arrays[layout.weight(layer)] for layer in range(layers)),
        biases=tuple(arrays[layout.bias(layer)] for layer in range(layers)),
        activations=activations,
        sizes=tuple(int(size) for size in arrays[layout.SIZES]),
    )
    _check_ports(graph, network)
    return network


def _check_ports(graph: Message, network: Network) -> None:
    batch = layout.BATCH_AXIS
    expected: dict[str, list[Port]] = {
        "input": [(layout.INPUT, _FLOAT, (batch, network.inputs))],
        "output": [
            (layout.ACTIONS, _INT64, (batch, len(network.sizes))),
            (layout.LOGITS, _FLOAT, (batch, sum(network.sizes))),
        ],
    }
    for name, ports in expected.items():
        found = [_port(part) for part in parts(graph, name)]
        if found != ports:
            raise ValueError(f"the graph's {name}s (name, type, shape) are {found}; they must be {ports}")


def _tensor(data: bytes) -> tuple[str, NDArray[Any]]:
    """Name and values of a constant."""
    tensor = read_message(data, _TENSOR, "a constant")
    name = one_text(tensor, "name", "a constant")
    what = f"the constant {name}"
    code = one_number(tensor, "data_type", what)
    if code not in _DTYPES:
        raise ValueError(f"{what} has data type {code}; a policy has {_FLOAT} (float32) and {_INT64} (int64)")
    shape, raw = numbers(tensor, "dims"), one_part(tensor, "raw_data", what)
    if len(shape) > 2 or math.prod(shape) * _DTYPES[code].itemsize != len(raw):
        raise ValueError(f"{what} has shape {shape} and {len(raw)} bytes, which do not go together")
    return name, np.frombuffer(raw, _DTYPES[code]).reshape(shape)


def _node(data: bytes) -> Node:
    node = read_message(data, _NODE, "a node")
    inputs, outputs = texts(node, "input", "a node"), texts(node, "output", "a node")
    attributes = sorted(_attribute(part) for part in parts(node, "attribute"))
    return Node(one_text(node, "op_type", "a node"), tuple(inputs), tuple(outputs), tuple(attributes))


def _attribute(data: bytes) -> tuple[str, int]:
    attribute = read_message(data, _ATTRIBUTE, "an attribute")
    name = one_text(attribute, "name", "an attribute")
    if one_number(attribute, "type", name) != _INT_ATTRIBUTE:
        raise ValueError(f"attribute {name} is no whole number; a policy's all are")
    return name, one_number(attribute, "i", name)


def _port(data: bytes) -> Port:
    port = read_message(data, _VALUE, "an input or output")
    name = one_text(port, "name", "an input or output")
    tensor = _only(_only(port, "type", _TYPE, name), "tensor_type", _TENSOR_TYPE, name)
    dims = [read_message(part, _DIM, name) for part in parts(_only(tensor, "shape", _SHAPE, name), "dim")]
    shape = tuple(one_text(dim, "dim_param", name) or one_number(dim, "dim_value", name) for dim in dims)
    return name, one_number(tensor, "elem_type", name), shape


def _only(message: Message, field: str, allowed: Mapping[int, Kind], what: str) -> Message:
    return read_message(one_part(message, field, what), allowed, what)


def _shown(node: Node | None) -> str:
    if node is None:
        return "nothing"
    attributes = "".join(f", {name}={value}" for name, value in node.attributes)
    return f"{node.op_type}({', '.join(node.inputs)}{attributes}) -> {', '.join(node.outputs)}"
