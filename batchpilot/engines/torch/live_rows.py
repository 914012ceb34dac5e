"""Rows of a scheduler's state that requests enter and leave, so that a server runs for ever in the same memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.tenants import ORDINARY, TenantTerms, has_ceiling
from batchpilot.engines.scheduler.state import OFF_TOKENS, SchedulerState


class UserSlots:
    """Numbers for users, of whom a server meets any number while fair sharing keeps an array by user.

    Args:
        users: records of `USER`; a slot's is forgotten when another user gets it.
        terms: by user; the others' are the ordinary ones.
    """

    def __init__(self, users: NDArray[np.void], terms: Mapping[Hashable, TenantTerms] | None = None) -> None:
        self._users, self._terms = users, terms or {}
        self._slots: OrderedDict[Hashable, int] = OrderedDict()
        self._free = list(range(len(users)))
        self._requests: NDArray[np.int64] = np.zeros(len(users), np.int64)

    def enter(self, user: Hashable) -> int:
        """A user's slot, for one more request; there must not be more requests than slots.

        Args:
            user: any name.
        """
        if user not in self._slots:
            slot = self._free.pop() if self._free else self._forget_idle()
            tenant = self._terms.get(user, ORDINARY)
            ceiling = OFF_TOKENS if tenant.max_running is None else tenant.max_running
            self._users[slot] = (0.0, tenant.weight, ceiling, 0, 0)
            self._slots[user] = slot
        self._slots.move_to_end(user)
        slot = self._slots[user]
        self._requests[slot] += 1
        return slot

    def leave(self, slot: int) -> None:
        """A request of a slot's user has ended.

        Args:
            slot: what `enter` returned.
        """
        self._requests[slot] -= 1

    def _forget_idle(self) -> int:
        """The slot of the user without requests who was seen longest ago."""
        user = next(user for user, slot in self._slots.items() if self._requests[slot] == 0)
        return self._slots.pop(user)


class LiveRows:
    """Which request is in which row.

    Args:
        row: the scheduler's arrays, loaded without requests.
        terms: of tenants, by user.
    """

    def __init__(self, row: SchedulerState, terms: Mapping[Hashable, TenantTerms] | None = None) -> None:
        self._clock = np.asarray(row.clock)[0]
        self._records = np.asarray(row.requests)
        self._ended = np.asarray(row.slots)["ended"]
        self._users = UserSlots(np.asarray(row.users), terms)
        self._clock["ceilings"] = has_ceiling(terms or {})
        self._free = list(range(len(self._records)))
        self._row_of: dict[int, int] = {}
        self._request_in = [-1] * len(self._records)
        self._entered = 0
        self._left = int(self._clock["n_ended"])

    def __len__(self) -> int:
        return len(self._row_of)

    def __contains__(self, request: int) -> bool:
        return request in self._row_of

    @property
    def full(self) -> bool:
        """Whether no row is free."""
        return not self._free

    def row_of(self, request: int) -> int:
        """The row of a request that has not left.

        Args:
            request: its id.
        """
        return self._row_of[request]

    def find(self, request: int) -> int | None:
        """The row of a request, None if it has left.

        Args:
            request: its id.
        """
        return self._row_of.get(request)

    def request_in(self, r: int) -> int:
        """The id of the request in a row.

        Args:
            r: a row that is not free.
        """
        return self._request_in[r]

    def enter(self, user: Hashable, values: dict[str, float]) -> tuple[int, int]:
        """Put a request into a free row.

        Args:
            user: whose it is.
            values: fields of its record of `REQUEST`; the others start at zero, its times at NaN.

        Returns:
            Its id, which is not given again, and its row.
        """
        r = self._free.pop()
        record = np.zeros((), self._records.dtype)
        record["first_ms"] = record["finish_ms"] = np.nan
        record["user"] = self._users.enter(user)
        for name, value in values.items():
            record[name] = value
        self._records[r] = record
        request = self._entered
        self._entered += 1
        self._row_of[request] = r
        self._request_in[r] = request
        return request, r

    def ended(self) -> list[int]:
        """Rows of the requests that have ended and not left, in order of their end."""
        ends = np.arange(self._left, int(self._clock["n_ended"]))
        rows: list[int] = self._ended[ends % len(self._ended)].tolist()
        return rows

    def leave(self, rows: Iterable[int]) -> None:
        """Free the rows of requests that have ended.

        Args:
            rows: the first of those that `ended` tells.
        """
        for r in rows:
            self._users.leave(int(self._records["user"][r]))
            del self._row_of[self._request_in[r]]
            self._free.append(r)
            self._left += 1
