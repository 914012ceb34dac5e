"""Windows and details that no server should ever tell, beside some that one could."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from batchpilot.core import Limits, WindowMetrics
from batchpilot.core.details import IN_FLIGHT, WindowDetails
from batchpilot.core.metrics import METRIC_NAMES

ODD = (math.nan, math.inf, -math.inf, -1.0, 0.0, -0.0, 5e-324, 1e-300, 1e-9, 2.0**31, 2.0**53, 1e18, 1e200, 1.7e308)
ODD_WHOLE = (-(2**63), -1, 0, 1, 2**24, 2**31, 2**31 + 1, 2**40, 2**62, 2**63 - 1)
ODD_LIMITS = (
    Limits(1, 1, 0),
    Limits(2**31 + 1, token_budget=2**33, max_queued_tokens=2**40),
    Limits(2**62, token_budget=2**62, max_queued_tokens=2**62, max_wait_ms=1e300),
    Limits(8, step_target_ms=5e-324, ttft_guard=5e-324),
    Limits(8, step_target_ms=1.7e308, ttft_guard=1.7e308, discipline="slo"),
    Limits(8, discipline="deadline", delay_factor=1.7e308, max_padding_tokens=2**62, max_padding_share=1.7e308),
)


def sane_window(limits: Limits, start_ms: float, rng: np.random.Generator) -> WindowMetrics:
    """A second of a busy server, TTFT and TPOT targets of 2 s and 100 ms."""
    steps, batch = int(rng.integers(5, 50)), float(rng.uniform(1, 40))
    arrivals = int(rng.integers(0, 20))
    step_ms = 1000.0 / steps
    return WindowMetrics(
        limits=limits,
        start_ms=start_ms,
        duration_ms=1000.0,
        busy_ms=float(rng.uniform(500, 1000)),
        steps=steps,
        generated_tokens=int(steps * batch),
        prefill_tokens=int(rng.integers(0, 5000)),
        arrivals=arrivals,
        arrived_prompt_tokens=arrivals * int(rng.integers(1, 2000)),
        completions=int(rng.integers(0, 20)),
        refused_by_guard=int(rng.integers(0, 3)),
        queue=int(rng.integers(0, 50)),
        running=int(batch),
        batch_size_mean=batch,
        tokens_per_step_mean=2 * batch,
        context_tokens_mean=500 * batch,
        step_ms_mean=step_ms,
        step_ms_p95=1.5 * step_ms,
        ttft_ms_p50=float(rng.uniform(50, 3000)),
        ttft_ms_p95=float(rng.uniform(50, 3000)),
        tpot_ms_p50=step_ms,
        tpot_ms_p95=1.3 * step_ms,
        slo_attainment=float(rng.uniform()),
        goodput_tokens_per_s=float(rng.uniform(0, 1000)),
        kv_used_fraction=float(rng.uniform()),
        utilisation=float(rng.uniform()),
        memory_used_mb=1000.0,
        memory_peak_mb=1100.0,
        memory_total_mb=2000.0,
        kv_capacity_tokens=100_000,
        peak_tokens_per_s=2000.0,
        ttft_target_ms=2000.0,
        tpot_target_ms=100.0,
    )


def hostile_window(limits: Limits, start_ms: float, rng: np.random.Generator) -> WindowMetrics:
    """A window with some numbers that are none, under these limits or others."""
    window = sane_window(limits if rng.random() < 0.8 else ODD_LIMITS[rng.integers(len(ODD_LIMITS))], start_ms, rng)
    changes: dict[str, Any] = window.to_dict() | {"limits": window.limits}
    for name in rng.choice(METRIC_NAMES, rng.integers(1, 5)):
        whole = isinstance(changes[name], int) and rng.random() < 0.5
        changes[name] = ODD_WHOLE[rng.integers(len(ODD_WHOLE))] if whole else ODD[rng.integers(len(ODD))]
    return WindowMetrics(**changes)


def requests(now_ms: float, count: int, rng: np.random.Generator, *, hostile: bool) -> np.ndarray:
    """Requests in flight, one number in four odd where they are to be hostile."""
    records = np.zeros(count, IN_FLIGHT)
    records["arrival_ms"] = np.sort(now_ms - rng.uniform(0, 1000, count))
    records["prompt_tokens"] = rng.integers(1, 500, count)
    records["ttft_target_ms"], records["tpot_target_ms"] = 2000.0, 100.0
    records["first_token_ms"] = np.nan
    for name in IN_FLIGHT.names if hostile else ():
        odd = rng.random(count) < 0.25
        values = ODD_WHOLE if IN_FLIGHT[name].kind == "i" else ODD
        records[name][odd] = rng.choice(values, int(odd.sum()))
    return records


def details(now_ms: float, rng: np.random.Generator, *, hostile: bool, most: int = 12) -> WindowDetails:
    """Details of a window, hostile or such that a server could tell them."""
    count = int(rng.integers(1, 6))
    batch, context = rng.integers(1, 30, count), rng.integers(0, 10_000, count)
    steps = np.column_stack((now_ms - np.arange(count)[::-1] * 50.0, batch, 3 * batch, context, 20.0 + batch))
    outputs = rng.integers(1, 200, int(rng.integers(0, 6)))
    if hostile:
        odd = rng.random(steps.shape) < 0.1
        steps[odd] = rng.choice(ODD, int(odd.sum()))
        outputs = rng.choice(ODD_WHOLE, len(outputs))
        now_ms = ODD[rng.integers(len(ODD))] if rng.random() < 0.1 else now_ms
    arrived, running, waiting = (
        requests(now_ms if math.isfinite(now_ms) else 0.0, int(rng.integers(0, most)), rng, hostile=hostile)
        for _ in range(3)
    )
    return WindowDetails(now_ms, steps, arrived, outputs.astype(np.int64), running, waiting)
