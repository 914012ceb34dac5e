"""The loss that every update rule lowers: relative, robust, pulled towards the base, in coordinates of one scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchpilot.latency.online.feasible import HIGHEST, LOWEST, project
from batchpilot.latency.online.kernels import log_errors, normal_equations

Array = NDArray[np.float64]

PULL = 0.01
"""Weight of the L2 pull towards the base parameters (saturation document)."""

OUTLIER = 0.2
"""Errors beyond this share of the measured time count linearly: a glitch may not move the parameters by its square."""

FREE = np.array([0, 1, 2, 3, 5, 6, 7, 8])
"""The parameters that adapt, in field order: all but w_1."""

_LOGS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Coordinates:
    """Parameters as eight numbers of which one unit means about the same: once, or e times, the whole step time.

    p_max, k_b and k_s enter by their logarithms. The others, which may be 0, are measured in the amount that changes
    the step times at hand by 100 % (root mean square); one that does not enter them (tau_c without context) stays.

    Attributes:
        start: parameters in field order from which those that stay are taken, shape (9,).
        unit: of each coordinate; 1 for logarithms, 0 for what stays; shape (8,).
    """

    start: Array
    unit: Array

    @classmethod
    def of(cls, rows: Array, start: Array) -> Coordinates:
        """The coordinates that suit some observations.

        Args:
            rows: columns B, S, C, T; at least one row.
            start: parameters in field order, feasible.
        """
        hessian, gradient, slope = np.empty((8, 8)), np.empty(8), np.empty(8)
        everyone_counts = np.inf
        weights = np.full(len(rows), 1.0 / len(rows))
        normal_equations(start, rows, weights, everyone_counts, slope, gradient, hessian)
        effect = np.sqrt(np.diag(hessian))
        unit = np.divide(1.0, effect, out=np.zeros(8), where=effect > 0)
        unit[:_LOGS] = 1.0
        return cls(start, unit)

    @property
    def bounds(self) -> tuple[Array, Array]:
        """The feasible set: lowest and highest value of each coordinate, shapes (8,)."""
        return self.from_parameters(LOWEST), self.from_parameters(HIGHEST)

    def from_parameters(self, parameters: Array) -> Array:
        """Coordinates of parameters.

        Args:
            parameters: in field order, shape (9,).
        """
        free = parameters[FREE]
        x = np.divide(free, self.unit, out=np.zeros(8), where=self.unit > 0)
        x[:_LOGS] = np.log(free[:_LOGS])
        return np.asarray(x)

    def to_parameters(self, x: Array) -> Array:
        """Parameters of coordinates, projected into the feasible set; shape (9,).

        Args:
            x: coordinates, shape (8,).
        """
        parameters = self.start.copy()
        moved = x * self.unit
        moved[:_LOGS] = np.exp(x[:_LOGS])
        parameters[FREE] = np.where(self.unit > 0, moved, parameters[FREE])
        return project(parameters)


class RelativeLoss:
    """Mean Huber loss of log(predicted / measured) plus half of `pull` times the squared distance from the base.

    The logarithm is the relative error to first order, and treats twice and half as alike.

    Args:
        rows: columns B, S, C, T, C-contiguous; at least one row.
        weights: of the rows, summing to 1.
        coordinates: in which it is differentiated.
        base: parameters in field order that it is pulled towards.
        pull: weight of the pull, >= 0.
    """

    def __init__(self, rows: Array, weights: Array, coordinates: Coordinates, base: Array, pull: float = PULL) -> None:
        self.coordinates = coordinates
        self._rows = rows
        self._weights = weights
        self._pull = pull
        self._base = coordinates.from_parameters(base)
        self._slope = np.empty(8)

    def at(self, x: Array) -> tuple[float, Array, Array]:
        """Loss, gradient (8,) and Gauss-Newton Hessian (8, 8).

        Args:
            x: coordinates, shape (8,).
        """
        gradient, hessian, unit = np.empty(8), np.empty((8, 8)), self.coordinates.unit
        parameters = self.coordinates.to_parameters(x)
        loss = normal_equations(parameters, self._rows, self._weights, OUTLIER, self._slope, gradient, hessian)
        away = np.where(unit > 0, x - self._base, 0.0)
        loss += 0.5 * self._pull * float(away @ away)
        return loss, gradient * unit + self._pull * away, hessian * np.outer(unit, unit) + self._pull * np.eye(8)


def equal_weights(count: int) -> Array:
    """Weights that sum to 1, shape (count,).

    Args:
        count: >= 1.
    """
    return np.full(count, 1.0 / count)


def signed_errors(parameters: Array, rows: Array) -> Array:
    """log(predicted / measured) of each row, shape (n,): negative where the step took longer than predicted.

    Args:
        parameters: in field order.
        rows: columns B, S, C, T, shape (n, 4).
    """
    errors = np.empty(len(rows))
    log_errors(parameters, rows, errors)
    return errors
