"""A fleet over time: requests routed, replicas tuned, scaled, struck by faults. Times in ms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchpilot.engines.scheduler.state import FAILED, REFUSED_ARRIVAL
from batchpilot.fleet.arrays import BROKEN_OFF, LIMITED, NOBODY, UNREACHED, UNROUTED
from batchpilot.fleet.door import Door
from batchpilot.fleet.faults import Faults
from batchpilot.fleet.rate_limit import RateLimit
from batchpilot.fleet.replicas import Replicas
from batchpilot.fleet.result import FleetResult, Moment, result_of
from batchpilot.fleet.routers import Router
from batchpilot.fleet.scalers import Scaler
from batchpilot.fleet.scaling import Scaling, rows_of, scaled_kinds
from batchpilot.fleet.spec import BOTH, ROLES, Fault, Link, ReplicaSpec
from batchpilot.workloads.table import RequestTable

HEALTH_MS = 5000.0
"""How long a replica must have been silent before a health check takes it out."""


def simulate_fleet(
    requests: RequestTable,
    replicas: ReplicaSpec | Sequence[ReplicaSpec],
    router: Router | str = "least-requests",
    *,
    link: Link | None = None,
    scaler: Scaler | None = None,
    least: int = 1,
    most: int = 8,
    scaled: Mapping[str, int] | None = None,
    faults: Sequence[Fault] = (),
    rate_limits: RateLimit | Mapping[int, RateLimit] | None = None,
    versions: ArrayLike | None = None,
    window_ms: float = 1000.0,
    health_ms: float = HEALTH_MS,
    horizon_ms: float | None = None,
    seed: int = 0,
) -> FleetResult:
    """Serve requests with several replicas of the one scheduler.

    Args:
        requests: what arrives, in an open loop but for turns of conversations: each comes to the router its think time
            after the answer to the one before.
        replicas: kinds of replicas, each with the number that stands ready at the start.
        router: who takes a request; a rule's name for a router with a fresh view.
        link: between the replicas that prefill and those that decode, where kinds have such roles.
        scaler: asked for the number of replicas of the kinds that are scaled; None keeps those of the start.
        least: fewest replicas of these kinds together under a scaler.
        most: most of them.
        scaled: most replicas of each kind that is scaled, by name: the first that has room is added to, the last goes
            first; None for the first kind alone.
        faults: what befalls replicas.
        rate_limits: a token bucket for every user, or by user; a request that it does not cover is refused.
        versions: version that each request asks for, -1 for any, shape (n,); None for any.
        window_ms: of a tuner's windows, and between the moments of the timeline.
        health_ms: after so long a replica that died or hangs is known to have; what had no token yet goes elsewhere.
        horizon_ms: where to stop; None runs until every request has ended.
        seed: of the rules that draw.

    Returns:
        What became of every request, of every replica, and what it cost.

    Raises:
        ValueError: an argument is outside its bound; the message names it.

    Source: inference basics and deployment documents, dispatchers, replicas and scaling.
    """
    fleet = Fleet(
        requests,
        [replicas] if isinstance(replicas, ReplicaSpec) else replicas,
        Router(router) if isinstance(router, str) else router,
        link=link,
        scaler=scaler,
        bounds=(least, most),
        scaled=scaled,
        faults=faults,
        rate_limits=rate_limits,
        versions=versions,
        window_ms=window_ms,
        health_ms=health_ms,
        seed=seed,
    )
    fleet.run_until(math.inf if horizon_ms is None else horizon_ms)
    return fleet.result()


class Fleet:
    """A fleet that runs; `simulate_fleet` explains its arguments.

    Attributes:
        now_ms: fleet time; single steps of replicas may have gone beyond it.
        replicas: rows, views and lives of the replicas.
        moments: the timeline, one a window.
    """

    def __init__(
        self,
        requests: RequestTable,
        specs: Sequence[ReplicaSpec],
        router: Router,
        *,
        link: Link | None = None,
        scaler: Scaler | None = None,
        bounds: tuple[int, int] = (1, 8),
        scaled: Mapping[str, int] | None = None,
        faults: Sequence[Fault] = (),
        rate_limits: RateLimit | Mapping[int, RateLimit] | None = None,
        versions: ArrayLike | None = None,
        window_ms: float = 1000.0,
        health_ms: float = HEALTH_MS,
        seed: int = 0,
    ) -> None:
        _check(requests, specs, bounds, window_ms, health_ms)
        pooled = _check_pools(specs, link)
        ready = sum(spec.count for spec in specs)
        growing = {} if scaler is None else scaled_kinds(specs, scaled, bounds[1])
        kinds = rows_of(specs, growing)
        if not kinds:
            raise ValueError("no kind of replica has a count above 0, and no scaler adds any")
        self.now_ms = 0.0
        self.moments: list[Moment] = []
        self.replicas = Replicas(specs, kinds, requests)
        self._requests = requests
        self._door = Door(requests, router, self.replicas, rate_limits, versions, seed, pooled)
        self._faults = Faults(faults, self.replicas, self._door, health_ms)
        self._scaling = (
            None if scaler is None else Scaling(scaler, bounds, [*growing], self.replicas, self._door, requests)
        )
        self._window_ms = window_ms if scaler is not None or self.replicas.tuned else math.inf
        self._windows = 0
        for i in range(ready):
            self.replicas.start(i, 0.0, 0.0)

    @property
    def finished(self) -> bool:
        """Whether every request has ended."""
        r = self.replicas
        return self._door.closed and not any(len(r.pending(i)) for i in range(len(r)) if r.views[i].on)

    def run_until(self, until_ms: float) -> bool:
        """Run until a time, window by window where somebody decides, fault by fault.

        Windows end at multiples of their length, wherever a run stops between: many short runs give what a long one
        gives.

        Args:
            until_ms: fleet time, infinity to run until every request has ended.

        Returns:
            Whether every request has ended.
        """
        while self.now_ms < until_ms and not (self.finished and math.isinf(until_ms)):
            window_end_ms = (self._windows + 1) * self._window_ms
            following = min(until_ms, self._faults.next_ms, window_end_ms)
            self._door.advance(following)
            if math.isinf(following):
                break
            self.now_ms = following
            self._faults.befall(self.now_ms)
            if following == window_end_ms:
                self._windows += 1
                self._look()
        return self.finished

    def scale(self, wanted: int) -> None:
        """Add or drain replicas of the kinds that are scaled now, as a scaler's answer does.

        Args:
            wanted: replicas, starting ones included; held between the fleet's bounds.

        Raises:
            ValueError: the fleet was made without a scaler, and so without room for others.
        """
        if self._scaling is None:
            raise ValueError("this fleet has no scaler and keeps its replicas; make it with one to order others")
        self._scaling.keep(wanted, self._serving(), self.now_ms)

    def route_by(self, rule: str) -> None:
        """Choose replicas by another rule from now on.

        Args:
            rule: a key of `RULES`.

        Raises:
            ValueError: an unknown rule.
        """
        self._door.route_by(rule)

    def records(self) -> NDArray[np.void]:
        """What has become of every request so far, records of `REQUEST`; those that have not ended have reason 0."""
        where, arrival_ms = self._door.where, self.requests.arrival_ms
        records = np.array(self.replicas.collect(where))
        fate = where[:, 2]
        for mask, reason in ((fate == LIMITED, REFUSED_ARRIVAL), ((fate == NOBODY) | (fate == UNREACHED), FAILED)):
            records["reason"][mask] = reason
            records["finish_ms"][mask] = arrival_ms[mask]
            records["first_ms"][mask] = math.nan
        broken = fate == BROKEN_OFF
        for name in ("reason", "finish_ms"):
            records[name][broken] = self._door.arrays.incoming[name][broken]
        records["first_ms"][broken] = math.nan
        absent = fate == UNROUTED
        for name in ("first_ms", "finish_ms"):
            records[name][absent] = math.nan
        return records

    @property
    def requests(self) -> RequestTable:
        """The requests, turns of conversations with the times at which they came, NaN before that."""
        if self._requests.turns is None:
            return self._requests
        return self._requests.with_arrivals(np.array(self._door.arrays.incoming["arrival_ms"]))

    @property
    def where(self) -> NDArray[np.int64]:
        """(replica, place in its row, what became of it at the door) by request, shape (n, 3)."""
        return self._door.where

    def result(self) -> FleetResult:
        """What has happened so far."""
        where, records = self._door.where, self.records()
        return result_of(
            self.requests,
            records,
            where,
            where[:, 2] == LIMITED,
            self.replicas,
            self.moments,
            retried=self._door.retried,
            now_ms=self.now_ms,
            handover_ms=self._door.pools.handover_ms,
            moved_tokens=self._door.pools.moved_tokens,
        )

    def _serving(self) -> list[int]:
        """Replicas that have started and live, draining ones included."""
        views = self.replicas.views
        return np.flatnonzero((views["on"] == 1) & (views["dead"] == 0) & (views["ready_ms"] <= self.now_ms)).tolist()

    def _look(self) -> None:
        """A window ends: tuners hear theirs, who is drained goes, the timeline grows, the scaler is asked."""
        r = self.replicas
        on = self._serving()
        for i in on:
            heard = r.hear(i)
            if r.has_tuner(i):
                r.measure(i)
            if self._scaling is not None:
                self._scaling.hear(i, heard)
            if r.views[i].draining and r.is_empty(i):
                r.stop(i, self.now_ms)
        views, clock = np.asarray(r.views), np.asarray(r.state.clock)
        here = [i for i in on if views["on"][i]]
        self.moments.append(
            Moment(
                self.now_ms,
                serving=int((views["draining"][here] == 0).sum()),
                existing=int(np.count_nonzero(views["on"])),
                queued=int(clock["n_queue"][here].sum()),
                running=int(clock["n_running"][here].sum()),
            )
        )
        if self._scaling is not None:
            self._scaling.decide(here, self.now_ms)


def _check(
    requests: RequestTable,
    specs: Sequence[ReplicaSpec],
    bounds: tuple[int, int],
    window_ms: float,
    health_ms: float,
) -> None:
    if not specs:
        raise ValueError("replicas is empty; give at least one kind")
    if requests.concurrency:
        raise ValueError("a fleet serves an open loop; the requests are those of a closed one (concurrency > 0)")
    if not 1 <= bounds[0] <= bounds[1]:
        raise ValueError(f"least {bounds[0]} and most {bounds[1]} must be 1 <= least <= most")
    for name, value in (("window_ms", window_ms), ("health_ms", health_ms)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value}; it must be above 0 ms")


def _check_pools(specs: Sequence[ReplicaSpec], link: Link | None) -> Link | None:
    """The link, if there are pools that need it."""
    roles = {spec.role for spec in specs}
    if roles == {BOTH}:
        return None
    for role in ROLES:
        if role != BOTH and role not in roles:
            raise ValueError(f"no kind of replica has role {role!r}, and others are {sorted(roles)}; pools need both")
    if link is None:
        raise ValueError(f"replicas have roles {sorted(roles)}, but there is no link to move KV; give link=Link(...)")
    return link
