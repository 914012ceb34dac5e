"""The loss that every update rule lowers: relative, robust, pulled towards the base, in coordinates of one scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchpilot.latency.model.saturation import N_PARAMETERS
from batchpilot.latency.online.feasible import HIGHEST, LOWEST, project
from batchpilot.latency.online.kernels import log_errors, normal_equations

Array = NDArray[np.float64]

PULL = 0.01
"""Weight of the L2 pull towards the base parameters (saturation document)."""

OUTLIER = 0.2
"""Errors beyond this share of the measured time count linearly: a glitch may not move the parameters by its square."""

_N = N_PARAMETERS
_LOGS = slice(0, 3)
_FIXED = (3, 4, 10)
_EXPERTS = 9


@dataclass(frozen=True, slots=True, eq=False)
class Coordinates:
    """Parameters as numbers of which one unit always means about as much, so that one learning rate suits all.

    p_max, k_b and k_s enter by their logarithms. The others, which may be 0, are measured in the amount that changes
    the step times at hand by 100 % (root mean square). Four kinds stay as they are: w_1, since p_max, w_0 and w_1
    count only as ratios; w_0, which steps of one size cannot tell from tau_0, while it makes a step of one token cost
    more than one of forty; what does not enter the steps at hand, as tau_c without context;
    and s_e, with tau_e where that is 0: a dense model does not grow experts.

    Attributes:
        start: parameters in field order, from which those that stay are taken, shape (11,).
        unit: of each coordinate; 1 for logarithms, 0 for what stays; shape (11,).
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
        hessian, gradient, slope = np.empty((_N, _N)), np.empty(_N), np.empty(_N)
        none_is_an_outlier = np.inf
        normal_equations(start, rows, equal_weights(len(rows)), none_is_an_outlier, slope, gradient, hessian)
        effect = np.sqrt(np.diag(hessian))
        unit = np.divide(1.0, effect, out=np.zeros(_N), where=effect > 0)
        unit[_LOGS] = 1.0
        unit[list(_FIXED)] = 0.0
        if start[_EXPERTS] == 0:
            unit[_EXPERTS] = 0.0
        return cls(start, unit)

    @property
    def bounds(self) -> tuple[Array, Array]:
        """The feasible set: lowest and highest value of each coordinate, shapes (11,)."""
        return self.from_parameters(LOWEST), self.from_parameters(HIGHEST)

    def from_parameters(self, parameters: Array) -> Array:
        """Coordinates of parameters, 0 for those that stay; shape (11,).

        Args:
            parameters: in field order, shape (11,).
        """
        x = np.divide(parameters, self.unit, out=np.zeros(_N), where=self.unit > 0)
        x[_LOGS] = np.log(parameters[_LOGS])
        return x

    def to_parameters(self, x: Array) -> Array:
        """Parameters of coordinates, projected into the feasible set; shape (11,).

        Args:
            x: coordinates, shape (11,).
        """
        parameters = np.where(self.unit > 0, x * self.unit, self.start)
        parameters[_LOGS] = np.exp(x[_LOGS])
        return project(parameters)

    def slope(self, parameters: Array) -> Array:
        """Derivative of each parameter by its coordinate, shape (11,).

        Args:
            parameters: in field order, shape (11,).
        """
        slope = self.unit.copy()
        slope[_LOGS] = parameters[_LOGS]
        return slope


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
        self._slope = np.empty(_N)

    def at(self, x: Array) -> tuple[float, Array, Array]:
        """Loss, gradient (11,) and Gauss-Newton Hessian (11, 11).

        Args:
            x: coordinates, shape (11,).
        """
        gradient, hessian = np.empty(_N), np.empty((_N, _N))
        parameters = self.coordinates.to_parameters(x)
        loss = normal_equations(parameters, self._rows, self._weights, OUTLIER, self._slope, gradient, hessian)
        chain = self.coordinates.slope(parameters)
        away = x - self._base
        loss += 0.5 * self._pull * float(away @ away)
        return loss, gradient * chain + self._pull * away, hessian * np.outer(chain, chain) + self._pull * np.eye(_N)


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
