"""What a server says once about its engine, and what follows from an estimate of its step latency. Times in ms.

Plain Python on purpose: a server that imports this must not wait for a compiler. The engines hold the same formulas
compiled (`latency.saturation.step_ms`, `engines.windows.peak_tokens_per_s`); tests hold the two together.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, Protocol

from numpy.typing import NDArray

from batchpilot.core.metrics import WindowMetrics

LARGEST_BATCH = 512.0
"""Batch sizes beyond this are not considered for the engine's peak."""

_SIZES = tuple(2.0**k for k in range(10))


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """Constants of an engine; whatever is not known stays at its default, and the metrics that need it at theirs.

    Attributes:
        kv_capacity_tokens: KV tokens that fit, 0 for unknown.
        fixed_mb: memory of weights and workspace.
        kv_mb_per_token: KV cache of one token.
        activation_mb_per_token: activations of one token computed in a step.
        total_mb: the device's memory, 0 for unknown.
        estimate: nine saturation parameters in their order, as calibrated; a tuner's own estimate goes before it.

    Raises:
        ValueError: a value is negative or not finite, or the estimate has neither nine nor eleven numbers.
    """

    kv_capacity_tokens: int = 0
    fixed_mb: float = 0.0
    kv_mb_per_token: float = 0.0
    activation_mb_per_token: float = 0.0
    total_mb: float = 0.0
    estimate: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("kv_capacity_tokens", "fixed_mb", "kv_mb_per_token", "activation_mb_per_token", "total_mb"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; it must be >= 0 and finite, 0 for unknown")
        if self.estimate is not None and len(self.estimate) not in (9, 11):
            raise ValueError(
                f"estimate has {len(self.estimate)} numbers; the saturation model has 9 parameters, 11 with experts"
            )


class MeasuringEngine(Protocol):
    """An engine that counts for itself, better than events could; its time must be the session's clock's."""

    def close_window(self) -> WindowMetrics:
        """Measurements since the last call, and the start of a new window."""

    def in_flight(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Running and waiting requests, records of `core.details.IN_FLIGHT`."""


def step_ms(estimate: Sequence[float], batch_size: float, tokens: float, context_tokens: float) -> float:
    """Step latency of the saturation model.

    Args:
        estimate: parameters in their order, nine or, with experts, eleven.
        batch_size: requests in the step, >= 1.
        tokens: tokens computed, >= 1.
        context_tokens: tokens read by attention, >= 0.

    Source: throughput saturation document, eq. T(B, S); the terms of context and experts are ours.
    """
    p_max, k_b, k_s, w_0, w_1, tau_0, tau_b, tau_s, tau_c, *experts = estimate
    tau_e, s_e = experts or (0.0, 1.0)
    throughput = p_max * math.expm1(-k_b * batch_size) * math.expm1(-k_s * tokens)
    linear = tau_0 + tau_b * batch_size + tau_s * tokens + tau_c * context_tokens
    return linear + (w_0 + w_1 * tokens) / throughput + tau_e * tokens / (tokens + s_e)


def peak_tokens_per_s(
    estimate: Sequence[float],
    *,
    generated_tokens: int,
    asked_prefill_tokens: int,
    context_tokens: float,
    kv_capacity_tokens: int,
) -> float:
    """Estimated peak of generated tokens per second for a window's mix of prompt and output tokens.

    From the least time its work could have taken: the longer of decoding alone at the best batch size that the KV cache
    holds, and of all its tokens at saturated throughput with their own context read.

    Args:
        estimate: nine saturation parameters.
        generated_tokens: output tokens of the window, > 0.
        asked_prefill_tokens: prompt tokens computed, recomputation left out.
        context_tokens: mean context of a request in a step.
        kv_capacity_tokens: KV tokens that fit, 0 for unknown.
    """
    p_max, _, _, _, w_1, _, tau_b, tau_s, tau_c, *_ = estimate = tuple(estimate)
    saturated_ms = (asked_prefill_tokens + generated_tokens) * (w_1 / p_max + tau_s)
    saturated_ms += generated_tokens * (tau_b + tau_c * context_tokens)
    most = kv_capacity_tokens / max(context_tokens, 1.0) if kv_capacity_tokens else LARGEST_BATCH
    largest = max(min(LARGEST_BATCH, most), 1.0)
    decode_ms = step_ms(estimate, largest, largest, 0.0) / largest
    smaller = bisect_left(_SIZES, largest)
    if smaller:
        decode_ms = min(decode_ms, _least_decode_ms(estimate)[smaller - 1])
    decode_ms += tau_c * context_tokens
    return 1000.0 * generated_tokens / max(saturated_ms, generated_tokens * decode_ms)


@lru_cache(maxsize=8)
def _least_decode_ms(estimate: tuple[float, ...]) -> tuple[float, ...]:
    """Least time of a decoded token, its context not read, at the sizes of `_SIZES` up to each of them."""
    return tuple(accumulate((step_ms(estimate, size, size, 0.0) / size for size in _SIZES), min))
