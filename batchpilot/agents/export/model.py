"""From a network and its description to the bytes of a policy file. Needs the package `onnx`, of the extra `rl`."""

from __future__ import annotations

import numpy as np

from batchpilot import __version__
from batchpilot.core.extras import needing
from batchpilot.tuners.policy import layout
from batchpilot.tuners.policy.description import PolicyDescription
from batchpilot.tuners.policy.network import Network
from batchpilot.tuners.policy.seal import seal

with needing("exporting a policy", "rl"):
    import onnx
    from onnx import TensorProto, helper, numpy_helper


PRODUCER = "batchpilot"


def to_bytes(network: Network, description: PolicyDescription) -> bytes:
    """The file of a policy; equal arguments give equal bytes.

    Args:
        network: what decides.
        description: what it is; becomes the metadata.

    Raises:
        ValueError: the description cannot be written as JSON.
    """
    model = helper.make_model(
        _graph(network),
        opset_imports=[helper.make_opsetid("", layout.OPSET)],
        ir_version=layout.IR_VERSION,
        producer_name=PRODUCER,
        producer_version=__version__,
    )
    helper.set_model_props(model, description.to_metadata())
    onnx.checker.check_model(model, full_check=True)
    return seal(model.SerializeToString(deterministic=True))


def _graph(network: Network) -> onnx.GraphProto:
    fields, batch = len(network.sizes), layout.BATCH_AXIS
    nodes = [
        helper.make_node(node.op_type, node.inputs, node.outputs, **dict(node.attributes))
        for node in layout.nodes(network.activations, fields)
    ]
    ports = {
        layout.INPUT: (TensorProto.FLOAT, [batch, network.inputs]),
        layout.ACTIONS: (TensorProto.INT64, [batch, fields]),
        layout.LOGITS: (TensorProto.FLOAT, [batch, sum(network.sizes)]),
    }
    features, *outputs = (helper.make_tensor_value_info(name, *port) for name, port in ports.items())
    arrays = _arrays(network)
    constants = [numpy_helper.from_array(arrays[name], name) for name in layout.tensors(len(network.weights))]
    return helper.make_graph(nodes, "policy", [features], outputs, constants)


def _arrays(network: Network) -> dict[str, np.ndarray]:
    arrays = {
        layout.MEAN: network.mean,
        layout.STD: network.std,
        layout.LOWEST: np.array(-network.clip),
        layout.HIGHEST: np.array(network.clip),
    }
    for layer, (weights, biases) in enumerate(zip(network.weights, network.biases, strict=True)):
        arrays |= {layout.weight(layer): weights, layout.bias(layer): biases}
    floats = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    return floats | {layout.SIZES: np.array(network.sizes, np.int64)}
