"""What a fit minimises: residuals of the saturation model and their Jacobian, in coordinates made for a solver.

A coordinate is the logarithm of a parameter that must be positive (`LOGARITHMIC`), else the parameter in units
of the observations' medians, so that all of them are near 1. Residuals are dimensionless whatever the loss.

The model is computed once for each different step (B, S, C), however often it was observed, and products of matrices as
tall as the observations are made in blocks, which linear algebra libraries leave to one thread: on tall and thin ones
more threads cost more than they bring, and on a busy machine a hundred times more.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from batchpilot.latency.fitting.observations import Observations
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.model.vectorised import steps_gradient, steps_ms

Floats = NDArray[np.float64]
Residuals = Callable[[Floats, Floats], tuple[Floats, Floats]]

_BLOCK = 800
"""Rows of a block: what is done with them and eleven columns is below where OpenBLAS starts threads."""

NAMES = tuple(field.name for field in fields(SaturationParameters))
LOGARITHMIC = ("p_max", "k_b", "k_s", "w_1", "s_e")

FEASIBLE: dict[str, tuple[float, float]] = {
    "p_max": (0.1, 1e4),
    "k_b": (1e-4, 10.0),
    "k_s": (1e-4, 1.0),
    "w_0": (0.0, np.inf),
    "w_1": (1e-6, np.inf),
    "tau_0": (0.0, np.inf),
    "tau_b": (0.0, np.inf),
    "tau_s": (0.0, np.inf),
    "tau_c": (0.0, np.inf),
    "tau_e": (0.0, np.inf),
    "s_e": (1.0, 1e5),
}
"""Lowest and highest value of each parameter. Source: throughput saturation document, projection of online updates."""

LOSSES: dict[str, str] = {
    "relative": "the logarithm of predicted over measured",
    "percentage": "predicted minus measured, over measured",
    "absolute": "predicted minus measured, over the median of the measured",
}
"""What the residual of a step is. The logarithm takes twice and half the measured time for equally wrong; a percentage
takes twice for as wrong as nothing at all, and so prefers to predict too little."""


def residuals_of(loss: str, measured_ms: Floats) -> Residuals:
    """The residuals of a loss, and their derivative by the prediction, as a function of prediction and measurement.

    Args:
        loss: one of `LOSSES`.
        measured_ms: all measured latencies, for the median.
    """
    if loss == "relative":
        return lambda predicted, measured: (np.log(predicted / measured), 1.0 / predicted)
    if loss == "percentage":
        return lambda predicted, measured: (predicted / measured - 1.0, 1.0 / measured)
    per_ms = 1.0 / float(np.median(measured_ms))
    return lambda predicted, measured: ((predicted - measured) * per_ms, np.full(len(measured), per_ms))


def losses_of(off: Floats, outlier: float | None) -> Floats:
    """What residuals come to.

    Args:
        off: the residuals, shape (..., n).
        outlier: scale beyond which a residual counts linearly; None for squares alone.

    Returns:
        Shape (...).
    """
    if outlier is None:
        return np.asarray(np.sum(off**2, axis=-1) / 2)
    return np.asarray(outlier**2 * np.sum(np.sqrt(1.0 + (off / outlier) ** 2) - 1.0, axis=-1))


def blocks(columns: int) -> Iterator[slice]:
    """Parts of a tall matrix that are small enough for one thread.

    Args:
        columns: how many there are together.
    """
    return (slice(start, start + _BLOCK) for start in range(0, columns, _BLOCK))


def product(a: Floats, b: Floats) -> Floats:
    """The product a b' of two matrices that are wide and low, in one thread.

    Args:
        a: shape (i, n).
        b: shape (j, n).

    Returns:
        Shape (i, j).
    """
    return sum((a[:, part] @ b[:, part].T for part in blocks(a.shape[1])), np.zeros((len(a), len(b))))


class Problem:
    """One least-squares problem: observations, a loss, and which parameters are free.

    Args:
        observations: usable ones, at least one.
        loss: one of `LOSSES`.
        fixed: values of the parameters that are not free.
        weights: of the observations, >= 0, shape (n,); None for 1 each.
        base: parameters that the free ones are pulled to.
        pull: strength of the pull, >= 0: what a squared distance of 1 in the coordinates adds to the sum of squares.

    Attributes:
        free: places of the free parameters in field order.
        units: what one unit of each coordinate is, 1 for the logarithmic ones, shape (11,).
        roots: square roots of the weights, shape (n,).
        points: number of the point (B, S, C) that each observation repeats, from 0, shape (n,).
    """

    def __init__(
        self,
        observations: Observations,
        loss: str,
        fixed: Mapping[str, float],
        weights: Floats | None = None,
        base: SaturationParameters | None = None,
        pull: float = 0.0,
    ) -> None:
        self.observations = observations
        self.fixed = dict(fixed)
        self.residuals = residuals_of(loss, observations.latency_ms)
        self.roots = np.ones(len(observations)) if weights is None else np.sqrt(weights)
        self.free = np.array([place for place, name in enumerate(NAMES) if name not in fixed], dtype=np.intp)
        self._number_points(observations.points)
        B, S, C = map(_median, (observations.batch_size, observations.tokens, observations.context_tokens))
        T = _median(observations.latency_ms)
        self.units = np.array([1.0, 1.0, 1.0, S, 1.0, T, T / B, T / S, T / C, T, 1.0])
        self._target = None if base is None or pull == 0 else self.coordinates(base.as_array())
        self._pull = float(np.sqrt(pull))

    def part(self, rows: NDArray[np.intp]) -> Problem:
        """The same problem with some of the observations, in the same units; a pull weighs as much as beside all.

        Args:
            rows: their indices.
        """
        part = copy.copy(self)
        part.observations, part.roots = self.observations[rows], self.roots[rows]
        part._number_points(np.unique(self.points[rows], return_inverse=True)[1])
        part._pull = self._pull * float(np.sqrt(len(rows) / len(self.observations)))
        return part

    def bounds(self) -> tuple[Floats, Floats]:
        """Lowest and highest coordinates of the free parameters."""
        low, high = _FEASIBLE
        return self.coordinates(low), self.coordinates(high)

    def coordinates(self, p: Floats) -> Floats:
        """The coordinates of parameters.

        Args:
            p: in field order, shape (11,).

        Returns:
            Shape (number of free parameters,).
        """
        scaled = p / self.units
        scaled[_LOGARITHMIC] = np.log(scaled[_LOGARITHMIC])
        free: Floats = scaled[self.free]
        return free

    def parameters(self, u: Floats) -> Floats:
        """The parameters at coordinates `u`, in field order, shape (11,)."""
        scaled = np.zeros(len(NAMES))
        scaled[self.free] = u
        scaled[_LOGARITHMIC] = np.exp(scaled[_LOGARITHMIC])
        # The exponential of a bound's logarithm may lie a hair outside it.
        p: Floats = np.clip(scaled * self.units, *_FEASIBLE)
        for name, value in self.fixed.items():
            p[NAMES.index(name)] = value
        return p

    def residual_vector(self, u: Floats) -> Floats:
        """Weighted residuals at `u`, then one per free parameter where there is a pull."""
        off = self.roots * self.residuals(self.predict(self.parameters(u)), self.observations.latency_ms)[0]
        return off if self._target is None else np.concatenate([off, self._pull * (u - self._target)])

    def pulled(self, points: Floats) -> Floats:
        """Residuals of the pull at parameters in field order, shape (n, 11); shape (n, free), or (n, 0) without one."""
        if self._target is None:
            return np.empty((len(points), 0))
        at = np.array([self.coordinates(p) for p in points]).reshape(len(points), len(self.free))
        return self._pull * (at - self._target)

    def jacobian(self, u: Floats) -> Floats:
        """Derivative of `residual_vector` by the coordinates."""
        p = self.parameters(u)
        by_prediction = self.roots * self.residuals(self.predict(p), self.observations.latency_ms)[1]
        _, slopes = self._linear_at(p)
        rows: Floats = self._of_observations(slopes) * self.per_coordinate(p)[:, None]
        rows *= by_prediction
        return rows.T if self._target is None else np.vstack([rows.T, self._pull * np.eye(len(u))])

    def loss(self, u: Floats, outlier: float | None) -> float:
        """What is minimised.

        Args:
            u: where.
            outlier: scale beyond which a residual counts linearly; None for squares alone.
        """
        return float(losses_of(self.residual_vector(u), outlier))

    def normal_equations(self, u: Floats, outlier: float | None) -> tuple[float, Floats, Floats]:
        """The loss, its slope and its curvature as far as first derivatives of the model tell it.

        Args:
            u: where.
            outlier: as of `loss`.

        Returns:
            The loss, its derivative, shape (free,), and its second, shape (free, free).
        """
        p = self.parameters(u)
        predicted, slopes = self._linear_at(p)
        off, by_prediction = self.residuals(self._of_observations(predicted), self.observations.latency_ms)
        off, by_prediction = off * self.roots, by_prediction * self.roots
        loss, first, second = _influence(off, outlier)
        first, second = self._of_steps(first * by_prediction), self._of_steps(second * by_prediction**2)
        per_coordinate, weighted = self.per_coordinate(p), self._weighted
        np.multiply(slopes, second, out=weighted[:-1])
        weighted[-1] = first
        both = product(weighted, slopes) * per_coordinate
        curvature, slope = both[:-1] * per_coordinate[:, None], both[-1]
        if self._target is not None:
            more, first, second = _influence(self._pull * (u - self._target), outlier)
            loss += more
            slope = slope + self._pull * first
            curvature = curvature + np.diag(self._pull**2 * second)
        return loss, slope, curvature

    def per_coordinate(self, p: Floats) -> Floats:
        """Derivative of each free parameter by its coordinate."""
        change: Floats = np.where(_LOGARITHMIC, p, self.units)[self.free]
        return change

    def predict(self, p: Floats) -> Floats:
        """Latency of every observed step in ms."""
        steps = self._steps
        latency_ms = np.empty(len(steps))
        steps_ms(p, steps.batch_size, steps.tokens, steps.context_tokens, latency_ms)
        return self._of_observations(latency_ms)

    def sensitivity(self, p: Floats) -> Floats:
        """Mean over the observations of |dT/dtheta * theta / T| for each free parameter, shape (free,).

        Args:
            p: where, in field order.
        """
        predicted, slopes = self._linear_at(p)
        times = np.bincount(self.points) if self._repeats else np.ones(len(predicted))
        # Each derivative has one sign, whatever the step.
        sums = product(slopes, (times / predicted)[None])[:, 0]
        shares: Floats = np.abs(sums * p[self.free]) / len(self.observations)
        return shares

    def _number_points(self, points: NDArray[np.intp]) -> None:
        self.points = points
        repeats = int(points.max()) + 1 < len(points)
        self._steps = self.observations[np.unique(points, return_index=True)[1]] if repeats else self.observations
        self._repeats = repeats
        # Memory of this size is new to the process each time it is asked for, which costs more than what is done in it.
        count = len(self._steps)
        self._gradient = np.empty((len(NAMES), count))
        self._slopes, self._weighted = (np.empty((len(self.free) + more, count)) for more in (0, 1))

    def _linear_at(self, p: Floats) -> tuple[Floats, Floats]:
        """Latency of every different step, shape (steps,), and its derivatives by the free parameters, (free, steps).

        The derivatives are overwritten by the next call.
        """
        steps = self._steps
        steps_gradient(p, steps.batch_size, steps.tokens, steps.context_tokens, self._gradient)
        # The latency is linear in these parameters, so their derivatives give it back.
        predicted = np.einsum("i,ij->j", p[3:10], self._gradient[3:10])
        np.take(self._gradient, self.free, axis=0, out=self._slopes, mode="clip")
        return predicted, self._slopes

    def _of_observations(self, of_steps: Floats) -> Floats:
        """What holds of different steps for each observation."""
        return of_steps[..., self.points] if self._repeats else of_steps

    def _of_steps(self, of_observations: Floats) -> Floats:
        """The sum over each step's observations."""
        if not self._repeats:
            return of_observations
        sums: Floats = np.bincount(self.points, of_observations, len(self._steps)).astype(np.float64, copy=False)
        return sums


def _influence(off: Floats, outlier: float | None) -> tuple[float, Floats, Floats]:
    """The loss of residuals, and its first and second derivatives by each."""
    if outlier is None:
        return float(np.sum(off * off)) / 2, off, np.ones_like(off)
    root = np.sqrt(1.0 + (off / outlier) ** 2)
    return float(np.sum(root - 1.0)) * outlier**2, off / root, 1.0 / (root * root * root)


_FEASIBLE = np.array([FEASIBLE[name] for name in NAMES]).T
_LOGARITHMIC = np.array([name in LOGARITHMIC for name in NAMES])


def _median(values: Floats) -> float:
    """Median of the values above 0, 1 when there are none: prefills read no context."""
    positive = values[values > 0]
    return float(np.median(positive)) if positive.size else 1.0
