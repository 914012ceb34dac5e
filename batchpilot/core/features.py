"""The feature vector: what an expert operator looks at, as numbers without a unit.

Environments, agents, exported policies and servers all compute it here, from window metrics and the limits in force.
Every feature is a ratio to a capacity, a promise or a limit, so that one policy can serve every device and model:

| kind | value of a and b | range |
|---|---|---|
| share | a / b, clipped | 0 to 1 |
| fill | a / b, clipped | 0 to 2 |
| against | a / (a + b): 0 far below, 0.5 when a = b, 1 far above | 0 to 1 |
| level | log2(a / b) / 8, clipped: 0 when a = b, 1/8 more for each doubling, 1 for a limit that is off | -1 to 1 |

Where a ratio has no value (no sample, nothing over nothing, a promise or capacity that is not known) the feature takes
its neutral value, so the vector is always finite and within its bounds.
"""

from __future__ import annotations

import math
from collections.abc import MutableSequence
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.limit_arrays import LimitArrays, limit_numbers
from batchpilot.core.limits import DISCIPLINES
from batchpilot.core.metrics import METRIC_NAMES, WindowMetrics

FEATURE_VERSION = 2
"""Changes with any name, meaning or order below; an exported policy carries it."""

FEATURES_OF_VERSION = {1: 35, 2: 36}
"""How many features each version has, each the first of those below: policies of older versions look at fewer."""

BOUNDS = {"share": (0.0, 1.0), "fill": (0.0, 2.0), "against": (0.0, 1.0), "level": (-1.0, 1.0)}
"""Lowest and highest value of each kind."""

LEVEL_DOUBLINGS = 8.0


class Feature(NamedTuple):
    """One number of the vector.

    Attributes:
        name: what it is called everywhere.
        kind: how it follows from two quantities, one of `BOUNDS`.
        a: a field of `WindowMetrics` or `LimitArrays`, or a derived quantity.
        b: what it is held against, likewise.
        neutral: its value where the ratio has none.
    """

    name: str
    kind: str
    a: str
    b: str
    neutral: float = 0.0


FEATURES = (
    # The limits: how far they are used, and how they compare with what the engine could do.
    Feature("batch_fill", "fill", "batch_size_mean", "batch_size"),
    Feature("running_fill", "fill", "running", "batch_size"),
    Feature("budget_fill", "fill", "tokens_per_step_mean", "token_budget"),
    Feature("queue_fill", "fill", "queued_tokens", "max_queued_tokens"),
    Feature("batch_size_level", "level", "batch_size", "kv_batch_size"),
    Feature("token_budget_level", "level", "token_budget", "tokens_per_tpot_target"),
    Feature("max_queued_level", "level", "max_queued_tokens", "prompt_tokens_per_ttft_target"),
    Feature("step_target_level", "level", "step_target_ms", "tpot_target_ms"),
    Feature("ttft_guard_level", "level", "ttft_guard", "one"),
    Feature("shortest_first", "share", "shortest_first", "one"),
    # The load: what waits, what comes, and what it is made of.
    Feature("queue_against_batch", "against", "queue", "batch_size"),
    Feature("backlog_against_ttft_target", "against", "queued_tokens", "prompt_tokens_per_ttft_target"),
    Feature("oldest_wait_against_ttft_target", "against", "oldest_wait_ms", "ttft_target_ms"),
    Feature("arrivals_against_ended", "against", "arrivals", "ended", 0.5),
    Feature("prompts_against_prefill", "against", "arrived_prompt_tokens", "prefill_tokens", 0.5),
    Feature("prefill_against_decode", "against", "prefill_tokens", "generated_tokens", 0.5),
    Feature("prompt_against_budget", "against", "prompt_tokens_mean", "token_budget"),
    Feature("window_against_ttft_target", "against", "duration_ms", "ttft_target_ms"),
    # Latency held against what was promised.
    Feature("ttft_p50_against_target", "against", "ttft_ms_p50", "ttft_target_ms"),
    Feature("ttft_p95_against_target", "against", "ttft_ms_p95", "ttft_target_ms"),
    Feature("tpot_p50_against_target", "against", "tpot_ms_p50", "tpot_target_ms"),
    Feature("tpot_p95_against_target", "against", "tpot_ms_p95", "tpot_target_ms"),
    Feature("step_mean_against_tpot_target", "against", "step_ms_mean", "tpot_target_ms"),
    Feature("step_p95_against_tpot_target", "against", "step_ms_p95", "tpot_target_ms"),
    # What came of it.
    Feature("slo_attainment", "share", "slo_attainment", "one", 1.0),
    Feature("refused_on_arrival", "share", "refused_on_arrival", "ended"),
    Feature("refused_by_guard", "share", "refused_by_guard", "ended"),
    Feature("failed_requests", "share", "failed_requests", "ended"),
    Feature("goodput", "fill", "goodput_tokens_per_s", "peak_tokens_per_s"),
    Feature("busy_throughput", "fill", "busy_tokens_per_s", "peak_tokens_per_s"),
    # The engine itself.
    Feature("utilisation", "share", "utilisation", "one"),
    Feature("kv_used", "share", "kv_used_fraction", "one"),
    Feature("memory", "share", "memory_fraction", "one"),
    Feature("preemptions_against_completions", "against", "preemptions", "completions"),
    Feature("failed_steps", "share", "failures", "steps"),
    # Since version 2: what need not be computed.
    Feature("prefix_hits", "share", "cached_prompt_tokens", "admitted_prompt_tokens"),
)

FEATURE_NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)


