"""Step latency from published figures alone: bytes over bandwidth, operations over peak, overheads. Times in ms.

An estimate for devices nobody has measured here, and labelled so wherever it is shown; a calibration replaces it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from batchpilot.configs.catalogue import DeviceSpec, ModelSpec
from batchpilot.configs.footprint import kv_bytes_per_token, weight_bytes
from batchpilot.latency.model.saturation import SaturationParameters

K_B = 10.0
"""A roofline saturates in tokens, not in requests: exp(-10) leaves the throughput as it is at B = 1."""

P_MAX_RANGE = (0.1, 10_000.0)
K_S_RANGE = (1e-4, 1.0)
"""Feasible set of the saturation document."""

SLOW_LINK = 64.0
"""GB/s up to which a link goes through the host, as PCIe does."""

_ACTIVATION_BYTES = 2
_ALL_REDUCES_PER_LAYER = 2


@dataclass(frozen=True, slots=True)
class Attainable:
    """What software gets out of devices: one set for many of them, not fitted per point.

    Attributes:
        compute: share of the peak throughput that large matrix products reach.
        expert_compute: share of it that the experts of a mixture reach, whose products are smaller.
        bandwidth: share of the peak bandwidth that reading weights and cache reaches.
        layer_ms: time of a layer that is neither: small kernels, attention, what CUDA graphs leave of launches.
        request_ms: host time per request of a step: scheduling, sampling, detokenisation.
        hop_ms: latency of passing a message to a neighbour.
        link: share of the bandwidth to a neighbour that all-reduces reach.
        slow_link: the same through the host.
    """

    compute: float
    expert_compute: float
    bandwidth: float
    layer_ms: float
    request_ms: float = 0.01
    hop_ms: float = 0.00023
    link: float = 0.32
    slow_link: float = 0.46


FITTED = Attainable(compute=0.72, expert_compute=0.25, bandwidth=0.92, layer_ms=0.059)
"""Fitted to the measured catalogue, ten devices of two vendors, by `benchmarks/rooflines.py`, which leaves each out."""

ATTAINABLE: dict[str, Attainable] = {
    "nvidia": FITTED,
    "intel": FITTED,
    "amd": FITTED,
    "apple": Attainable(compute=0.70, expert_compute=0.20, bandwidth=0.85, layer_ms=0.03),
    "cpu": Attainable(compute=0.50, expert_compute=0.14, bandwidth=0.70, layer_ms=0.02),
}
"""By vendor. AMD: a guess, that its software attains what the measured systems do. Apple: llama.cpp's published F16
rates of a 7B model on M-series devices, near 0.85 of the bandwidth and 0.7 of the compute; its experts a guess. CPU: a
guess. Groups of more than two devices over PCIe: a guess, as measured all-reduces there differ by ten times from server
to server."""


@dataclass(frozen=True, slots=True)
class LatencyEstimate:
    """Latency parameters and where they come from.

    Attributes:
        parameters: of the saturation model.
        provenance: what tables say of their origin.
    """

    parameters: SaturationParameters
    provenance: str


def roofline(device: DeviceSpec, model: ModelSpec, tensor_parallel: int = 1, dtype: str = "fp16") -> LatencyEstimate:
    """Estimate the step latency of a model on a device.

    With w_0 = 0 the saturation model's middle term is S / (p_max * (1 - exp(-k_s*S))): many tokens take S / p_max, the
    compute bound, and few take 1 / (p_max * k_s), which is set to the time of reading the weights that every step
    reads, the memory bound; the experts' follow with the tokens of the step (tau_e). To that come the layers' own time
    and message latencies (tau_0), host time per request (tau_b), the data of the all-reduces (tau_s) and the KV cache
    read (tau_c).

    Attention's own operations are left out: they matter from about 8,000 tokens of context on.

    Args:
        device: the device, one of `tensor_parallel` alike.
        model: the model.
        tensor_parallel: devices that share the model, >= 1.
        dtype: type the weights are stored in: fp16, int8 or int4; the arithmetic stays 16-bit.

    Returns:
        The parameters, labelled "estimated: roofline of ...".

    Raises:
        ValueError: an unknown `dtype`, or a `tensor_parallel` below 1, or above 1 on a device without a link.

    Source: roofline model (Williams, Waterman, Patterson 2009), in the terms of the throughput saturation document.
    """
    if tensor_parallel < 1:
        raise ValueError(f"tensor_parallel is {tensor_parallel}; it must be >= 1")
    return LatencyEstimate(
        roofline_of(device, model, ATTAINABLE[device.vendor], tensor_parallel, dtype),
        f"estimated: roofline of {model.name} ({dtype}) on {tensor_parallel} x {device.name}",
    )


def roofline_of(
    device: DeviceSpec, model: ModelSpec, attainable: Attainable, tensor_parallel: int = 1, dtype: str = "fp16"
) -> SaturationParameters:
    """The roofline with given constants.

    Args:
        device: the device, one of `tensor_parallel` alike.
        model: the model.
        attainable: what software gets out of it.
        tensor_parallel: devices that share the model, >= 1.
        dtype: type the weights are stored in.

    Raises:
        ValueError: an unknown `dtype`, or a `tensor_parallel` above 1 on a device without a link.
    """
    bandwidth_bytes_per_ms = device.bandwidth_gb_per_s * 1e6 * attainable.bandwidth
    share = attainable.expert_compute if model.experts else attainable.compute
    tokens_per_ms = tensor_parallel * device.peak_tflops * 1e9 * share / (2 * model.active)
    always, experts = read_bytes(model, dtype)
    always_ms = always / tensor_parallel / bandwidth_bytes_per_ms
    latency_ms, per_token_ms = _all_reduce(device, model, attainable, tensor_parallel)

    # p_max and w_1 count only as a ratio: where the rate itself would leave the feasible set, w_1 takes the rest.
    p_max = min(max(tokens_per_ms, P_MAX_RANGE[0]), P_MAX_RANGE[1])
    return SaturationParameters(
        p_max=p_max,
        k_b=K_B,
        k_s=min(max(1 / (tokens_per_ms * always_ms), K_S_RANGE[0]), K_S_RANGE[1]),
        w_1=p_max / tokens_per_ms,
        tau_0=model.layers * attainable.layer_ms + latency_ms,
        tau_b=attainable.request_ms,
        tau_s=per_token_ms,
        tau_c=kv_bytes_per_token(model, tensor_parallel) / bandwidth_bytes_per_ms,
        tau_e=experts / tensor_parallel / bandwidth_bytes_per_ms,
        s_e=math.log(2) * model.experts / model.experts_per_token if model.experts else 64.0,
    )


def read_bytes(model: ModelSpec, dtype: str) -> tuple[float, float]:
    """Bytes of the weights that every step reads, and of the experts, which a step of few tokens reads in part.

    Args:
        model: the model.
        dtype: type the weights are stored in.

    Raises:
        ValueError: an unknown type.
    """
    total = weight_bytes(model, dtype)
    if not model.experts:
        return total, 0.0
    unused = 1 - model.experts_per_token / model.experts
    experts = total * (model.parameters - model.active) / model.parameters / unused if unused > 0 else 0.0
    return total - experts, experts


def _all_reduce(
    device: DeviceSpec, model: ModelSpec, attainable: Attainable, tensor_parallel: int
) -> tuple[float, float]:
    """What a step's ring all-reduces cost: ms whatever its size, and ms per token."""
    if tensor_parallel == 1:
        return 0.0, 0.0
    if device.link_gb_per_s is None:
        raise ValueError(f"tensor_parallel is {tensor_parallel}, but {device.name} has no link to share a model over")
    calls = _ALL_REDUCES_PER_LAYER * model.layers
    hops = 2 * (tensor_parallel - 1)
    token_bytes = activation_bytes(model) * hops / tensor_parallel
    passed = link_bytes_per_ms(device.link_gb_per_s, attainable)
    return calls * hops * attainable.hop_ms, calls * token_bytes / passed


def activation_bytes(model: ModelSpec) -> int:
    """What one token's activations between two layers take.

    Args:
        model: the model.
    """
    return model.hidden_size * _ACTIVATION_BYTES


def link_bytes_per_ms(link_gb_per_s: float, attainable: Attainable) -> float:
    """What software passes to a neighbour.

    Args:
        link_gb_per_s: published bandwidth.
        attainable: what software gets out of the device.
    """
    share = attainable.slow_link if link_gb_per_s <= SLOW_LINK else attainable.link
    return link_gb_per_s * 1e6 * share
