"""Phases of the probe tuner and the transitions between them."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """What the tuner is doing.

    Source: dynamic batch tuner document, phases (SPEC 1).
    """

    INITIAL_PROBING = "INITIAL_PROBING"
    """Growing and bisecting towards the best size; waits where the load does not fill a size."""

    DYNAMIC_ADJUSTMENT = "DYNAMIC_ADJUSTMENT"
    """Growing, shrinking or oscillating around the best size, one step a decision."""

    STABLE_RUNNING = "STABLE_RUNNING"
    """Holding a size, with small trials; the locked state of the hybrid strategy."""

    SAFE_FALLBACK = "SAFE_FALLBACK"
    """At the smallest size after a failed probe or repeated failures, until the engine has proved healthy."""

    RE_EVALUATION = "RE_EVALUATION"
    """Measuring anew after the score dropped or the load changed."""


TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.INITIAL_PROBING: frozenset({Phase.DYNAMIC_ADJUSTMENT, Phase.STABLE_RUNNING, Phase.SAFE_FALLBACK}),
    Phase.DYNAMIC_ADJUSTMENT: frozenset(
        {Phase.STABLE_RUNNING, Phase.RE_EVALUATION, Phase.SAFE_FALLBACK, Phase.INITIAL_PROBING}
    ),
    Phase.STABLE_RUNNING: frozenset(
        {Phase.DYNAMIC_ADJUSTMENT, Phase.RE_EVALUATION, Phase.SAFE_FALLBACK, Phase.INITIAL_PROBING}
    ),
    Phase.SAFE_FALLBACK: frozenset({Phase.INITIAL_PROBING}),
    Phase.RE_EVALUATION: frozenset({Phase.DYNAMIC_ADJUSTMENT, Phase.SAFE_FALLBACK, Phase.INITIAL_PROBING}),
}
"""Where one decision may lead from each phase; staying is always possible, and so is anything a person orders."""
