"""How evenly an engine served its users: Jain's index (Jain, Chiu and Hawe 1984)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.tenants import ORDINARY, TenantTerms
from batchpilot.engines.simulated.result import SimulationResult
from batchpilot.latency.planning.fair_shares import jain_index


def served_by_user(result: SimulationResult) -> dict[int, tuple[int, int]]:
    """Output tokens that each user was served within SLO, and that it asked for.

    Args:
        result: of a run.
    """
    users, codes = np.unique(result.requests.user, return_inverse=True)
    served = np.bincount(codes, result.generated_tokens * result.slo_met, len(users))
    asked = np.bincount(codes, result.requests.output_tokens, len(users))
    return {int(user): (int(served[k]), int(asked[k])) for k, user in enumerate(users)}


def tenant_figures(result: SimulationResult, terms: Mapping[int, TenantTerms]) -> dict[str, float]:
    """How tenants with terms of their own fared, for tables.

    Args:
        result: of a run.
        terms: by user; nothing is told where there are none.

    Returns:
        Of each user: the share of its own demand that it was served within SLO, its share of all that was served so,
        and the 95th percentile of its TTFT in ms; and Jain's index over what was served by weight.
    """
    if not terms:
        return {}
    by_user = served_by_user(result)
    all_served = sum(served for served, _ in by_user.values())
    figures = {"fairness_by_weight": fairness(result, {user: terms.get(user, ORDINARY).weight for user in by_user})}
    for user, (served, asked) in by_user.items():
        ttft_ms = result.ttft_ms[result.requests.user == user]
        known = ttft_ms[np.isfinite(ttft_ms)]
        figures[f"user_{user}_served_of_demand"] = served / asked if asked else math.nan
        figures[f"user_{user}_share_of_served"] = served / all_served if all_served else math.nan
        figures[f"user_{user}_ttft_p95_ms"] = float(np.percentile(known, 95)) if len(known) else math.nan
    return figures


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
