"""How much an engine takes under planned limits: the closed form proposes a rate, simulation says which one holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from batchpilot.latency.planning.planner import Plan, at_rate
from batchpilot.runners.planning.held import FACTORS, Simulated, held_in_simulation, simulated
from batchpilot.runners.planning.planned import Question

_FARTHER = 1.2
_MOST_STEPS = 5
_BELOW = 0.98
"""Planned a little below the rate where a simulated curve crosses the wanted attainment, and again until it holds."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What an engine takes.

    Attributes:
        plan: with the rate that simulation holds.
        proposed: the closed form's plan.
        curve: simulated rates, ascending, the planned one among them.
    """

    plan: Plan
    proposed: Plan
    curve: tuple[Simulated, ...]

    @property
    def at_proposed(self) -> Simulated:
        """The simulation of the closed form's rate."""
        return next(point for point in self.curve if point.rate_per_s == self.proposed.rate_per_s)


def find_capacity(
    question: Question,
    proposed: Plan,
    seeds: Sequence[int],
    duration_s: float,
    factors: Sequence[float] = FACTORS,
) -> Capacity:
    """Simulate around a proposed rate until the one is found that is held.

    Args:
        question: what is served.
        proposed: its closed-form plan.
        seeds: one run of each rate each.
        duration_s: how long requests arrive in a run.
        factors: rates that are simulated in any case, relative to the proposed one, ascending; 1 is among them.

    Raises:
        ValueError: simulation holds no rate that is worth planning for; the message says what it attains.
    """

    def at(rate_per_s: float) -> Simulated:
        return simulated(question, proposed.limits, rate_per_s, seeds, duration_s)

    curve = [at(factor * proposed.rate_per_s) for factor in factors]
    for _ in range(_MOST_STEPS):
        held = held_in_simulation(curve, question.attainment)
        if held is None:
            curve.insert(0, at(curve[0].rate_per_s / _FARTHER))
        elif math.isinf(held):
            curve.append(at(curve[-1].rate_per_s * _FARTHER))
        else:
            break
    held = held_in_simulation(curve, question.attainment)
    if held is None:
        raise ValueError(
            f"{question.attainment:.0%} within the targets is held at no rate: {curve[0].attainment:.1%} at "
            f"{curve[0].rate_per_s:.3g} requests/s in simulation"
        )
    chosen = at(min(_BELOW * held, curve[-1].rate_per_s, proposed.saturation_per_s))
    while chosen.attainment < question.attainment and chosen.rate_per_s > curve[0].rate_per_s:
        curve.append(chosen)
        chosen = at(_BELOW * chosen.rate_per_s)
    curve = sorted([*curve, chosen], key=lambda point: point.rate_per_s)
    latency, room = question.latency.parameters, question.memory.kv_capacity_tokens
    plan = at_rate(proposed, chosen.rate_per_s, latency, question.demand, room)
    return Capacity(plan, proposed, tuple(curve))
