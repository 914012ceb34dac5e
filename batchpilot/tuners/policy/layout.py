"""The one graph that a policy file holds: normalise, a multilayer perceptron, the best action of each limit.

The exporter writes these nodes and the reader accepts no others, so a file can hold no operator that was not meant.
"""

from __future__ import annotations

from typing import NamedTuple

OPSET = 17
IR_VERSION = 8
"""Read by onnxruntime since 1.12; every operator below exists in this opset."""

ACTIVATIONS = ("Tanh", "Relu")
MOST_LAYERS = 8
"""Hidden layers."""

INPUT, ACTIONS, LOGITS = "features", "actions", "logits"
BATCH_AXIS = "n"
MEAN, STD, LOWEST, HIGHEST, SIZES = "mean", "std", "lowest", "highest", "sizes"
NORMALISATION = (MEAN, STD, LOWEST, HIGHEST)


class Node(NamedTuple):
    """One operator.

    Attributes:
        op_type: its ONNX name, in the default domain.
        inputs: names it reads.
        outputs: names it gives.
        attributes: whole numbers by name, in alphabetical order.
    """

    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, int], ...] = ()


def weight(layer: int) -> str:
    """Name of a layer's weights, shape (outputs, inputs).

    Args:
        layer: its number, from 0; the last one gives the logits.
    """
    return f"weight_{layer}"


def bias(layer: int) -> str:
    """Name of a layer's biases, shape (outputs,).

    Args:
        layer: its number, from 0.
    """
    return f"bias_{layer}"


def nodes(activations: tuple[str, ...], fields: int) -> list[Node]:
    """The graph's nodes in order.

    Args:
        activations: of each hidden layer, of `ACTIVATIONS`.
        fields: limits that the policy moves.
    """
    graph = [
        Node("Sub", (INPUT, MEAN), ("centred",)),
        Node("Div", ("centred", STD), ("scaled",)),
        Node("Clip", ("scaled", LOWEST, HIGHEST), ("hidden_0",)),
    ]
    for layer, activation in enumerate(activations):
        graph.append(_linear(layer, f"sum_{layer}"))
        graph.append(Node(activation, (f"sum_{layer}",), (f"hidden_{layer + 1}",)))
    graph.append(_linear(len(activations), LOGITS))
    logits = tuple(f"logits_{field}" for field in range(fields))
    actions = tuple(f"action_{field}" for field in range(fields))
    graph.append(Node("Split", (LOGITS, SIZES), logits, (("axis", 1),)))
    for of_field, best in zip(logits, actions, strict=True):
        graph.append(Node("ArgMax", (of_field,), (best,), (("axis", 1), ("keepdims", 1))))
    graph.append(Node("Concat", actions, (ACTIONS,), (("axis", 1),)))
    return graph


def tensors(layers: int) -> list[str]:
    """Names of the graph's constants in order.

    Args:
        layers: linear layers, the last one included.
    """
    return [*NORMALISATION, *(name(layer) for layer in range(layers) for name in (weight, bias)), SIZES]


def _linear(layer: int, output: str) -> Node:
    return Node("Gemm", (f"hidden_{layer}", weight(layer), bias(layer)), (output,), (("transB", 1),))
