"""How even shares are, and sharing that may not be less even than a bound."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from batchpilot.latency.planning.tenants import Tenant, share_tokens

_HALVINGS = 40


def jain_index(shares: ArrayLike) -> float:
    """(sum x)^2 / (n sum x^2): 1 when all get the same, 1 / n when one gets everything.

    Args:
        shares: what each gets, >= 0, shape (n,).

    Returns:
        It; NaN for nobody, 1 when nobody gets anything.

    Raises:
        ValueError: a share is negative or not finite.

    Source: Jain, Chiu and Hawe 1984.
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


def evenness(shares: Mapping[str, float], tenants: Sequence[Tenant]) -> float:
    """Jain's index of the tokens for each unit of weight, over the tenants that want any.

    Args:
        shares: tokens by tenant.
        tenants: who shares.
    """
    return jain_index([shares[tenant.name] / tenant.weight for tenant in tenants if tenant.wanted_tokens > 0])


def share_fairly(capacity_tokens: float, tenants: Sequence[Tenant], least_evenness: float) -> dict[str, float]:
    """Divide a capacity as `share_tokens` does, and where that is less even than the bound, as far from it as needed.

    Priorities give way, quotas and wants do not: between what priorities give and what weights alone give, the first
    mixture is taken that keeps the bound. Where quotas and wants do not allow it, weights alone decide.

    Args:
        capacity_tokens: what there is, >= 0.
        tenants: who shares it.
        least_evenness: of `evenness`, 0 to 1.

    Returns:
        Tokens by tenant; nothing is left over while anybody wants more.

    Raises:
        ValueError: the bound is outside 0 to 1, or as `share_tokens`.

    Source: throughput saturation document, future work (allocation under a fairness constraint).
    """
    if not 0.0 <= least_evenness <= 1.0:
        raise ValueError(f"least_evenness is {least_evenness}; it must be within 0 to 1")
    ranked = share_tokens(capacity_tokens, tenants)
    level = share_tokens(capacity_tokens, [replace(tenant, priority=0) for tenant in tenants])

    def mixed(share: float) -> dict[str, float]:
        return {name: (1.0 - share) * ranked[name] + share * level[name] for name in ranked}

    if not tenants or evenness(ranked, tenants) >= least_evenness:
        return ranked
    if evenness(level, tenants) < least_evenness:
        return level
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if evenness(mixed(middle), tenants) >= least_evenness else (middle, high)
    return mixed(high)
