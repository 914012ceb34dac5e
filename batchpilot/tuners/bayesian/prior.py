"""A prior for Bayesian optimisation: what a twin expects of settings, and how measurements overrule it.

The value of a setting is what one of several possible servers would make of it, plus a discrepancy that the twin knows
nothing of, plus noise (Kennedy and O'Hagan 2001, Bayesian calibration of computer models). The discrepancy is a
Gaussian process whose scale is itself unknown. So trials that a twin foresaw make its word count more, and trials that
no possible server explains make the discrepancy large: near them the measured values then stand in the twin's place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from batchpilot.core.grids import NOTCHES_PER_DOUBLING

Params = Mapping[str, Any]
Values = NDArray[np.float64]

SERVERS = 5
"""Possible servers of a prior."""

DOUBT = 0.35
"""Spread of the logarithm of their step times, where nobody says better: a calibration that is off by a third."""

DISCREPANCIES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Scales of what the twin knows nothing of, alike likely before a trial; shares of the largest value expected."""

NOISE = 0.01
"""Of a trial's value, likewise: two runs of one setting on other requests."""

REACH_DOUBLINGS = 2.0
"""Over so far a discrepancy is alike."""

PENALTY = 5.0
"""Share of the largest value that a violated constraint costs, as a multiple of its violation; at most all of it."""

SHARED = 0.5
"""Part of its variance that all settings share: a twin may be wrong by as much everywhere."""


def possible_factors(doubt: float, servers: int) -> Values:
    """Factors on step times that stand for equally likely servers, shape (servers,), ascending, the middle one 1.

    Args:
        doubt: spread of the logarithm of the factor, > 0.
        servers: how many, >= 1.
    """
    from scipy.special import ndtri

    factors: Values = np.exp(doubt * ndtri((np.arange(servers) + 0.5) / servers))
    return factors


