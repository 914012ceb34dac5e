"""What info tells of a fleet's episode, and what hindsight would have made of the very run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from batchpilot.envs.episode import NORMALISED, REFERENCES, Asked
from batchpilot.envs.fleet.offering import rates
from batchpilot.envs.fleet.prepared import PreparedFleet
from batchpilot.envs.fleet.rewards import FleetReward
from batchpilot.envs.fleet.run import Decision, FleetRun
from batchpilot.fleet.scalers import Clairvoyant, Scaler

STANDING, BEST_FIXED, CLAIRVOYANT = "as-it-stands", "best-fixed", "clairvoyant"
"""The references: the replicas that stand ready, the number of them that is best for this very run, and a scaler that
knows what will arrive."""

RATE_SLOT_S = 30.0

Start = Callable[[PreparedFleet], FleetRun]


HEADROOMS = (0.6, 0.8, 1.0, 1.2)
"""Of the clairvoyant scaler, replicas over those needed by estimate; the best for the very run counts."""


def clairvoyants_of(prepared: PreparedFleet) -> list[Clairvoyant]:
    """The scalers that know a run's future, one a headroom.

    Args:
        prepared: the run.
    """
    known = rates(prepared.offer, RATE_SLOT_S)
    return [
        Clairvoyant(
            *known,
            prepared.added_tokens_per_s,
            ahead_s=prepared.scenario.startup_s,
            headroom=headroom,
            interval_s=prepared.scenario.interval_s,
        )
        for headroom in HEADROOMS
    ]


def played(run: FleetRun, scaler: Scaler | None, reward: FleetReward) -> float:
    """The sum of rewards of a run to its end.

    Args:
        run: at its beginning.
        scaler: who says how many replicas there should be; None leaves them.
        reward: of an interval.
    """
    total, decision = 0.0, None
    while not (run.done or run.over):
        interval = run.step(decision)
        total += reward(interval, run.prepared)
        decision = None if scaler is None else Decision(replicas=scaler.decide(interval.view))
    return total


def references_of(prepared: PreparedFleet, start: Start, reward: FleetReward) -> dict[str, float]:
    """Sums of rewards of the references on a run.

    Args:
        prepared: the run.
        start: begins it.
        reward: of an interval.
    """
    bounds = range(prepared.scenario.least, prepared.scenario.most + 1)
    fixed = {count: played(start(prepared.standing(count)), None, reward) for count in bounds}
    known = max(played(start(prepared), scaler, reward) for scaler in clairvoyants_of(prepared))
    standing = prepared.ready
    return {STANDING: fixed[standing], BEST_FIXED: max(fixed.values()), CLAIRVOYANT: known}


def episode(run: FleetRun, rewards: float, decisions: int, reward: FleetReward, start: Start) -> Asked:
    """What `info` tells when an episode ends.

    Args:
        run: what was played, at its end.
        rewards: their sum.
        decisions: steps taken.
        reward: of an interval.
        start: begins a run.

    Returns:
        "r" and "l" (sum of rewards and steps), "goodput_fraction", "slo_attainment", "usd", "replica_hours" and
        "usd_per_million_tokens"; when asked for by name, "references" (sums of rewards of the three, see the top) and
        "normalised_score" (0 as the fleet stands, 1 for the better of the other two).
    """
    summary = run.result().summary()
    told = {"r": rewards, "l": decisions}
    told |= {
        name: summary[name]
        for name in ("goodput_fraction", "slo_attainment", "usd", "replica_hours", "usd_per_million_tokens")
    }
    makers: dict[str, Callable[[Asked], Any]] = {
        REFERENCES: lambda _: references_of(run.prepared, start, reward),
        NORMALISED: lambda found: _score(rewards, found[REFERENCES]),
    }
    return Asked(told, makers)


def _score(rewards: float, references: dict[str, float]) -> float:
    best = max(references[BEST_FIXED], references[CLAIRVOYANT])
    room = best - references[STANDING]
    return (rewards - references[STANDING]) / room if room > 1e-9 else math.nan
