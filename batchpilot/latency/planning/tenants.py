"""Sharing one engine's tokens between tenants: guaranteed quotas first, then priorities, then weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.planning.inverse import sla_inverse


@dataclass(frozen=True, slots=True)
class Tenant:
    """One of those who share an engine. Tokens per step or per second, as long as all say the same.

    Attributes:
        name: unlike the others'.
        demand_tokens: what it asks for, >= 0.
        quota_tokens: what it is guaranteed if it asks for as much, >= 0.
        ceiling_tokens: the most it may get, >= its quota; None for no ceiling.
        priority: a smaller number is served first, as in `workloads.PRIORITIES`.
        weight: its share among those of equal priority, > 0.

    Raises:
        ValueError: a value is outside its bound; the message names it.
    """

    name: str
    demand_tokens: float
    quota_tokens: float = 0.0
    ceiling_tokens: float | None = None
    priority: int = 1
    weight: float = 1.0

    def __post_init__(self) -> None:
        for field in ("demand_tokens", "quota_tokens"):
            value = getattr(self, field)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{field} of tenant {self.name} is {value}; it must be >= 0 and finite")
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"weight of tenant {self.name} is {self.weight}; it must be > 0 and finite")
        if self.ceiling_tokens is not None and not self.ceiling_tokens >= self.quota_tokens:
            raise ValueError(
                f"ceiling_tokens {self.ceiling_tokens} of tenant {self.name} is below its quota {self.quota_tokens}"
            )

    @property
    def wanted_tokens(self) -> float:
        """What it may and would take."""
        return self.demand_tokens if self.ceiling_tokens is None else min(self.demand_tokens, self.ceiling_tokens)


def share_tokens(capacity_tokens: float, tenants: Sequence[Tenant]) -> dict[str, float]:
    """Divide a capacity: quotas first, what is left class by class, within a class in proportion to weights.

    Nobody gets more than it wants, and nothing is left over while anybody wants more. Quotas that exceed the capacity
    together are served by priority too.

    Args:
        capacity_tokens: what there is, >= 0.
        tenants: who shares it.

    Returns:
        Tokens by tenant.

    Raises:
        ValueError: the capacity is negative or not finite, or two tenants have one name.

    Source: throughput saturation document, allocation between tenants with quotas and priorities.
    """
    if not (math.isfinite(capacity_tokens) and capacity_tokens >= 0):
        raise ValueError(f"capacity_tokens is {capacity_tokens}; it must be >= 0 and finite")
    names = [tenant.name for tenant in tenants]
    if len(set(names)) != len(names):
        raise ValueError(f"tenants {', '.join(names)} do not all have a name of their own")
    shares = dict.fromkeys(names, 0.0)
    guaranteed = {tenant.name: min(tenant.quota_tokens, tenant.wanted_tokens) for tenant in tenants}
    left = _serve(capacity_tokens, tenants, guaranteed, shares)
    _serve(left, tenants, {tenant.name: tenant.wanted_tokens for tenant in tenants}, shares)
    return shares


def share_step(
    parameters: SaturationParameters,
    batch_size: int,
    context_tokens: float,
    target_ms: float,
    tenants: Sequence[Tenant],
) -> dict[str, float]:
    """Divide the tokens that one step can compute within its latency target.

    Args:
        parameters: step latency.
        batch_size: requests in the step, >= 1.
        context_tokens: context tokens they read, >= 0.
        target_ms: longest step, > 0.
        tenants: who shares it, in tokens per step.

    Returns:
        Tokens by tenant, which sum to at most the SLA inverse.

    Raises:
        ValueError: an argument is outside its bound.
    """
    most = max(1, math.ceil(sum(tenant.wanted_tokens for tenant in tenants)))
    return share_tokens(float(sla_inverse(parameters, batch_size, target_ms, context_tokens, most)), tenants)


def _serve(capacity: float, tenants: Sequence[Tenant], upto: Mapping[str, float], shares: dict[str, float]) -> float:
    """Raise shares towards `upto`, one priority after the other; returns what is left."""
    for _, group in groupby(sorted(tenants, key=lambda tenant: tenant.priority), key=lambda tenant: tenant.priority):
        capacity = _fill(capacity, list(group), upto, shares)
    return capacity


def _fill(capacity: float, group: Sequence[Tenant], upto: Mapping[str, float], shares: dict[str, float]) -> float:
    """Weighted max-min within one class: those whose want is soonest met go first, the others share what they leave."""

    def rounds(tenant: Tenant) -> float:
        return (upto[tenant.name] - shares[tenant.name]) / tenant.weight

    weights = sum(tenant.weight for tenant in group)
    for tenant in sorted(group, key=rounds):
        missing = upto[tenant.name] - shares[tenant.name]
        given = max(0.0, min(missing, capacity * tenant.weight / weights))
        shares[tenant.name] += given
        capacity = max(0.0, capacity - given)
        weights -= tenant.weight
        if weights <= 0:
            break
    return capacity
