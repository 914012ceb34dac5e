"""Latency against throughput: the steps that no other step beats in both. Times in ms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.planning.inverse import BATCH_SIZES, MAX_TOKENS


@dataclass(frozen=True, eq=False)
class ParetoFront:
    """Steps by rising latency and rising throughput, all of shape (k,).

    Attributes:
        batch_size: requests.
        tokens: tokens computed.
        step_ms: latency.
        tokens_per_s: throughput when every step is like it.
    """

    batch_size: NDArray[np.int64]
    tokens: NDArray[np.int64]
    step_ms: NDArray[np.float64]
    tokens_per_s: NDArray[np.float64]


def pareto_front(
    parameters: SaturationParameters,
    context_per_request: float = 0.0,
    batch_sizes: tuple[int, int] = BATCH_SIZES,
    max_tokens: int = MAX_TOKENS,
    points: int = 64,
) -> ParetoFront:
    """The steps for which nothing is both as fast and of as much throughput S / T.

    Args:
        parameters: step latency.
        context_per_request: context tokens that each request reads, >= 0.
        batch_sizes: smallest and largest B considered.
        max_tokens: the largest S considered.
        points: token counts tried, geometrically spaced, >= 2.

    Returns:
        The front among the steps tried; equal steps count once, the smaller batch first.

    Raises:
        ValueError: the batch sizes are out of order, or a bound is too low.

    Source: throughput saturation document, Pareto front of latency and throughput.
    """
    smallest, largest = batch_sizes
    if not 1 <= smallest <= largest or max_tokens < smallest or points < 2:
        raise ValueError(f"batch_sizes {batch_sizes}, max_tokens {max_tokens}, points {points} leave no step to try")
    sizes = np.arange(smallest, largest + 1)
    tokens = np.unique(np.rint(np.geomspace(smallest, max_tokens, points)).astype(np.int64))
    B, S = (grid.ravel() for grid in np.meshgrid(sizes, tokens, indexing="ij"))
    possible = B <= S
    B, S = B[possible], S[possible]
    step_ms = parameters.predict(B, S, B * context_per_request)
    tokens_per_s = 1000.0 * S / step_ms
    order = np.lexsort((B, -tokens_per_s, step_ms))
    best_so_far = np.maximum.accumulate(np.concatenate(([-np.inf], tokens_per_s[order][:-1])))
    front = order[tokens_per_s[order] > best_so_far]
    return ParetoFront(B[front], S[front], step_ms[front], tokens_per_s[front])
