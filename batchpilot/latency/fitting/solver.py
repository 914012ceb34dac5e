"""Bounded least squares with few unknowns: damped Gauss-Newton steps (Levenberg, Marquardt) on the normal equations.

A step minimises the damped quadratic model within the bounds exactly, so that a parameter reaches its bound at once and
leaves it when the others call for it. With at most eleven unknowns all of that is small, however many the observations.
"""

from __future__ import annotations

import numpy as np

from batchpilot.latency.fitting.residuals import Floats, Problem

_MOST_STEPS = 200
FIRST_DAMPING = 1e-2
_LEAST_DAMPING, _MOST_DAMPING = 1e-12, 1e12

SETTLED = 1e-9
"""The steps end when the quadratic model expects less than this share of the loss from another one."""

_SETTLED_IF_DAMPED = 1e-13
"""Likewise of a step that damping keeps short, which says little of what the next ones bring."""

_NOTHING = 1e-20
"""A loss per observation that is no more than rounding."""

_LEAST_CURVATURE = 1e-12
"""Of the largest: what is flatter is damped as if it were this curved."""


def minimum(
    problem: Problem, u: Floats, outlier: float | None, settled: float = SETTLED, damping: float = FIRST_DAMPING
) -> tuple[float, Floats]:
    """The minimum that a start leads to: its loss, and its coordinates within the bounds.

    Args:
        problem: what is minimised.
        u: the start; beyond a bound it starts there.
        outlier: scale beyond which a residual counts linearly; None for squares alone.
        settled: share of the loss below which nothing more is expected of another step.
        damping: of the first step: little where the minimum is near.
    """
    low, high = problem.bounds()
    u = np.clip(u, low, high)
    if not u.size:
        return problem.loss(u, outlier), u
    loss, slope, curvature = problem.normal_equations(u, outlier)
    growth = 2.0
    for _ in range(_MOST_STEPS):
        stiff = curvature.diagonal()
        stiff = np.maximum(stiff, _LEAST_CURVATURE * max(float(stiff.max()), 1e-300))
        step = bounded_step(curvature + np.diag(damping * stiff), slope, low - u, high - u)
        expected = -float(slope @ step + step @ curvature @ step / 2)
        least = settled if damping <= FIRST_DAMPING else _SETTLED_IF_DAMPED
        if expected <= least * loss + _NOTHING * len(problem.observations):
            break
        there = np.clip(u + step, low, high)
        tried, *equations = problem.normal_equations(there, outlier)
        gain = (loss - tried) / expected
        if gain > 0:
            u, loss, (slope, curvature) = there, tried, equations
            damping, growth = max(damping * max(1 / 3, 1 - (2 * gain - 1) ** 3), _LEAST_DAMPING), 2.0
        else:
            damping, growth = damping * growth, 2 * growth
            if damping > _MOST_DAMPING:
                break
    return loss, u


def bounded_step(curvature: Floats, slope: Floats, low: Floats, high: Floats) -> Floats:
    """The step x that minimises slope'x + x'curvature x / 2 with low <= x <= high.

    Args:
        curvature: positive definite, shape (k, k).
        slope: shape (k,).
        low: lowest of each, <= 0.
        high: highest of each, >= 0.
    """
    step = np.linalg.solve(curvature, -slope)
    held = np.zeros(len(slope), dtype=bool)
    for _ in range(4 * len(slope)):
        outside = ~held & ((step < low) | (step > high))
        if outside.any():
            step = np.clip(step, low, high)
            held |= outside
        elif held.any():
            # A held one is let go where the loss falls towards the inside.
            rising = slope + curvature @ step
            eager = held & np.where(step <= low, rising < 0, rising > 0)
            if not eager.any():
                break
            held[np.argmax(np.where(eager, np.abs(rising), 0.0))] = False
        else:
            break
        pulled = slope + curvature @ np.where(held, step, 0.0)
        alone = np.where(held | held[:, None], np.diag(curvature.diagonal()), curvature)
        step = np.where(held, step, np.linalg.solve(alone, -pulled))
    return np.clip(step, low, high)
