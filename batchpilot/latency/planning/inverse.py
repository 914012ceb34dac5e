"""The saturation model turned around: what fits into a given time. Times in ms, lengths in tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchpilot.latency.model.compiled import kernel
from batchpilot.latency.model.saturation import SaturationParameters, largest_tokens

BATCH_SIZES = (1, 64)
"""Batch sizes that the throughput saturation document searches."""

MAX_TOKENS = 2048
"""Most tokens that it searches."""


@dataclass(frozen=True, slots=True)
class StepChoice:
    """One step.

    Attributes:
        batch_size: its requests.
        tokens: its tokens.
        step_ms: its latency.
        tokens_per_s: tokens computed per second when every step is like it.
    """

    batch_size: int
    tokens: int
    step_ms: float
    tokens_per_s: float


def sla_inverse(
    parameters: SaturationParameters,
    batch_size: ArrayLike,
    target_ms: ArrayLike,
    context_tokens: ArrayLike = 0.0,
    max_tokens: int = MAX_TOKENS,
) -> NDArray[np.int64]:
    """The largest S with T(B, S, C) <= target, for each B.

    Args:
        parameters: step latency.
        batch_size: requests B, >= 1; broadcasts with the others, shape (...).
        target_ms: longest step, > 0.
        context_tokens: context tokens C, >= 0.
        max_tokens: the largest S considered, >= 1.

    Returns:
        Tokens, shape (...); 0 where not even the best S fits. It may be less than B: then no B requests fit.

    Raises:
        ValueError: an argument is below its bound or not finite; the message names it.

    Source: throughput saturation document, SLA inverse.
    """
    B, target, C = np.broadcast_arrays(
        *(np.asarray(x, dtype=np.float64) for x in (batch_size, target_ms, context_tokens))
    )
    for name, values, good in (
        ("batch_size", B, B >= 1),
        ("target_ms", target, target > 0),
        ("context_tokens", C, C >= 0),
    ):
        if not np.all(np.isfinite(values) & good):
            raise ValueError(f"{name} holds a value that is not finite or below its bound")
    if max_tokens < 1:
        raise ValueError(f"max_tokens is {max_tokens}; it must be >= 1")
    tokens = np.empty(B.shape, dtype=np.int64)
    _largest_tokens_each(parameters.as_array(), B.ravel(), C.ravel(), target.ravel(), max_tokens, tokens.reshape(-1))
    return tokens


def best_step(
    parameters: SaturationParameters,
    target_ms: float,
    context_per_request: float = 0.0,
    batch_sizes: tuple[int, int] = BATCH_SIZES,
    max_tokens: int = MAX_TOKENS,
) -> StepChoice | None:
    """The step of highest throughput S / T within a latency bound.

    T / S falls with S, so for each B the largest S that fits is best, and only B is searched.

    Args:
        parameters: step latency.
        target_ms: longest step, > 0.
        context_per_request: context tokens that each request reads, >= 0.
        batch_sizes: smallest and largest B considered.
        max_tokens: the largest S considered; every request computes at least one token.

    Returns:
        The step, of the smallest B among equals; None where no step fits.

    Raises:
        ValueError: an argument is below its bound, or the batch sizes are out of order.

    Source: throughput saturation document, maximum under a latency bound.
    """
    smallest, largest = batch_sizes
    if not 1 <= smallest <= largest:
        raise ValueError(f"batch_sizes {batch_sizes} must ascend from 1 or more")
    sizes = np.arange(smallest, largest + 1)
    tokens = sla_inverse(parameters, sizes, target_ms, sizes * context_per_request, max_tokens)
    fits = tokens >= sizes
    if not fits.any():
        return None
    sizes, tokens = sizes[fits], tokens[fits]
    step_ms = parameters.predict(sizes, tokens, sizes * context_per_request)
    best = int(np.argmax(tokens / step_ms))
    chosen_ms = float(step_ms[best])
    return StepChoice(int(sizes[best]), int(tokens[best]), chosen_ms, 1000.0 * float(tokens[best]) / chosen_ms)


@kernel
def _largest_tokens_each(
    p: NDArray[np.float64],
    B: NDArray[np.float64],
    C: NDArray[np.float64],
    target_ms: NDArray[np.float64],
    cap: int,
    tokens: NDArray[np.int64],
) -> None:
    """`largest_tokens` for each element, all of shape (n,)."""
    for i in range(len(B)):
        tokens[i] = largest_tokens(p, B[i], C[i], target_ms[i], cap)
