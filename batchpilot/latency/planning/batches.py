"""Filling one step up to its latency target, request by request. Times in ms, lengths in tokens."""

from __future__ import annotations

from collections.abc import Sequence
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
    running: int = 0,
    running_context_tokens: float = 0.0,
    overtaking: bool = True,
) -> Batch:
    """Take candidates in their order as long as the step can meet its target.

    Greedy: a candidate that does not fit is passed over and the next one tried, so a short request may overtake a long
    one; with `cut` it is cut to what does fit instead (chunked prefill). Where T falls with B (a small k_b), a request
    that misses the target alone may meet it in company: it is taken if enough of those after it make up for that.

    Args:
        parameters: step latency.
        tokens: tokens that each candidate needs computed, >= 1, shape (n,).
        context_tokens: context tokens that each reads, >= 0; broadcasts to (n,).
        target_ms: longest step, > 0.
        max_batch_size: most requests, None for no bound.
        cut: whether a candidate may be computed in part.
        running: requests that decode in the step anyway, a token each; they count for `max_batch_size`, >= 0.
        running_context_tokens: context tokens that they read, >= 0.
        overtaking: whether a later candidate may be taken when an earlier one did not fit; the document stops there.

    Returns:
        The batch without those that run, its time with them; empty where no candidates fit, alone or together.

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
    for name, value in (("running", running), ("running_context_tokens", running_context_tokens)):
        if not value >= 0:
            raise ValueError(f"{name} is {value}; it must be >= 0")
    p = parameters.as_array()
    least = np.ones_like(needed) if cut else needed
    by_cost = np.argsort(least * (p[4] / p[0] + p[7]) + context * p[8], kind="stable")
    most = len(needed) if max_batch_size is None else max(max_batch_size - running, 0)
    rows: list[int] = []
    taken: list[int] = []
    total, read = running, float(running_context_tokens)
    for row in range(len(needed)):
        if len(rows) >= most:
            break
        company = by_cost[by_cost > row][: most - len(rows) - 1]
        reading = read + float(context[row])
        share = _fitting_share(
            p,
            int(needed[row]),
            (running + len(rows) + 1, total, reading),
            target_ms,
            [(0, 0.0), *zip(np.cumsum(least[company]).tolist(), np.cumsum(context[company]).tolist(), strict=True)],
            cut=cut,
        )
        if share < 1:
            if overtaking:
                continue
            break
        rows.append(row)
        taken.append(share)
        total, read = total + share, reading
    time = step_ms(p, float(running + len(rows)), float(total), read) if total else 0.0
    return Batch(np.array(rows, dtype=np.int64), np.array(taken, dtype=np.int64), time)


def _fitting_share(
    p: NDArray[np.float64],
    needed: int,
    step: tuple[int, int, float],
    target_ms: float,
    company: Sequence[tuple[int, float]],
    *,
    cut: bool,
) -> int:
    """Tokens of a candidate with which its step can meet the target, 0 for none.

    Args:
        p: latency parameters.
        needed: tokens it needs.
        step: requests with it, tokens without it, context tokens with it.
        target_ms: longest step.
        company: tokens and context tokens of the cheapest 0, 1, 2, ... that could still join.
        cut: whether it may be computed in part.
    """
    requests, tokens, context = step
    best = 0
    for joining, (more_tokens, more_context) in enumerate(company):
        B, C = float(requests + joining), context + more_context
        whole = tokens + needed + more_tokens
        if step_ms(p, B, float(whole), C) <= target_ms:
            return needed
        if cut:
            best = max(best, largest_tokens(p, B, C, target_ms, whole) - tokens - more_tokens)
    return best
