"""Device memory of a served model: what fits beside the weights. MB are 2**20 bytes, figures those of one device."""

from __future__ import annotations

import math
from dataclasses import dataclass

from batchpilot.configs.catalogue import DeviceSpec, ModelSpec
from batchpilot.configs.footprint import kv_bytes, kv_bytes_per_request, kv_bytes_per_token, weight_bytes, weight_type
from batchpilot.latency.model.pipeline import check_stages

__all__ = [
    "MemoryModel",
    "activation_bytes_per_token",
    "kv_bytes",
    "kv_bytes_per_token",
    "memory_model",
    "weight_bytes",
]

MB = 2**20
WORKSPACE_FRACTION = 0.10
"""Work memory beside the weights, relative to them (SPEC 4): library workspaces, communication buffers, logits."""

_ACTIVATION_BYTES = 2


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """Where a device's memory goes. Under tensor parallelism one device of the group, all being alike.

    Attributes:
        total_mb: the device's memory.
        fixed_mb: weights, of a vision tower too, and workspace, whatever is served.
        kv_mb_per_token: KV cache of one token.
        activation_mb_per_token: activations of one token computed in a step.
        kv_capacity_tokens: KV tokens that are set aside at start.
    """

    total_mb: float
    fixed_mb: float
    kv_mb_per_token: float
    activation_mb_per_token: float
    kv_capacity_tokens: int

    def used_mb(self, kv_tokens: float, step_tokens: float = 0.0) -> float:
        """Memory in use during a step; above `total_mb` the device is out of memory.

        Args:
            kv_tokens: cached tokens.
            step_tokens: tokens computed in the step.
        """
        return self.fixed_mb + self.kv_mb_per_token * kv_tokens + self.activation_mb_per_token * step_tokens

    def request_mb(self, held_tokens: float, step_tokens: float = 1.0) -> float:
        """What one request adds: its KV cache, and the activations of what it computes in a step.

        The deployment document counts tokens x hidden x 4 bytes of activations; here it is what a feed-forward layer
        holds at its peak.

        Args:
            held_tokens: cached for it.
            step_tokens: computed for it in a step; 1 while it decodes.
        """
        return self.kv_mb_per_token * held_tokens + self.activation_mb_per_token * step_tokens


def activation_bytes_per_token(model: ModelSpec, tensor_parallel: int = 1) -> float:
    """Activations of one token at their peak, an estimate: inside a feed-forward layer.

    There live the residual and the layer's input, which every device holds, and gate, up and their product, which the
    devices share; layers run one after the other, so one counts.

    Args:
        model: the model.
        tensor_parallel: devices that share each layer, >= 1.
    """
    return _ACTIVATION_BYTES * (2 * model.hidden_size + 3 * model.intermediate_size / tensor_parallel)


