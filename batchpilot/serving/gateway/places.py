"""Places at the upstream of tenants that have a ceiling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from batchpilot.core.tenants import TenantTerms


class Places:
    """Who of the tenants is at its ceiling.

    Args:
        terms: by user.

    Attributes:
        taken: users who have no place left.
    """

    def __init__(self, terms: Mapping[str, TenantTerms]) -> None:
        self._ceilings = {user: tenant.max_running for user, tenant in terms.items() if tenant.max_running is not None}
        self._inside: Counter[str] = Counter()
        self.taken: set[str] = set()

    def take(self, user: str) -> None:
        """One of a user's requests goes to the upstream.

        Args:
            user: whose.
        """
        if user in self._ceilings:
            self._inside[user] += 1
            if self._inside[user] >= self._ceilings[user]:
                self.taken.add(user)

    def give_back(self, user: str) -> None:
        """It has left the upstream.

        Args:
            user: whose it was.
        """
        if user in self._ceilings:
            self._inside[user] -= 1
            if self._inside[user] < self._ceilings[user]:
                self.taken.discard(user)
