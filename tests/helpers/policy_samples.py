"""Policies for tests: small files written without onnx, and windows to tell them."""

import json
import struct
from itertools import pairwise

import numpy as np

from batchpilot.core import Limits, WindowMetrics
from batchpilot.core.actions import ActionTable
from batchpilot.core.features import FEATURE_NAMES
from batchpilot.core.limits import TRACKS
from batchpilot.tuners.policy import layout
from batchpilot.tuners.policy.description import PolicyDescription
from batchpilot.tuners.policy.network import Network
from batchpilot.tuners.policy.seal import seal

BASE = Limits(batch_size=256, token_budget=2048)


def make_network(sizes, *, seed=0, stack=1, hidden=8, activations=("Tanh", "Relu"), features=None):
    rng = np.random.default_rng(seed)
    inputs = stack * (features or len(FEATURE_NAMES))
    widths = [inputs, *(hidden for _ in activations), sum(sizes)]
    return Network(
        mean=rng.random(inputs).astype(np.float32),
        std=(0.5 + rng.random(inputs)).astype(np.float32),
        clip=5.0,
        weights=tuple(rng.standard_normal((out, into)).astype(np.float32) for into, out in pairwise(widths)),
        biases=tuple(rng.standard_normal(out).astype(np.float32) for out in widths[1:]),
        activations=activations,
        sizes=tuple(sizes),
    )


def make_description(track="limits", mode="relative", base=BASE, **changes):
    return PolicyDescription(track, ActionTable(TRACKS[track], base, mode), **changes)


def make_policy_bytes(description=None, **options):
    description = description or make_description()
    features = len(description.feature_names)
    network = make_network(description.table.sizes, stack=description.stack, features=features, **options)
    return seal(model_bytes(network, description.to_metadata()))


def always(actions, description=None, **options):
    """The file of a policy that takes the same actions whatever it sees."""
    description = description or make_description()
    network = make_network(description.table.sizes, stack=description.stack, **options)
    last = network.weights[-1]
    last[:] = 0.0
    network.biases[-1][:] = 0.0
    starts = np.cumsum((0, *network.sizes[:-1]))
    network.biases[-1][starts + np.array(actions)] = 1.0
    return seal(model_bytes(network, description.to_metadata()))


def model_bytes(network, metadata, *, nodes=None, extra=b"", opset=layout.OPSET, tensors=None):
    """A serialised ONNX model, written by hand so that any part of it can be made wrong."""
    fields = len(network.sizes)
    arrays = {"mean": network.mean, "std": network.std, "lowest": -network.clip, "highest": network.clip}
    for layer, (weights, biases) in enumerate(zip(network.weights, network.biases, strict=True)):
        arrays |= {layout.weight(layer): weights, layout.bias(layer): biases}
    arrays = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    arrays["sizes"] = np.array(network.sizes, np.int64)
    arrays |= tensors or {}
    nodes = layout.nodes(network.activations, fields) if nodes is None else nodes
    graph = b"".join(field(1, node_bytes(node)) for node in nodes) + field(2, "policy")
    graph += b"".join(field(5, tensor_bytes(name, array)) for name, array in arrays.items())
    graph += field(11, port_bytes("features", 1, network.inputs))
    graph += field(12, port_bytes("actions", 7, fields)) + field(12, port_bytes("logits", 1, sum(network.sizes)))
    model = number(1, layout.IR_VERSION) + field(2, "tests") + field(7, graph)
    model += field(8, field(1, "") + number(2, opset)) + extra
    return model + b"".join(field(14, field(1, key) + field(2, value)) for key, value in metadata.items())


def node_bytes(node):
    names = b"".join(field(1, name) for name in node.inputs) + b"".join(field(2, name) for name in node.outputs)
    kinds = b"".join(field(5, field(1, key) + number(3, value) + number(20, 2)) for key, value in node.attributes)
    return names + field(4, node.op_type) + kinds


def tensor_bytes(name, array):
    dims = b"".join(number(1, size) for size in array.shape)
    return dims + number(2, 7 if array.dtype.kind == "i" else 1) + field(8, name) + field(9, array.tobytes())


def port_bytes(name, kind, width):
    shape = field(1, field(2, "n")) + field(1, number(1, width))
    return field(1, name) + field(2, field(1, number(1, kind) + field(2, shape)))


def field(key, value):
    data = value.encode() if isinstance(value, str) else value
    return varint(key << 3 | 2) + varint(len(data)) + data


def number(key, value):
    return varint(key << 3) + varint(value)


def varint(value):
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return struct.pack(f"{len(parts) + 1}B", *parts, value)


def make_metadata(**changes):
    """Metadata of a good policy with some entries replaced; None leaves an entry out."""
    texts = make_description().to_metadata()
    for key, value in changes.items():
        texts[key] = value if isinstance(value, str) or value is None else json.dumps(value)
    return {key: text for key, text in texts.items() if text is not None}


def make_window(limits, index=0, **changes):
    plain = {
        "start_ms": 1000.0 * index,
        "duration_ms": 1000.0,
        "busy_ms": 900.0,
        "steps": 40,
        "generated_tokens": 2000,
        "prefill_tokens": 3000,
        "arrivals": 20,
        "arrived_prompt_tokens": 3000,
        "completions": 20,
        "batch_size_mean": 32.0,
        "tokens_per_step_mean": 120.0,
        "context_tokens_mean": 16_000.0,
        "step_ms_mean": 22.0,
        "step_ms_p95": 40.0,
        "slo_attainment": 0.9,
        "kv_capacity_tokens": 400_000,
        "ttft_target_ms": 2000.0,
        "tpot_target_ms": 100.0,
    }
    return WindowMetrics(limits=limits, **{**plain, **changes})
