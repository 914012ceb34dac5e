"""Terms of the tenants who share an engine: a weight in fair sharing, a ceiling of requests that run at once."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TenantTerms:
    """What one tenant may take.

    Attributes:
        weight: its share under the discipline `fair` is in proportion to it, > 0.
        max_running: most of its requests that run at a time, >= 1; further ones wait while others pass. None for no
            ceiling.

    Raises:
        ValueError: a value is outside its bound; the message names it.
    """

    weight: float = 1.0
    max_running: int | None = None

    def __post_init__(self) -> None:
        weight, most = self.weight, self.max_running
        if not (type(weight) in (int, float) and 0 < weight < math.inf):
            raise ValueError(f"weight is {weight!r}; it must be a number above 0")
        if most is not None and (type(most) is not int or most < 1):
            raise ValueError(f"max_running is {most!r}; it must be a whole number >= 1, or None for no ceiling")


ORDINARY = TenantTerms()
"""Of a tenant of whom nothing is said."""


def read_terms(told: object, where: str) -> dict[str, TenantTerms]:
    """Terms by tenant from plain data such as a YAML file holds: `{alice: {weight: 2, max_running: 8}}`.

    Args:
        told: the data.
        where: it comes from, for messages.

    Raises:
        ValueError: not a mapping of mappings, an unknown key, or a value outside its bound; the message names tenant
            and place.
    """
    if not isinstance(told, Mapping):
        raise ValueError(f"{where} holds {told!r}; it must say for each tenant its weight and max_running")
    known = tuple(TenantTerms.__dataclass_fields__)
    terms: dict[str, TenantTerms] = {}
    for name, values in told.items():
        if not isinstance(values, Mapping) or set(values) - set(known):
            raise ValueError(f"tenant {name} in {where} has {values!r}; allowed are {' and '.join(known)}")
        given: dict[str, Any] = dict(values)
        try:
            terms[str(name)] = TenantTerms(**given)
        except ValueError as error:
            raise ValueError(f"tenant {name} in {where}: {error}") from error
    return terms


def has_ceiling(terms: Mapping[Hashable, TenantTerms] | Mapping[int, TenantTerms]) -> bool:
    """Whether any tenant has one.

    Args:
        terms: by tenant.
    """
    return any(tenant.max_running is not None for tenant in terms.values())
