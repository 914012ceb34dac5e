"""Whom to refuse: who goes first because its quarter of prompt lengths is refused too often. Compiled, unchecked.

The figures are those of `core.refusals.RefusedShares`, kept in the third row of `targets` while the bound is on: where
the quarters part, how many arrived, the refused share of each quarter, how many decisions that is of, and the same of
all.
"""

from __future__ import annotations

import math

from batchpilot.core.refusals import QUARTERS, SLOWEST_EDGE, SLOWEST_OVERALL, SLOWEST_SHARE
from batchpilot.engines.scheduler.state import SchedulerState
from batchpilot.latency.model.compiled import kernel

ROW = 2
ARRIVALS = QUARTERS - 1
SHARES = QUARTERS
DECISIONS = SHARES + QUARTERS
OVERALL = DECISIONS + QUARTERS
ALL_DECISIONS = OVERALL + 1


@kernel
def note_prompt(s: SchedulerState, r: int) -> None:
    """A request arrives: where the quarters part follows its prompt."""
    if s.limits[0].refusal_bound == math.inf:
        return
    told = s.targets[ROW]
    prompt = float(s.requests[r].prompt)
    told[ARRIVALS] += 1.0
    if told[ARRIVALS] == 1.0:
        for k in range(QUARTERS - 1):
            told[k] = prompt
        return
    rate = max(1.0 / told[ARRIVALS], SLOWEST_EDGE)
    for k in range(QUARTERS - 1):
        below = 1.0 if prompt <= told[k] else 0.0
        told[k] *= 1.0 + rate * ((k + 1) / QUARTERS - below)
        if k > 0:
            told[k] = max(told[k], told[k - 1])


@kernel
def quarter(s: SchedulerState, r: int) -> int:
    """The quarter of a request's prompt, 0 for the shortest."""
    prompt = float(s.requests[r].prompt)
    place = 0
    for k in range(QUARTERS - 1):
        if prompt > s.targets[ROW, k]:
            place += 1
    return place


@kernel
def note_decision(s: SchedulerState, r: int, refused: float) -> None:
    """A request is let in for the first time (0), or refused (1)."""
    if s.limits[0].refusal_bound == math.inf:
        return
    told = s.targets[ROW]
    k = quarter(s, r)
    told[DECISIONS + k] += 1.0
    told[ALL_DECISIONS] += 1.0
    told[SHARES + k] += max(1.0 / told[DECISIONS + k], SLOWEST_SHARE) * (refused - told[SHARES + k])
    told[OVERALL] += max(1.0 / told[ALL_DECISIONS], SLOWEST_OVERALL) * (refused - told[OVERALL])


@kernel
def goes_first(s: SchedulerState, r: int) -> bool:
    """Whether a request's quarter is refused by more than the bound beyond all."""
    bound = s.limits[0].refusal_bound
    if bound == math.inf:
        return False
    return bool(s.targets[ROW, SHARES + quarter(s, r)] > s.targets[ROW, OVERALL] + bound)
