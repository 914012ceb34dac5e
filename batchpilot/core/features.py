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
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.limit_arrays import LimitArrays, limit_numbers
from batchpilot.core.limits import DISCIPLINES
from batchpilot.core.metrics import METRIC_NAMES, WindowMetrics

FEATURE_VERSION = 1
"""Changes with any name, meaning or order below; an exported policy carries it."""

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
)

FEATURE_NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
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
_METRICS_END, _LIMITS_END = len(METRIC_NAMES), len(METRIC_NAMES) + len(LimitArrays._fields)
_RATIOS_START = len(_ROWS) - len(RATIOS)
_X, _Y, _Z = np.array([[_ROWS[name] for name in ratio] for ratio in RATIOS.values()]).T
_ENDED_ROWS = np.array([_ROWS[name] for name in ENDED])

_A = np.array([_ROWS[feature.a] for feature in FEATURES])
_B = np.array([_ROWS[feature.b] for feature in FEATURES])
_AGAINST = np.array([i for i, feature in enumerate(FEATURES) if feature.kind == "against"])
_LEVEL = np.array([i for i, feature in enumerate(FEATURES) if feature.kind == "level"])
_LEVEL_A = _A[_LEVEL]
_NEUTRAL = np.array([feature.neutral for feature in FEATURES])[:, None]
_LOW, _HIGH = np.array([BOUNDS[feature.kind] for feature in FEATURES]).T[..., None]

_metrics_of = attrgetter(*METRIC_NAMES)

# The same tables for one window at a time.
_ENTRIES = [
    (feature.kind, int(a), int(b), feature.neutral, *BOUNDS[feature.kind])
    for feature, a, b in zip(FEATURES, _A, _B, strict=True)
]
_RATIO_LIST = [tuple(_ROWS[name] for name in ratio) for ratio in RATIOS.values()]
_ENDED_LIST = [_ROWS[name] for name in ENDED]
_PEAK, _DISCIPLINE = _ROWS["peak_tokens_per_s"], _ROWS["discipline"]
_MEMORY_TOTAL, _MEMORY_FRACTION, _KV_USED = (
    _ROWS[name] for name in ("memory_total_mb", "memory_fraction", "kv_used_fraction")
)
_SHORTEST_FIRST = (DISCIPLINES["spf"], DISCIPLINES["sjf"])


def features(metrics: NDArray[Any], limits: LimitArrays) -> NDArray[np.float32]:
    """The feature vectors of many windows.

    Args:
        metrics: records of `core.metrics.METRICS`, shape (n,).
        limits: the limits in force in each window, arrays of shape (n,).

    Returns:
        Features in the order of `FEATURE_NAMES`, finite, between `FEATURE_LOW` and `FEATURE_HIGH`, shape (n, F).
    """
    return _features(np.ascontiguousarray(metrics).view(np.float64).reshape(len(metrics), _METRICS_END), limits)


def window_features(window: WindowMetrics) -> NDArray[np.float32]:
    """The feature vector of one window, as a server computes it: in plain floats, since arrays of one cost more.

    Args:
        window: any window; odd numbers give neutral values or bounds.

    Returns:
        Shape (F,), equal to `features` of the window's record.
    """
    quantity = [float(value) for value in _metrics_of(window)]
    quantity += limit_numbers(window.limits)
    if quantity[_PEAK] <= 0:
        quantity[_PEAK] = math.nan
    quantity += (1.0, 1000.0, float(quantity[_DISCIPLINE] in _SHORTEST_FIRST))
    quantity.append(sum(quantity[row] for row in _ENDED_LIST))
    for x, y, z in _RATIO_LIST:
        quantity.append(_over(quantity[x] * quantity[y], quantity[z]))
    if quantity[_MEMORY_TOTAL] <= 0:
        quantity[_MEMORY_FRACTION] = quantity[_KV_USED]
    return np.array([_value(quantity, *entry) for entry in _ENTRIES], np.float32)


def _value(quantity: list[float], kind: str, a: int, b: int, neutral: float, low: float, high: float) -> float:
    """One feature of one window, as `_features` has it; divisions stand in line, since calls are what it would cost."""
    over, under = quantity[a], quantity[b]
    value = over / under if under else _over(over, under)
    if kind == "against":
        inverse = 1.0 + (1.0 / value if value else _over(1.0, value))
        value = 1.0 / inverse if inverse else _over(1.0, inverse)
    elif kind == "level":
        value = 1.0 if over == math.inf else _log2(value) / LEVEL_DOUBLINGS
    if value != value:
        return neutral
    return low if value < low else high if value > high else value


def _over(a: float, b: float) -> float:
    """A / b as arrays have it: infinite or NaN over zero."""
    if b:
        return a / b
    return math.nan if a == 0 or a != a else math.copysign(math.inf, a) * math.copysign(1.0, b)


def _log2(value: float) -> float:
    """log2 as arrays have it."""
    if value > 0:
        return math.log2(value)
    return -math.inf if value == 0 else math.nan


def _features(metrics: NDArray[np.float64], limits: LimitArrays) -> NDArray[np.float32]:
    """`features` with the metrics as a matrix, shape (n, number of metrics)."""
    with np.errstate(all="ignore"):
        quantities = _quantities(metrics, limits)
        values = quantities[_A] / quantities[_B]
        values[_AGAINST] = 1.0 / (1.0 + 1.0 / values[_AGAINST])
        level = np.log2(values[_LEVEL]) / LEVEL_DOUBLINGS
        values[_LEVEL] = np.where(quantities[_LEVEL_A] == np.inf, 1.0, level)
        values = np.where(np.isnan(values), _NEUTRAL, values)
    clipped = np.minimum(np.maximum(values, _LOW), _HIGH)
    return np.ascontiguousarray(clipped.T, dtype=np.float32)


def _quantities(metrics: NDArray[np.float64], limits: LimitArrays) -> NDArray[np.float64]:
    """Every quantity that a feature may name, shape (quantities, n); NaN where it is not known."""
    table = np.empty((len(_ROWS), len(metrics)))
    table[:_METRICS_END] = metrics.T
    table[_METRICS_END:_LIMITS_END] = limits
    peak = table[_ROWS["peak_tokens_per_s"]]
    peak[peak <= 0] = np.nan
    table[_ROWS["one"]] = 1.0
    table[_ROWS["thousand"]] = 1000.0
    table[_ROWS["shortest_first"]] = np.isin(limits.discipline, _SHORTEST_FIRST)
    table[_ROWS["ended"]] = np.add.reduce(table[_ENDED_ROWS])
    table[_RATIOS_START:] = table[_X] * table[_Y] / table[_Z]
    unknown = table[_ROWS["memory_total_mb"]] <= 0
    np.copyto(table[_ROWS["memory_fraction"]], table[_ROWS["kv_used_fraction"]], where=unknown)
    return table
