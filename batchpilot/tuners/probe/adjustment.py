"""Online adjustment: one step up, down or beside the best size, per decision. Pure functions of a situation.

Three readings of the document's rules, which as printed can feed on themselves:

- Shrinking comes before growing: a spare utilisation or memory is no reason to grow while the score is falling.
- A lower score *below* the best size is answered by going back to the best size, not by shrinking further; above it,
  shrinking stops at the best size.
- Growing into spare memory or utilisation needs a batch that is full, and no larger size that was measured without
  gain; otherwise the size would climb and fall for ever.

Source: dynamic batch tuner document, online adjustment (SPEC 1).
"""

from __future__ import annotations

from typing import NamedTuple

from batchpilot.configs.tuner import TunerConfig

LOW_UTILISATION = 0.5
LOW_MEMORY = 0.7
LONG_STEP_MS = 1000.0
NOISE_MARGIN = 3.0


class Move(NamedTuple):
    """A decision: the size to run with next, and why."""

    size: int
    reason: str


class Situation(NamedTuple):
    """What one adjustment is decided on.

    Attributes:
        size: the size that was measured.
        score: its score in this decision's windows.
        best_size: the best size known before.
        best_score: its mean score.
        noise: relative standard deviation of a score.
        utilisation: share of time within steps.
        memory_fraction: memory in use over total.
        size_restricts: whether the batch was full.
        flat_above: whether a larger size is known to gain nothing.
        highest: largest size that memory and configuration allow.
        cycle: decisions since adjustment began, which times the oscillation.
    """

    size: int
    score: float
    best_size: int
    best_score: float
    noise: float
    utilisation: float
    memory_fraction: float
    size_restricts: bool
    flat_above: bool
    highest: int
    cycle: int


def adjust(now: Situation, config: TunerConfig) -> Move:
    """The next size under the adjustment rules.

    Args:
        now: the situation.
        config: coefficients and thresholds.
    """
    eps = significance(now.noise, config)
    if now.score < now.best_score * (1.0 - eps):
        why = f"{now.size} scored {now.score:.3f} < {now.best_score:.3f}"
        if now.size < now.best_size:
            return Move(now.best_size, f"back to {now.best_size}: {why}")
        smaller = shrunk(now.size, config)
        if now.size > now.best_size:
            smaller = max(smaller, now.best_size)
        return Move(smaller, f"shrunk to {smaller}: {why}")
    larger = grown(now, config)
    if now.size_restricts and larger > now.size:
        if now.score > now.best_score * (1.0 + eps):
            return Move(larger, f"grown to {larger}: {now.size} scored {now.score:.3f} > {now.best_score:.3f}")
        if not now.flat_above:
            if now.utilisation < LOW_UTILISATION:
                return Move(larger, f"grown to {larger}: utilisation is only {now.utilisation:.2f}")
            if now.memory_fraction < LOW_MEMORY:
                return Move(larger, f"grown to {larger}: only {now.memory_fraction:.2f} of memory is used")
    return oscillated(now, config)


def significance(noise: float, config: TunerConfig) -> float:
    """Relative difference from which two scores differ: eps, or three standard deviations of the noise if larger.

    Args:
        noise: relative standard deviation of a score.
        config: gives eps, the `performance_threshold`.
    """
    return max(config.performance_threshold, NOISE_MARGIN * noise)


def grown(now: Situation, config: TunerConfig) -> int:
    """One step up: by `growth_coefficient`, at least 1, at most twice the best size and the highest allowed.

    Args:
        now: the situation.
        config: coefficients.
    """
    step = max(1, round(now.size * config.growth_coefficient))
    return min(now.size + step, 2 * now.best_size, now.highest)


def shrunk(size: int, config: TunerConfig) -> int:
    """One step down: by `decay_coefficient`, at least 1, not below the minimum.

    Args:
        size: the present size.
        config: coefficients and the minimum.
    """
    return max(config.min_batch_size, size - max(1, round(size * config.decay_coefficient)))


def oscillation_step(size: int, config: TunerConfig) -> int:
    """How far oscillation and exploration reach from a size: `oscillation_coefficient`, at least 1.

    Args:
        size: the size at the centre.
        config: coefficients.
    """
    return max(1, round(size * config.oscillation_coefficient))


def oscillated(now: Situation, config: TunerConfig) -> Move:
    """A step beside the best size: above, home, below, home, and again, so that home is measured most.

    Args:
        now: the situation.
        config: coefficients and bounds.
    """
    home = now.best_size
    if not config.enable_oscillation:
        return Move(home, f"holding the best size {home}")
    direction = (1, 0, -1, 0)[now.cycle % 4]
    if direction > 0 and not now.size_restricts:
        direction = 0
    size = max(config.min_batch_size, min(home + direction * oscillation_step(home, config), now.highest))
    return Move(size, f"oscillating around the best size {home}")
