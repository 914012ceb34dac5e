"""Filling one step up to its latency target, request by request. Times in ms, lengths in tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchpilot.latency.model.saturation import SaturationParameters, largest_tokens, step_ms


@dataclass(frozen=True, eq=False)
class Batch:
    """The requests of one step.

    Attributes:
        rows: which of the candidates, in the order they were taken, shape (k,).
        tokens: tokens computed for each, shape (k,).
        step_ms: latency of the step, 0 when empty.
    """

    rows: NDArray[np.int64]
    tokens: NDArray[np.int64]
    step_ms: float


def build_batch(
    parameters: SaturationParameters,
    tokens: ArrayLike,
    context_tokens: ArrayLike,
    target_ms: float,
    *,
    max_batch_size: int | None = None,
    cut: bool = False,
) -> Batch:
    """Take candidates in their order as long as the step meets its target.

    Greedy: a candidate that does not fit is passed over and the next one tried, so a short request may overtake a long
    one; with `cut` it is cut to what does fit instead (chunked prefill).

    Args:
        parameters: step latency.
        tokens: tokens that each candidate needs computed, >= 1, shape (n,).
        context_tokens: context tokens that each reads, >= 0; broadcasts to (n,).
        target_ms: longest step, > 0.
        max_batch_size: most requests, None for no bound.
        cut: whether a candidate may be computed in part.

    Returns:
        The batch, empty where no candidate fits even alone.

    Raises:
        ValueError: an argument is below its bound; the message names it.

    Source: throughput saturation document, batch construction up to the SLA.
    """
    needed = np.atleast_1d(np.asarray(tokens, dtype=np.int64))
    context = np.broadcast_to(np.asarray(context_tokens, dtype=np.float64), needed.shape)
    if needed.size and needed.min() < 1:
        raise ValueError(f"tokens holds {needed.min()}; every candidate needs at least 1")
    if context.size and not (np.isfinite(context).all() and context.min() >= 0):
        raise ValueError("context_tokens holds a value that is not finite or below 0")
    if not target_ms > 0:
        raise ValueError(f"target_ms is {target_ms}; it must be above 0")
    p = parameters.as_array()
    most = math.inf if max_batch_size is None else max_batch_size
    rows: list[int] = []
    taken: list[int] = []
    total, read, time = 0, 0.0, 0.0
    for row in range(len(needed)):
        if len(rows) >= most:
            break
        requests, reading = float(len(rows) + 1), read + float(context[row])
        share = int(needed[row])
        if cut:
            share = min(share, largest_tokens(p, requests, reading, target_ms, total + share) - total)
        if share < 1 or (longer := step_ms(p, requests, float(total + share), reading)) > target_ms:
            continue
        rows.append(row)
        taken.append(share)
        total, read, time = total + share, reading, longer
    return Batch(np.array(rows, dtype=np.int64), np.array(taken, dtype=np.int64), time)
