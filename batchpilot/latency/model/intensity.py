"""What a step asks of a device: operations, bytes, and whether memory or arithmetic bounds it.

Compute density is operations over bytes moved. Below the device's ridge (peak operations over peak bandwidth) a step is
memory-bound: it could compute more in the time that it reads. Attention's own operations are left out, as they are in
the roofline.
"""

from __future__ import annotations

from dataclasses import dataclass

from batchpilot.configs.catalogue import DeviceSpec, ModelSpec
from batchpilot.configs.footprint import kv_bytes_per_token
from batchpilot.latency.model.roofline import read_bytes


@dataclass(frozen=True, slots=True)
class Intensity:
    """A step, or the mean of many.

    Attributes:
        flop: operations of one device.
        moved_bytes: weights and KV cache that one device reads.
        step_ms: how long it took.
        peak_flop_per_s: the device's.
        peak_bytes_per_s: the device's.
    """

    flop: float
    moved_bytes: float
    step_ms: float
    peak_flop_per_s: float
    peak_bytes_per_s: float

    @property
    def flop_per_byte(self) -> float:
        """Compute density."""
        return self.flop / self.moved_bytes

    @property
    def ridge(self) -> float:
        """Operations a byte from which on the device computes as long as it reads."""
        return self.peak_flop_per_s / self.peak_bytes_per_s

    @property
    def bound_by(self) -> str:
        """Which of the two takes longer, "memory" or "compute"."""
        return "memory" if self.flop_per_byte < self.ridge else "compute"

    @property
    def compute_utilisation(self) -> float:
        """Share of the peak operations that the step used (model FLOPs utilisation)."""
        return 1000.0 * self.flop / self.step_ms / self.peak_flop_per_s

    @property
    def bandwidth_utilisation(self) -> float:
        """Share of the peak bandwidth that the step used."""
        return 1000.0 * self.moved_bytes / self.step_ms / self.peak_bytes_per_s


def step_intensity(
    device: DeviceSpec,
    model: ModelSpec,
    tokens: float,
    context_tokens: float,
    step_ms: float,
    *,
    tensor_parallel: int = 1,
    dtype: str | None = None,
    kv_dtype: str | None = None,
) -> Intensity:
    """What a step of a served model asks of each of its devices.

    Args:
        device: one of `tensor_parallel` alike.
        model: the model; of a mixture those experts are read that some token of the step passes.
        tokens: S, computed in the step, > 0.
        context_tokens: C, read by attention, >= 0.
        step_ms: T, > 0.
        tensor_parallel: devices that share the model, >= 1.
        dtype: type of the weights, None for the published one.
        kv_dtype: type of the KV cache, None for what the model asks for.

    Raises:
        ValueError: an argument is outside its bound, or a type is unknown.
    """
    for name, value in (("tokens", tokens), ("step_ms", step_ms), ("tensor_parallel", tensor_parallel)):
        if not value > 0:
            raise ValueError(f"{name} is {value}; it must be above 0")
    if not context_tokens >= 0:
        raise ValueError(f"context_tokens is {context_tokens}; it must be >= 0")
    always, experts = read_bytes(model, dtype or model.dtype)
    used = 1.0 - (1.0 - model.experts_per_token / model.experts) ** tokens if model.experts else 0.0
    moved = (always + used * experts) / tensor_parallel
    moved += context_tokens * kv_bytes_per_token(model, tensor_parallel, kv_dtype)
    return Intensity(
        flop=2.0 * model.active * tokens / tensor_parallel,
        moved_bytes=moved,
        step_ms=step_ms,
        peak_flop_per_s=device.peak_tflops * 1e12,
        peak_bytes_per_s=device.bandwidth_gb_per_s * 1e9,
    )
