"""Step latency from published figures alone: bytes over bandwidth, operations over peak, overheads. Times in ms.

An estimate for devices nobody has measured here, and labelled so wherever it is shown; a calibration replaces it.
"""

from __future__ import annotations

from dataclasses import dataclass

from batchpilot.configs.catalogue import DeviceSpec, ModelSpec
from batchpilot.configs.footprint import kv_bytes_per_token, weight_bytes
from batchpilot.latency.model.saturation import SaturationParameters

K_B = 10.0
"""A roofline saturates in tokens, not in requests: exp(-10) leaves the throughput as it is at B = 1."""

REQUEST_OVERHEAD_MS = 0.02
"""Host time per request of a step: scheduling, sampling, detokenisation."""

P_MAX_RANGE = (0.1, 10_000.0)
"""Feasible set of the saturation document, tokens/ms."""

_ACTIVATION_BYTES = 2
_ALL_REDUCES_PER_LAYER = 2


@dataclass(frozen=True, slots=True)
class Attainable:
    """What software gets out of a vendor's devices: one set for all of them, not fitted per point.

    Attributes:
        compute: share of the peak throughput that large matrix products reach.
        bandwidth: share of the peak bandwidth that reading weights and cache reaches, links included.
        layer_launch_ms: host and launch time per layer that does not overlap with the device's work.
        hop_ms: latency of passing a message to a neighbour.
    """

    compute: float
    bandwidth: float
    layer_launch_ms: float
    hop_ms: float = 0.0


ATTAINABLE: dict[str, Attainable] = {
    "nvidia": Attainable(compute=0.50, bandwidth=0.80, layer_launch_ms=0.11, hop_ms=0.010),
    "amd": Attainable(compute=0.40, bandwidth=0.70, layer_launch_ms=0.15, hop_ms=0.015),
    "apple": Attainable(compute=0.70, bandwidth=0.85, layer_launch_ms=0.03),
    "intel": Attainable(compute=0.35, bandwidth=0.65, layer_launch_ms=0.20, hop_ms=0.020),
    "cpu": Attainable(compute=0.50, bandwidth=0.70, layer_launch_ms=0.02),
}
"""By vendor. NVIDIA: chosen once against the A100 and H100 steps of Llama-2-70B published with Splitwise (Patel et al.,
ISCA 2024), measured without CUDA graphs. Apple: llama.cpp's published F16 rates of a 7B model on M-series devices, near
0.85 of the bandwidth and 0.7 of the compute. AMD, Intel and CPU: assumed, without a measurement of ours behind them."""


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
    compute bound, and few take 1 / (p_max * k_s), which is set to the time of reading the weights, the memory bound.
    To that come the launches and message latencies of each layer (tau_0), host time per request (tau_b), the data of
    the all-reduces (tau_s) and the KV cache read (tau_c).

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
    attainable = ATTAINABLE[device.vendor]
    bandwidth_bytes_per_ms = device.bandwidth_gb_per_s * 1e6 * attainable.bandwidth
    operations_per_ms = tensor_parallel * device.peak_tflops * 1e9 * attainable.compute
    tokens_per_ms = operations_per_ms / (2 * model.parameters)
    weights_ms = weight_bytes(model, dtype) / tensor_parallel / bandwidth_bytes_per_ms
    latency_ms, per_token_ms = _all_reduce(device, model, tensor_parallel)

    # p_max and w_1 count only as a ratio: where the rate itself would leave the feasible set, w_1 takes the rest.
    p_max = min(max(tokens_per_ms, P_MAX_RANGE[0]), P_MAX_RANGE[1])
    parameters = SaturationParameters(
        p_max=p_max,
        k_b=K_B,
        k_s=1 / (tokens_per_ms * weights_ms),
        w_1=p_max / tokens_per_ms,
        tau_0=model.layers * attainable.layer_launch_ms + latency_ms,
        tau_b=REQUEST_OVERHEAD_MS,
        tau_s=per_token_ms,
        tau_c=kv_bytes_per_token(model, tensor_parallel) / bandwidth_bytes_per_ms,
    )
    return LatencyEstimate(
        parameters, f"estimated: roofline of {model.name} ({dtype}) on {tensor_parallel} x {device.name}"
    )


def _all_reduce(device: DeviceSpec, model: ModelSpec, tensor_parallel: int) -> tuple[float, float]:
    """What a step's ring all-reduces cost: ms whatever its size, and ms per token."""
    if tensor_parallel == 1:
        return 0.0, 0.0
    if device.link_gb_per_s is None:
        raise ValueError(f"tensor_parallel is {tensor_parallel}, but {device.name} has no link to share a model over")
    attainable = ATTAINABLE[device.vendor]
    calls = _ALL_REDUCES_PER_LAYER * model.layers
    hops = 2 * (tensor_parallel - 1)
    token_bytes = model.hidden_size * _ACTIVATION_BYTES * hops / tensor_parallel
    return calls * hops * attainable.hop_ms, calls * token_bytes / (device.link_gb_per_s * 1e6 * attainable.bandwidth)
