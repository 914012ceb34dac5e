"""Fitting the saturation model to measured steps: bounded non-linear least squares from several starts. Times in ms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np

from batchpilot.core.names import lookup
from batchpilot.latency.fitting.diagnosis import notes_on, problems_of
from batchpilot.latency.fitting.observations import Observations
from batchpilot.latency.fitting.residuals import FEASIBLE, LOSSES, NAMES, Floats, Problem
from batchpilot.latency.fitting.solver import minimum
from batchpilot.latency.fitting.starting import document_start, random_starts
from batchpilot.latency.fitting.uncertainty import at_bounds, covariance, intervals, sensitivity
from batchpilot.latency.model.saturation import SaturationParameters

OUTLIER = 0.05
"""Residual beyond which the robust loss grows slowly: 5 % of the latency, or of the median latency if absolute."""

_FINISHED = 10
"""Of the random starts, how many are followed to their minimum: the best."""

_AGREEING = 4
"""No further start is followed once so many have led to the lowest minimum."""

_ROWS = 800
"""Observations that starts are followed on; where there are more, all of them decide from the minima found there."""

_ROUGHLY = 1e-5
"""As `solver.SETTLED`, for a minimum that is only to be told from others."""

_EQUAL = 1e-4
"""Relative difference within which two losses are one."""

_RIVAL = 1.2
"""A minimum on few observations this many times as high as the lowest is not the lowest on all."""

_LITTLE_DAMPING = 1e-5
"""Of the first step on all observations, which begins where the minimum of some of them is."""


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """Fitted parameters and how far to trust them.

    Attributes:
        parameters: of the saturation model.
        free: names of the parameters that were fitted; the others are as given.
        intervals: 95 % confidence interval of each free parameter, within its bounds; both ends are NaN where the
            parameter stopped at a bound.
        sensitivity: by how much of itself the latency changes, on average over the observations and in absolute value,
            per relative change of each parameter: 0.5 means that 1 % more of it moves the latency by 0.5 %.
        covariance: of the free parameters, in the order of `free`.
        loss: what was minimised, one of `LOSSES`.
        robust: whether outliers were held back.
        observations: how many were fitted.
        points: how many different (B, S, C) are among them.
        cost: the loss at the solution, half the sum over observations.
        problems: why the fit should not be trusted, in plain words; empty when nothing speaks against it.
        notes: what else a reader should know.
    """

    parameters: SaturationParameters
    free: tuple[str, ...]
    intervals: Mapping[str, tuple[float, float]]
    sensitivity: Mapping[str, float]
    covariance: Floats
    loss: str
    robust: bool
    observations: int
    points: int
    cost: float
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def degenerate(self) -> bool:
        """Whether the observations do not determine the parameters."""
        return bool(self.problems)


def fit(
    observations: Observations,
    *,
    loss: str = "relative",
    robust: bool = True,
    fixed: Mapping[str, float] | None = None,
    start: SaturationParameters | None = None,
    random: int = 48,
    seed: int = 0,
    weights: Floats | None = None,
    base: SaturationParameters | None = None,
    pull: float = 0.0,
    experts: bool = False,
) -> Fit:
    """Fit the saturation model by bounded non-linear least squares.

    It starts from the document's initial values and from the best of some random points, and keeps the lowest minimum.
    P_max, w_0 and w_1 appear only as ratios, so w_1 is 1 unless `fixed` says otherwise.

    Args:
        observations: usable ones (see `Observations.cleaned`), at least one.
        loss: one of `LOSSES`.
        robust: let residuals well beyond `OUTLIER` count linearly rather than by their square.
        fixed: values of parameters that are not fitted, by name; `{"tau_c": 0.0}` is the documents' model.
        start: another starting point.
        random: random starts that are looked at, >= 0; 0 follows `start` alone, for a quick refit from near by.
        seed: of the random starts.
        weights: of the observations, >= 0 and not all 0, shape (n,).
        base: parameters that the fit is pulled to.
        pull: strength of the pull, >= 0: what a squared distance of 1 adds to the sum of squares, where a distance of 1
            is a factor e in p_max, k_b and k_s, and a median latency's worth of another parameter.
        experts: fit the term of a mixture of experts, tau_e and s_e, too; then w_0 is 0 unless `fixed` says otherwise,
            since steps of few tokens cannot tell it from the other fixed times.

    Raises:
        ValueError: no observations, unusable ones, or an argument is outside its bound.

    Source: throughput saturation document, fit.
    """
    fixed = _checked(observations, loss, fixed, weights, pull)
    for name, value in (("w_0", 0.0),) if experts else (("tau_e", 0.0), ("s_e", 64.0)):
        fixed.setdefault(name, value)
    start, base = (given and _with_work(given, fixed.get("w_1")) for given in (start, base))
    problem = Problem(observations, loss, fixed, weights, base, pull)
    outlier = OUTLIER if robust else None
    cost, u = _lowest(problem, start, random, seed, outlier)
    return _told(problem, u, cost, loss=loss, robust=robust)


def _lowest(
    problem: Problem, start: SaturationParameters | None, random: int, seed: int, outlier: float | None
) -> tuple[float, Floats]:
    """The lowest minimum that the starts lead to: its loss and its coordinates."""
    count = len(problem.observations)
    rows = np.unique(np.linspace(0, count - 1, min(count, _ROWS)).astype(np.intp))
    few = problem if len(rows) == count else problem.part(rows)
    starts = [document_start(problem.observations)] if start is None or random else []
    if start is not None:
        starts.append(start.as_array())
    starts += list(random_starts(few, random, np.random.default_rng(seed), outlier)[:_FINISHED])
    minima: list[tuple[float, Floats]] = []
    for u in map(problem.coordinates, starts):
        minima.append(minimum(few, u, outlier, _ROUGHLY))
        lowest_loss = min(value for value, _ in minima)
        if sum(value <= (1 + _EQUAL) * lowest_loss for value, _ in minima) == _AGREEING:
            break
    found = [minimum(problem, u, outlier, damping=_LITTLE_DAMPING) for u in _rivals(minima)]
    return min(found, key=lambda one: one[0])


def _told(problem: Problem, u: Floats, cost: float, *, loss: str, robust: bool) -> Fit:
    """A minimum, put onto the bounds that it has reached, and how far to trust it."""
    outlier = OUTLIER if robust else None
    best = problem.parameters(u)
    lowest, highest = at_bounds(problem, best)
    low, high = problem.bounds()
    best = problem.parameters(np.where(lowest, low, np.where(highest, high, problem.coordinates(best))))
    spread = covariance(problem, best, outlier)
    ranges = intervals(problem, best, spread)
    points = int(problem.points.max()) + 1
    free = tuple(NAMES[place] for place in problem.free)
    values = {name: float(best[place]) for name, place in zip(free, problem.free, strict=True)}
    at_lowest, at_highest = tuple(compress(free, lowest)), tuple(compress(free, highest))
    return Fit(
        parameters=SaturationParameters(*map(float, best)),
        free=free,
        intervals=ranges,
        sensitivity=sensitivity(problem, best),
        covariance=spread,
        loss=loss,
        robust=robust,
        observations=len(problem.observations),
        points=points,
        cost=cost,
        problems=problems_of(problem.observations, points, values, ranges, at_lowest, at_highest),
        notes=notes_on(values, ranges, at_lowest, at_highest),
    )


def _checked(
    observations: Observations,
    loss: str,
    fixed: Mapping[str, float] | None,
    weights: Floats | None,
    pull: float,
) -> dict[str, float]:
    """What is fixed, once the arguments are known to be in order."""
    lookup(LOSSES, loss, "loss")
    if len(observations) == 0:
        raise ValueError("no observations to fit")
    if not observations.usable:
        raise ValueError("observations hold values that no fit can use; take what `cleaned` returns")
    if weights is not None and not (
        np.shape(weights) == (len(observations),) and np.all(np.isfinite(weights) & (weights >= 0)) and np.any(weights)
    ):
        raise ValueError(f"weights must be {len(observations)} finite numbers >= 0, not all of them 0")
    if not (pull >= 0 and math.isfinite(pull)):
        raise ValueError(f"pull is {pull}; it must be >= 0")
    known = {"w_1": 1.0} | {name: float(value) for name, value in (fixed or {}).items()}
    for name, value in known.items():
        low, high = lookup(FEASIBLE, name, "latency parameter")
        if not low <= value <= high:
            raise ValueError(f"{name} is fixed at {value}; it must be from {low} to {high}")
    if not np.any(observations.context_tokens):
        known.setdefault("tau_c", 0.0)
    return known


def _with_work(parameters: SaturationParameters, w_1: float | None) -> SaturationParameters:
    """The same latencies with another work per token, as a fit with fixed `w_1` can compare and start from."""
    if w_1 is None:
        return parameters
    ratio = w_1 / parameters.w_1
    return replace(parameters, p_max=parameters.p_max * ratio, w_0=parameters.w_0 * ratio, w_1=w_1)


def _rivals(minima: list[tuple[float, Floats]]) -> list[Floats]:
    """The points of the lowest minima, but one of each loss.

    Args:
        minima: each with its loss.
    """
    losses: list[float] = []
    kept = []
    for loss, u in sorted(minima, key=lambda one: one[0]):
        if not losses or (1 + _EQUAL) * losses[-1] < loss < _RIVAL * losses[0]:
            losses.append(loss)
            kept.append(u)
    return kept
