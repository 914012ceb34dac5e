"""The answer to a planning question held against simulation: what is attained at a rate, and which rate is held."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from batchpilot.core.limits import Limits
from batchpilot.engines import SimulationResult
from batchpilot.runners.planning.planned import Question

FACTORS = (0.7, 0.85, 1.0, 1.1, 1.2, 1.35)
"""Rates that are simulated, relative to the planned one."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """What simulation says of a rate, means over seeds.

    Attributes:
        rate_per_s: requests per second.
        attainment: share of the requests served within SLO.
        worst: the same of the worst seed.
        goodput_fraction: share of the offered output tokens served within SLO.
        goodput_tokens_per_s: these per second.
        ttft_p95_ms: of the requests that got a first token.
        tpot_p95_ms: of the requests that finished.
        batch_size: mean requests in a step.
        step_ms: mean step.
        kv_fraction: mean share of the KV cache in use.
        refused: share of the requests that was refused.
        prefix_hit_rate: share of the prompt tokens let in that the prefix cache had.
        image_hit_rate: share of the images let in that need not be encoded, 0 without any.
    """

    rate_per_s: float
    attainment: float
    worst: float
    goodput_fraction: float
    goodput_tokens_per_s: float
    ttft_p95_ms: float
    tpot_p95_ms: float
    batch_size: float
    step_ms: float
    kv_fraction: float
    refused: float
    prefix_hit_rate: float = 0.0
    image_hit_rate: float = 0.0

    def together(self, count: int) -> Simulated:
        """So many of these behind one door, each with an equal share of the requests.

        Args:
            count: how many, >= 1; means of a step stay those of one.
        """
        tokens_per_s = count * self.goodput_tokens_per_s
        return replace(self, rate_per_s=count * self.rate_per_s, goodput_tokens_per_s=tokens_per_s)


def simulated(
    question: Question, limits: Limits, rate_per_s: float, seeds: Sequence[int], duration_s: float
) -> Simulated:
    """Ask the simulation about one rate.

    Args:
        question: what is served.
        limits: in force throughout.
        rate_per_s: requests per second, > 0.
        seeds: one run each.
        duration_s: how long requests arrive.
    """
    runs = [_figures(question.simulate(limits, rate_per_s, seed, duration_s)) for seed in seeds]
    means = dict(zip(runs[0], np.mean([list(run.values()) for run in runs], axis=0).tolist(), strict=True))
    return Simulated(rate_per_s=rate_per_s, worst=min(run["attainment"] for run in runs), **means)


def held_in_simulation(curve: Sequence[Simulated], attainment: float) -> float | None:
    """The rate at which a simulated curve crosses the wanted attainment, straight lines between its points.

    Args:
        curve: by ascending rate.
        attainment: the share wanted.

    Returns:
        Requests per second; None where the curve lies below it from the start, infinity where it never falls below.
    """
    if curve[0].attainment < attainment:
        return None
    for before, after in pairwise(curve):
        if after.attainment < attainment:
            part = (before.attainment - attainment) / (before.attainment - after.attainment)
            return before.rate_per_s + part * (after.rate_per_s - before.rate_per_s)
    return math.inf


def _figures(result: SimulationResult) -> dict[str, float]:
    windows = [window for window in result.windows if window.steps]
    steps = sum(window.steps for window in windows)
    step_ms = sum(window.busy_ms for window in windows) / max(steps, 1)
    batch = sum(window.batch_size_mean * window.steps for window in windows) / max(steps, 1)
    kv = sum(window.kv_used_fraction * window.duration_ms for window in result.windows)
    refused: dict[str, Any] = {reason: result.count(reason) for reason in ("refused_on_arrival", "refused_by_guard")}
    return {
        "attainment": result.slo_attainment,
        "goodput_fraction": result.goodput_fraction,
        "goodput_tokens_per_s": result.goodput_tokens_per_s,
        "ttft_p95_ms": result.percentile_ms("ttft_ms", 95),
        "tpot_p95_ms": result.percentile_ms("tpot_ms", 95),
        "batch_size": batch,
        "step_ms": step_ms,
        "kv_fraction": kv / result.elapsed_ms if result.elapsed_ms > 0 else 0.0,
        "refused": sum(refused.values()) / max(len(result.requests), 1),
        "prefix_hit_rate": result.prefix_hit_rate,
        "image_hit_rate": 0.0 if math.isnan(result.image_hit_rate) else result.image_hit_rate,
    }