def feature_names(version: int) -> tuple[str, ...]:
    """Names of the features that a version has, in order.

    Args:
        version: one of `FEATURES_OF_VERSION`.
    """
    return FEATURE_NAMES[: FEATURES_OF_VERSION[version]]


FEATURE_LOW = np.array([BOUNDS[feature.kind][0] for feature in FEATURES], np.float32)
FEATURE_HIGH = np.array([BOUNDS[feature.kind][1] for feature in FEATURES], np.float32)

RATIOS = {
    "prompt_tokens_mean": ("arrived_prompt_tokens", "one", "arrivals"),
    "busy_tokens_per_s": ("generated_tokens", "thousand", "busy_ms"),
    "kv_batch_size": ("kv_capacity_tokens", "batch_size_mean", "context_tokens_mean"),
    "tokens_per_tpot_target": ("tokens_per_step_mean", "tpot_target_ms", "step_ms_mean"),
    "prompt_tokens_per_ttft_target": ("prefill_tokens", "ttft_target_ms", "duration_ms"),
    "memory_fraction": ("memory_peak_mb", "one", "memory_total_mb"),
}
"""Quantities x * y / z of others. What the engine could do, as far as the window shows it: requests of the present
context that fill the KV cache, tokens it computes within a TPOT target, prompt tokens within a TTFT target. Memory is
the KV share where the device's memory is not known."""

ENDED = ("completions", "refused_on_arrival", "refused_by_guard", "failed_requests")
"""The metrics that add up to `ended`."""

DERIVED = ("one", "thousand", "shortest_first", "ended", *RATIOS)

_ROWS = {name: row for row, name in enumerate((*METRIC_NAMES, *LimitArrays._fields, *DERIVED))}

QUANTITIES = len(_ROWS)
"""Numbers that `fill_features` works on: the metrics, the limits, and what is derived from them."""

_metrics_of = attrgetter(*METRIC_NAMES)

_SHARE, _FILL, _AGAINST, _LEVEL = range(len(BOUNDS))
_ENTRIES = tuple(
    (list(BOUNDS).index(feature.kind), _ROWS[feature.a], _ROWS[feature.b], feature.neutral, *BOUNDS[feature.kind])
    for feature in FEATURES
)
_RATIO_ROWS = tuple((_ROWS[name], *(_ROWS[of] for of in ratio)) for name, ratio in RATIOS.items())
_ENDED_ROWS = tuple(_ROWS[name] for name in ENDED)
_PEAK, _DISCIPLINE = _ROWS["peak_tokens_per_s"], _ROWS["discipline"]
_ONE, _THOUSAND, _SHORTEST_FIRST, _ENDED = (_ROWS[name] for name in ("one", "thousand", "shortest_first", "ended"))
_MEMORY_TOTAL, _MEMORY_FRACTION, _KV_USED = (
    _ROWS[name] for name in ("memory_total_mb", "memory_fraction", "kv_used_fraction")
)
_SPF, _SJF = DISCIPLINES["spf"], DISCIPLINES["sjf"]
_DERIVED_ZEROS = [0.0] * len(DERIVED)


def window_features(window: WindowMetrics) -> NDArray[np.float32]:
    """The feature vector of one window, as a server computes it: in plain floats, since arrays of one cost more.

    Args:
        window: any window; odd numbers give neutral values or bounds.

    Returns:
        In the order of `FEATURE_NAMES`, finite, between `FEATURE_LOW` and `FEATURE_HIGH`, shape (F,).
    """
    quantity = [float(value) for value in _metrics_of(window)]
    quantity += limit_numbers(window.limits)
    quantity += _DERIVED_ZEROS
    values = [0.0] * len(FEATURES)
    fill_features(quantity, values)
    return np.array(values, np.float32)


def fill_features(quantity: MutableSequence[float], out: MutableSequence[float]) -> None:
    """Fill a feature vector. Plain enough to be compiled.

    Args:
        quantity: `METRICS` and `LimitArrays` of one window as numbers, and room for what is derived, shape
            (`QUANTITIES`,).
        out: where the features are written, shape (F,).
    """

    def divided(a: float, b: float) -> float:
        if b != 0.0:
            return a / b
        return math.nan if a == 0.0 or a != a else math.copysign(math.inf, a) * math.copysign(1.0, b)

    if quantity[_PEAK] <= 0.0:
        quantity[_PEAK] = math.nan
    quantity[_ONE] = 1.0
    quantity[_THOUSAND] = 1000.0
    quantity[_SHORTEST_FIRST] = 1.0 if quantity[_DISCIPLINE] == _SPF or quantity[_DISCIPLINE] == _SJF else 0.0
    ended = 0.0
    for row in _ENDED_ROWS:
        ended += quantity[row]
    quantity[_ENDED] = ended
    for row, x, y, z in _RATIO_ROWS:
        quantity[row] = divided(quantity[x] * quantity[y], quantity[z])
    if quantity[_MEMORY_TOTAL] <= 0.0:
        quantity[_MEMORY_FRACTION] = quantity[_KV_USED]
    for i, (kind, a, b, neutral, low, high) in enumerate(_ENTRIES):
        over, under = quantity[a], quantity[b]
        value = over / under if under != 0.0 else divided(over, under)
        if kind == _AGAINST:
            inverse = 1.0 + (1.0 / value if value != 0.0 else divided(1.0, value))
            value = 1.0 / inverse if inverse != 0.0 else divided(1.0, inverse)
        elif kind == _LEVEL:
            if over == math.inf:
                value = 1.0
            elif value > 0.0:
                value = math.log2(value) / LEVEL_DOUBLINGS
            else:
                value = -math.inf if value == 0.0 else math.nan
        if value != value:
            value = neutral
        out[i] = min(max(value, low), high)