@dataclass(frozen=True, eq=False)
class Prior:
    """What is believed of settings before a trial.

    Attributes:
        params: the candidate settings, parameters of a search space, each once.
        expected: what each is worth on each possible server, shape (servers, candidates), finite.
        noise: of a trial's value, as a share of the largest expected value.

    Raises:
        ValueError: no candidate, a shape that does not fit, or a value that is not finite.
    """

    params: Sequence[Params]
    expected: Values
    noise: float = NOISE

    def __post_init__(self) -> None:
        if self.expected.ndim != 2 or self.expected.shape[1] != len(self.params) or not self.expected.size:
            raise ValueError(
                f"a prior of {len(self.params)} candidates needs values of shape (servers, {len(self.params)}), both "
                f">= 1; given: {self.expected.shape}"
            )
        if not np.isfinite(self.expected).all():
            raise ValueError("a prior's values must be finite")

    @property
    def scale(self) -> float:
        """The largest value expected anywhere, which shares are of."""
        return max(float(np.abs(self.expected).max()), 1e-9)

    def guesses(self) -> list[Params]:
        """Where trials begin: the best in expectation, then the best on a fast and on a slow server, each once."""
        servers = len(self.expected)
        rows = [self.expected.mean(axis=0), self.expected[servers // 4], self.expected[-1 - servers // 4]]
        return [self.params[place] for place in dict.fromkeys(int(np.argmax(row)) for row in rows)]

    def extended(self, params: Sequence[Params]) -> Prior:
        """The prior with further candidates, of each of which the same is expected as of the nearest.

        Args:
            params: of the same search space; those that are candidates already are left out.
        """
        new = [one for one in params if one not in self.params]
        if not new:
            return self
        return Prior([*self.params, *new], np.hstack([self.expected, self.expected[:, self.nearest(new)]]), self.noise)

    def posterior(self, told: Sequence[tuple[Params, float]]) -> Posterior:
        """What is believed after trials.

        Args:
            told: parameters and value of each.
        """
        values = np.array([value for _, value in told], np.float64)
        tried = [params for params, _ in told]
        here, there = self._positions(tried), self._positions(self.params)
        residuals = values - self.expected[:, self.nearest(tried)]
        between, across = _alike(here, here), _alike(there, here)
        means, spreads, weights = [], [], []
        for share in DISCREPANCIES:
            variance = (share * self.scale) ** 2
            mean, spread, likely = _conditioned(variance, between, across, (self.noise * self.scale) ** 2, residuals)
            means.append(self.expected + mean)
            spreads.append(np.broadcast_to(spread, self.expected.shape))
            weights.append(likely)
        likely = np.concatenate(weights)
        weight = np.exp(likely - likely.max())
        return Posterior(np.concatenate(means), np.concatenate(spreads), weight / weight.sum())

    def nearest(self, params: Sequence[Params]) -> NDArray[np.int64]:
        """The place of the candidate nearest to each of some parameters, shape (n,).

        Args:
            params: of the same search space.
        """
        if not params:
            return np.empty(0, np.int64)
        places: NDArray[np.int64] = np.argmin(_apart(self._positions(params), self._positions(self.params)), axis=1)
        return places

    def _positions(self, params: Sequence[Params]) -> NDArray[Any]:
        names = sorted(self.params[0])
        return np.array([[one[name] for name in names] for one in params], object).reshape(len(params), len(names))


@dataclass(frozen=True, eq=False)
class Posterior:
    """A mixture of Gaussians over the candidates.

    Attributes:
        means: shape (parts, candidates).
        spreads: standard deviations, likewise.
        weights: of the parts, shape (parts,), of sum 1.
    """

    means: Values
    spreads: Values
    weights: Values

    @property
    def mean(self) -> Values:
        """Expected value of each candidate, shape (candidates,)."""
        mean: Values = self.weights @ self.means
        return mean

    def improvement(self, best: float) -> Values:
        """Expected improvement of each candidate over the best so far, shape (candidates,).

        Args:
            best: value so far; minus infinity where nothing was measured, which the expected value then stands for.
        """
        if math.isinf(best):
            return self.mean
        from scipy.special import ndtr

        gain = self.means - best
        z = gain / self.spreads
        density = np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)
        improvement: Values = self.weights @ (gain * ndtr(z) + self.spreads * density)
        return improvement


def prior_of(
    candidates: Sequence[Params],
    value: Callable[[Params, float], tuple[float, float]],
    *,
    nearby: Callable[[Params], Sequence[Params]],
    doubt: float = DOUBT,
    noise: float = NOISE,
    rounds: int = 2,
) -> Prior:
    """A prior from a simulation: candidates, then what lies near the best of each possible server.

    Args:
        candidates: parameters to begin with, at least one.
        value: what parameters are worth where step times are so many times those of the twin, and by how much they
            violate constraints, 0 for not.
        nearby: the neighbours of parameters.
        doubt: spread of the logarithm of step times, > 0.
        noise: of a trial's value, as a share of the largest.
        rounds: how often what lies near the best is added.
    """
    factors = possible_factors(doubt, SERVERS)
    known: dict[tuple[Any, ...], tuple[Params, Values]] = {}

    def look(params: Params) -> None:
        key = tuple(params[name] for name in sorted(params))
        if key not in known:
            known[key] = (params, np.array([value(params, float(factor)) for factor in factors]))

    for one in candidates:
        look(one)
    for _ in range(rounds):
        rows = list(known.values())
        for server in range(SERVERS):
            for one in nearby(max(rows, key=lambda row: (-row[1][server][1], row[1][server][0]))[0]):
                look(one)
    values, violations = np.stack([told for _, told in known.values()]).T
    expected = penalised(values, violations, float(np.abs(values).max()))
    return Prior([params for params, _ in known.values()], expected, noise)


def penalised(values: Any, violations: Any, scale: float) -> Any:
    """Values less what constraints are violated by: a tenth too much costs half of the largest value.

    Args:
        values: any shape.
        violations: likewise, >= 0.
        scale: the largest value.

    Returns:
        Likewise; what violates a constraint is worth no more than `scale` before.
    """
    bounded = np.where(np.asarray(violations) > 0, np.minimum(values, scale), values)
    return bounded - scale * np.minimum(PENALTY * np.asarray(violations), 1.0)


def _apart(one: NDArray[Any], other: NDArray[Any]) -> Values:
    """Distance of positions in doublings, shape (n, m); another discipline is as far as a discrepancy reaches."""
    squares = np.zeros((len(one), len(other)))
    for a, b in zip(one.T, other.T, strict=True):
        if len(other) and isinstance(b[0], str):
            squares += (a[:, None] != b) * REACH_DOUBLINGS**2
        else:
            squares += ((a[:, None] - b).astype(np.float64) / NOTCHES_PER_DOUBLING) ** 2
    return np.sqrt(squares)


def _alike(one: NDArray[Any], other: NDArray[Any]) -> Values:
    """Correlation of the discrepancy at positions, shape (n, m)."""
    return SHARED + (1.0 - SHARED) * np.exp(-_apart(one, other) / REACH_DOUBLINGS)


def _conditioned(
    variance: float, between: Values, across: Values, noise: float, residuals: Values
) -> tuple[Values, Values, Values]:
    """The discrepancy given what each server leaves unexplained.

    Args:
        variance: of the discrepancy.
        between: its correlation among trials, shape (t, t).
        across: of candidates with trials, shape (n, t).
        noise: variance of a trial's value.
        residuals: values less what each server would have come to, shape (servers, t).

    Returns:
        Its mean, shape (servers, n), its standard deviation, shape (n,), and the logarithm of how likely the trials
        are, shape (servers,).
    """
    trials = residuals.shape[1]
    if not trials:
        return np.zeros((len(residuals), len(across))), np.full(len(across), variance**0.5), np.zeros(len(residuals))
    factor = cho_factor(variance * between + noise * np.eye(trials), lower=True)
    solved = cho_solve(factor, residuals.T)
    mean = variance * (across @ solved).T
    explained = variance**2 * np.einsum("nt,tn->n", across, cho_solve(factor, across.T))
    likely = -0.5 * np.einsum("st,ts->s", residuals, solved) - np.log(np.diag(factor[0])).sum()
    return mean, np.sqrt(np.maximum(variance - explained, 1e-6 * variance)), likely