def memory_model(
    device: DeviceSpec,
    model: ModelSpec,
    tensor_parallel: int = 1,
    dtype: str | None = "fp16",
    memory_fraction: float = 0.9,
    token_budget: int = 2048,
    kv_dtype: str | None = None,
    requests: int = 256,
    tower_bytes: float = 0.0,
    pipeline_parallel: int = 1,
) -> MemoryModel:
    """Divide a device's memory between weights, activations and KV cache, as a server does at start.

    Args:
        device: the device, one of `tensor_parallel` alike.
        model: the model.
        tensor_parallel: devices that share the model; divides its heads, and is 1 for a device without a link.
        dtype: type the weights are stored in: fp16, fp8, int8, int4, nvfp4, mxfp4; None for the published one.
        memory_fraction: share of the device's memory that the server may use, in (0, 1].
        token_budget: most tokens of a step, >= 1; their activations are kept free.
        kv_dtype: type of the KV cache, None for what the model asks for.
        requests: of so many, windows and recurrent states are set aside beside the KV tokens, where a model has any.
        tower_bytes: weights of a vision tower beside the model's, shared by the devices like these, >= 0.
        pipeline_parallel: stages that the layers are cut into, >= 1, as many batches being in flight; then this is one
            batch's part: weights of one stage, and KV cache as if the device kept all layers of this batch alone, which
            takes what its stage keeps of all batches.

    Raises:
        ValueError: an argument is outside its bound, or not one KV token fits; then the message names the numbers and
            the smallest `tensor_parallel` that does fit.
    """
    if not 0 < memory_fraction <= 1:
        raise ValueError(f"memory_fraction is {memory_fraction}; it must be above 0 and at most 1")
    if token_budget < 1:
        raise ValueError(f"token_budget is {token_budget}; it must be >= 1")
    if not 0 <= tower_bytes < math.inf:
        raise ValueError(f"tower_bytes is {tower_bytes}; it must be >= 0 and finite")
    check_stages(device, model, pipeline_parallel)
    if tensor_parallel not in _ways_to_share(device, model):
        raise ValueError(
            f"tensor_parallel is {tensor_parallel}; {model.name} on {device.name} allows "
            f"{', '.join(map(str, _ways_to_share(device, model)))}"
        )

    def divided(count: int) -> MemoryModel:
        held = (weight_bytes(model, dtype) + tower_bytes) / pipeline_parallel
        return _divided(device, model, count, held, memory_fraction, token_budget, kv_dtype, requests)

    memory = divided(tensor_parallel)
    if memory.kv_capacity_tokens < 1:
        fitting = (count for count in _ways_to_share(device, model) if divided(count).kv_capacity_tokens >= 1)
        smallest = next(fitting, None)
        advice = f"tensor_parallel {smallest} is the smallest that fits" if smallest else "no tensor_parallel fits"
        step_mb = memory.activation_mb_per_token * token_budget
        name, share_mb = weight_type(dtype, model), memory.total_mb * memory_fraction
        tower_mb = tower_bytes / tensor_parallel / pipeline_parallel / MB
        stages = f" in {pipeline_parallel} stages" if pipeline_parallel > 1 else ""
        held = f"weights, {tower_mb:,.0f} MB of them a vision tower's," if tower_bytes else "weights"
        raise ValueError(
            f"{model.name} in {name} does not fit on {tensor_parallel} x {device.name}{stages}: each device needs "
            f"{memory.fixed_mb:,.0f} MB for {held} and workspace and {step_mb:,.0f} MB for a step of {token_budget} "
            f"tokens, and may use {share_mb:,.0f} MB ({memory_fraction:g} of {memory.total_mb:,.0f} MB); {advice}"
        )
    return memory


def _ways_to_share(device: DeviceSpec, model: ModelSpec) -> list[int]:
    """Group sizes that divide the model's heads; 1 alone for a device without a link."""
    most = 1 if device.link_gb_per_s is None else model.heads
    return [count for count in range(1, most + 1) if model.heads % count == 0]


def _divided(
    device: DeviceSpec,
    model: ModelSpec,
    tensor_parallel: int,
    held_bytes: float,
    memory_fraction: float,
    token_budget: int,
    kv_dtype: str | None,
    requests: int,
) -> MemoryModel:
    """The division itself; the KV capacity is 0 where nothing is left."""
    total_mb = device.memory_gb * 1024.0
    fixed_mb = held_bytes / tensor_parallel * (1 + WORKSPACE_FRACTION) / MB
    kv_mb = kv_bytes_per_token(model, tensor_parallel, kv_dtype) / MB
    bounded = [kind.window for kind in model.cached if kind.window is not None]
    if model.state_bytes_per_request or len(bounded) < len(model.cached):
        longest = max(bounded, default=0)
        each_mb = kv_bytes_per_request(model, longest, tensor_parallel, kv_dtype) / MB - kv_mb * longest
        fixed_mb += requests * each_mb
    activation_mb = activation_bytes_per_token(model, tensor_parallel) / MB
    left_mb = total_mb * memory_fraction - fixed_mb - activation_mb * token_budget
    return MemoryModel(total_mb, fixed_mb, kv_mb, activation_mb, max(0, int(left_mb // kv_mb)))
