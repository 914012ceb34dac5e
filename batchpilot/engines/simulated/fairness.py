"""How evenly an engine served its users: Jain's index (Jain, Chiu and Hawe 1984)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchpilot.engines.simulated.simulation import SimulationResult


def jain_index(shares: ArrayLike) -> float:
    """(sum x)^2 / (n sum x^2): 1 when all get the same, 1 / n when one gets everything.

    Args:
        shares: what each gets, >= 0, shape (n,).

    Returns:
        It; NaN for nobody, 1 when nobody gets anything.

    Raises:
        ValueError: a share is negative or not finite.
    """
    given = np.asarray(shares, dtype=np.float64)
    if given.size and not (np.isfinite(given).all() and given.min() >= 0):
        raise ValueError("shares hold a value that is not finite or below 0")
    if given.size == 0:
        return math.nan
    largest = float(given.max())
    if largest == 0:
        return 1.0
    scaled = given / largest
    return float(scaled.sum() ** 2 / (given.size * np.square(scaled).sum()))


def served_by_user(result: SimulationResult) -> dict[int, tuple[int, int]]:
    """Output tokens that each user was served within SLO, and that it asked for.

    Args:
        result: of a run.
    """
    users, codes = np.unique(result.requests.user, return_inverse=True)
    served = np.bincount(codes, result.generated_tokens * result.slo_met, len(users))
    asked = np.bincount(codes, result.requests.output_tokens, len(users))
    return {int(user): (int(served[k]), int(asked[k])) for k, user in enumerate(users)}


def fairness(result: SimulationResult, weights: Mapping[int, float] | None = None) -> float:
    """Jain's index over users.

    Without weights, of the share of its own demand that each was served: who asks for more may get more. With
    weights, of served tokens over weight, as a scheduler that divides by weight aims at.

    Args:
        result: of a run.
        weights: by user, > 0; all of the run's users.

    Raises:
        ValueError: a user has no weight, or one that is not above 0.
    """
    shares: list[float] = []
    for user, (served, asked) in served_by_user(result).items():
        weight = float(asked) if weights is None else weights.get(user, math.nan)
        if weights is not None and not weight > 0:
            raise ValueError(f"the weight of user {user} is {weights.get(user)}; it must be above 0")
        if weight > 0:
            shares.append(served / weight)
    counted: NDArray[np.float64] = np.array(shares)
    return jain_index(counted)
