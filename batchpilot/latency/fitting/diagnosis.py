"""Why a fit should not be trusted, in plain words for the person who measured."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from batchpilot.latency.fitting.observations import Observations

POINTS_PER_PARAMETER = 2
"""Different steps needed for each fitted parameter."""

_UNDETERMINED = 1e3
"""An interval this many times as wide as its parameter says that the parameter could be anything."""

_AT_LOWEST = {
    "p_max": "p_max is at its lower bound: the device is slower than the model can say",
    "k_b": "k_b is at its lower bound: no saturation in requests is seen, and only p_max * k_b is determined",
    "k_s": "k_s is at its lower bound: no saturation in tokens is seen, and only p_max * k_s is determined",
}
_AT_HIGHEST = {"p_max": "p_max is at its upper bound: no step long enough to show the peak throughput"}
_SATURATED = {
    "k_b": "k_b is at its upper bound: the throughput does not depend on the requests",
    "k_s": "k_s is at its upper bound: the throughput does not depend on the tokens",
}


def problems_of(
    observations: Observations,
    points: int,
    values: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],
    at_lowest: Collection[str],
    at_highest: Collection[str],
) -> tuple[str, ...]:
    """Why the observations do not determine the parameters; empty when nothing says so.

    Args:
        observations: what was fitted.
        points: how many different (B, S, C) are among them.
        values: the free parameters.
        intervals: their 95 % confidence intervals.
        at_lowest: names of those at their lower bound.
        at_highest: names of those at their upper bound.
    """
    B, S = observations.batch_size, observations.tokens
    found = []
    if points < POINTS_PER_PARAMETER * len(values):
        found.append(
            f"{points} different steps (B, S, C) for {len(values)} parameters; measure at least "
            f"{POINTS_PER_PARAMETER * len(values)}, or fix some parameters"
        )
    for name, measured, told in (("B", B, "k_b and tau_b"), ("S", S, "k_s and tau_s")):
        if np.all(measured == measured[0]):
            found.append(f"every step has {name} = {measured[0]:g}: {told} cannot be told from p_max and tau_0")
    if points > 1 and np.array_equal(B, S):
        found.append("every step has B = S (decode only): requests and tokens cannot be told apart; add prefills")
    found += [text for name, text in _AT_LOWEST.items() if name in at_lowest]
    found += [text for name, text in _AT_HIGHEST.items() if name in at_highest]
    lost = [name for name, (low, high) in intervals.items() if high - low > _UNDETERMINED * values[name]]
    if lost:
        found.append(f"not determined by these steps: {', '.join(lost)}")
    return tuple(found)


def notes_on(
    values: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],
    at_lowest: Collection[str],
    at_highest: Collection[str],
) -> tuple[str, ...]:
    """What does not spoil a fit but should be known.

    Args:
        values: the free parameters.
        intervals: their 95 % confidence intervals.
        at_lowest: names of those at their lower bound.
        at_highest: names of those at their upper bound.
    """
    found = [text for name, text in _SATURATED.items() if name in at_highest]
    absent = [name for name in at_lowest if name not in _AT_LOWEST]
    if absent:
        found.append(f"no such cost is seen, so 0: {', '.join(absent)}")
    wide = [
        name for name, (low, high) in intervals.items() if values[name] < high - low <= _UNDETERMINED * values[name]
    ]
    if wide:
        found.append(
            f"uncertain by more than their own size: {', '.join(wide)}; the prediction may still be good, where errors "
            "of several parameters cancel"
        )
    return tuple(found)
