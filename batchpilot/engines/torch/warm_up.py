"""Steps that no request asked for: they warm the device up, and their times give a first estimate of the latency."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from batchpilot.engines.torch.packing import StepTokens
from batchpilot.latency.model.saturation import SaturationParameters

REPEATS = 3
STEPS = ((1, 1, 0), (1, 64, 0), (1, 256, 0), (8, 1, 64), (32, 1, 64), (8, 1, 512))
"""Requests, tokens of each and context of each; those that the KV cache does not hold are left out."""

_SATURATED_AT_ONCE = 50.0
_LEAST_MS_PER_TOKEN = 1e-6


def synthetic_step(requests: int, tokens: int, context: int, block_size: int) -> StepTokens:
    """A step of equal requests in the first blocks of the cache, whatever these hold.

    Args:
        requests: B.
        tokens: tokens that each computes.
        context: tokens that each has in the cache.
        block_size: tokens in a block.
    """
    blocks = -(-(context + tokens) // block_size)
    return StepTokens(
        ids=np.arange(requests * tokens) % 2,
        tables=np.arange(requests * blocks).reshape(requests, blocks),
        tokens=np.full(requests, tokens),
        computed=np.full(requests, context),
        padding=np.zeros(requests, np.int64),
        wanted=np.ones(requests, np.bool_),
    )


def warm_up(
    run: Callable[[StepTokens], object],
    capacity_tokens: int,
    block_size: int,
    clock: Callable[[], float] = time.perf_counter,
) -> SaturationParameters:
    """Run a few shapes of steps several times and fit a straight line to the fastest of each.

    The line (fixed time, ms per request, token and context token) is what `step_target_ms` and `ttft_guard` believe
    until a calibration says better.

    Args:
        run: runs a step and waits for it.
        capacity_tokens: KV tokens that the cache holds.
        block_size: tokens in a block.
        clock: seconds.
    """
    shapes = [shape for shape in STEPS if shape[0] * (shape[1] + shape[2] + block_size) <= capacity_tokens] or [
        STEPS[0]
    ]
    times = np.empty((REPEATS, len(shapes)))
    for repeat in range(REPEATS):
        for k, (requests, tokens, context) in enumerate(shapes):
            step = synthetic_step(requests, tokens, context, block_size)
            started = clock()
            run(step)
            times[repeat, k] = 1000.0 * (clock() - started)
    return straight_line(np.array(shapes, float), times.min(0))


def straight_line(shapes: NDArray[np.float64], times_ms: NDArray[np.float64]) -> SaturationParameters:
    """Least squares, relative errors, no negative coefficient.

    Args:
        shapes: requests, tokens of each and context of each, shape (n, 3).
        times_ms: shape (n,).
    """
    requests, tokens, context = shapes.T
    terms = np.stack([np.ones(len(shapes)), requests, requests * tokens, requests * context], 1)
    tau_0, tau_b, per_token, tau_c = nnls(terms / times_ms[:, None], np.ones(len(shapes)))[0]
    return SaturationParameters(
        p_max=1.0 / max(float(per_token), _LEAST_MS_PER_TOKEN),
        k_b=_SATURATED_AT_ONCE,
        k_s=_SATURATED_AT_ONCE,
        tau_0=float(tau_0),
        tau_b=float(tau_b),
        tau_c=float(tau_c),
    )
