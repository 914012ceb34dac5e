"""Scaling a fleet: what the scaler sees, and what its answer does. Times in ms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from batchpilot.core.limits import Limits
from batchpilot.core.names import lookup
from batchpilot.fleet.door import Door
from batchpilot.fleet.hearing import Heard
from batchpilot.fleet.replicas import Replicas
from batchpilot.fleet.scalers import FleetView, Scaler
from batchpilot.fleet.spec import ReplicaSpec
from batchpilot.fleet.tuner import FleetTuner
from batchpilot.workloads.table import RequestTable


def scaled_kinds(specs: Sequence[ReplicaSpec], scaled: Mapping[str, int] | None, most: int) -> dict[int, int]:
    """Which kinds a scaler adds to, the first that has room first, and how many of each there may be.

    Args:
        specs: kinds of replicas.
        scaled: most of each, by name; None for the first kind alone.
        most: replicas of all of them together.

    Returns:
        Most replicas by place in `specs`.

    Raises:
        ValueError: no kind, a name that none or several have, or fewer than stand ready; the message says which.
    """
    if scaled is None:
        return {0: most}
    if not scaled:
        raise ValueError("scaled is empty; name at least one kind that a scaler adds to, or leave it out for the first")
    names = [spec.name for spec in specs]
    found = {}
    for name, of_it in scaled.items():
        lookup(dict.fromkeys(names), name, "kind of replica")
        if names.count(name) > 1:
            raise ValueError(f"scaled names {name}, as {names.count(name)} kinds are called; give each its own name")
        kind = names.index(name)
        if of_it < max(specs[kind].count, 1):
            raise ValueError(
                f"scaled allows {of_it} replicas of {name}; it must be at least 1, and {specs[kind].count} stand ready"
            )
        found[kind] = min(of_it, most)
    return found


def rows_of(specs: Sequence[ReplicaSpec], scaled: Mapping[int, int]) -> list[int]:
    """The kind of each replica that may exist: those that stand ready, then those that a scaler may add.

    Args:
        specs: kinds of replicas.
        scaled: as `scaled_kinds` tells them; nothing without a scaler.
    """
    ready = [kind for kind, spec in enumerate(specs) for _ in range(spec.count)]
    return ready + [kind for kind, most in sorted(scaled.items()) for _ in range(most - specs[kind].count)]


def cheapest_first(specs: Sequence[ReplicaSpec], names: Sequence[str]) -> list[str]:
    """Kinds by what a served token costs there: the price of a replica over its weight, which is what it serves.

    Args:
        specs: kinds of replicas.
        names: of those that are meant; where one has no price, they stay as they are.
    """
    cost = {one.name: one.devices * (one.usd_per_device_hour or math.nan) / one.weight for one in specs}
    if any(math.isnan(cost[name]) for name in names):
        return list(names)
    return sorted(names, key=lambda name: cost[name])


class Scaling:
    """Keeps as many replicas of the kinds that are scaled as a scaler wants.

    Args:
        scaler: whom to ask.
        bounds: fewest and most replicas of these kinds together.
        kinds: which they are, in the order in which they are added to; the last goes first.
        replicas: of the fleet.
        door: what has arrived.
        requests: what arrives, for its tokens.
    """

    def __init__(
        self,
        scaler: Scaler,
        bounds: tuple[int, int],
        kinds: Sequence[int],
        replicas: Replicas,
        door: Door,
        requests: RequestTable,
    ) -> None:
        if isinstance(scaler, FleetTuner) and [*scaler.growing] != [*kinds]:
            raise ValueError(
                f"the FleetTuner plans for kinds {[*scaler.growing]} to be added to, in this order, and the fleet adds "
                f"to {[*kinds]}; give both the same scaled"
            )
        self._order = {kind: place for place, kind in enumerate(kinds)}
        self._scaler, self._bounds, self._replicas, self._door = scaler, bounds, replicas, door
        self._interval_ms = 1000.0 * scaler.interval_s
        self.next_ms = self._interval_ms
        self._offered = np.concatenate([[0.0], np.cumsum(requests.prompt_tokens + requests.estimated_output_tokens)])
        self._prompts = np.concatenate([[0.0], np.cumsum(requests.prompt_tokens)])
        self._let_in = self._cached = self._hit_rate = 0.0
        self._arrived = 0
        self._requests = requests
        self._ttft_ms, self._first = 0.0, 0
        self._good = self._judged = 0
        self._busy_ms = np.zeros(len(replicas))
        self._ended = np.zeros(len(replicas), np.int64)

    def hear(self, i: int, heard: Heard) -> None:
        """Take in what a replica did.

        Args:
            i: the replica.
            heard: since the last time.
        """
        self._busy_ms[i] += heard.busy_ms
        self._ttft_ms += heard.ttft_ms
        self._first += heard.first
        self._good += heard.good
        self._judged += heard.ended

    def decide(self, serving: Sequence[int], now_ms: float) -> None:
        """Ask the scaler, if it is time, and add or drain replicas.

        Args:
            serving: replicas that serve, draining ones included.
            now_ms: fleet time.
        """
        if now_ms < self.next_ms:
            return
        self.next_ms += self._interval_ms
        kept, starting = self._mine(serving, now_ms)
        self.keep(self._scaler.decide(self._view(kept, starting, now_ms)), serving, now_ms)
        if isinstance(self._scaler, FleetTuner):
            self._limit(self._scaler.ask().limits)

    def keep(self, wanted: int, serving: Sequence[int], now_ms: float) -> None:
        """Add or drain replicas.

        Args:
            wanted: replicas, starting ones included; held between the bounds.
            serving: replicas that serve, draining ones included.
            now_ms: fleet time.
        """
        r = self._replicas
        kept, starting = self._mine(serving, now_ms)
        least, most = self._bounds
        wanted = min(max(wanted, least), most)
        here = len(kept) + len(starting)
        absent = [i for i in range(len(r)) if r.kinds[i] in self._order and not r.views[i].on]
        for i in sorted(absent, key=lambda i: self._order[r.kinds[i]]):
            if here >= wanted:
                break
            r.empty(i, self._door.where, now_ms)
            r.start(i, now_ms, now_ms + 1000.0 * r.specs[r.kinds[i]].startup_s)
            self._ended[i] = 0
            here += 1
        idlest_first = (*starting, *sorted(kept, key=lambda i: int(r.views[i].requests)))
        for i in sorted(idlest_first, key=lambda i: -self._order[r.kinds[i]]):
            if here <= wanted:
                break
            if i in starting:
                r.stop(i, now_ms)
            else:
                r.views[i].draining = 1
            here -= 1

    def _limit(self, limits: Sequence[Limits]) -> None:
        """Put a plan's limits into force, by kind."""
        for i, kind in enumerate(self._replicas.kinds):
            self._replicas.order(i, limits[kind])

    def _mine(self, serving: Sequence[int], now_ms: float) -> tuple[list[int], list[int]]:
        """Replicas of the kinds that are scaled that serve and stay, and those that start."""
        r = self._replicas
        kept = [i for i in serving if r.kinds[i] in self._order and not r.views[i].draining]
        mine = (i for i in range(len(r)) if r.kinds[i] in self._order)
        return kept, [i for i in mine if r.views[i].on and r.views[i].ready_ms > now_ms]

    def _to_compute(self, arrived: int) -> float:
        """Tokens of those who arrived since the last time, prompts less the share that caches had of what was let in.

        While nobody is let in that share stays.
        """
        found = self._replicas.found()
        let_in, cached = float(found.prompt_tokens.sum()), float(found.cached_tokens.sum())
        if let_in > self._let_in:
            self._hit_rate = (cached - self._cached) / (let_in - self._let_in)
        self._let_in, self._cached = let_in, cached
        if self._requests.turns is not None:
            came = self._door.turns_since(self._arrived)
            prompts = float(self._requests.prompt_tokens[came].sum())
            return float(self._requests.estimated_output_tokens[came].sum()) + (1.0 - self._hit_rate) * prompts
        offered, prompts = (float(one[arrived] - one[self._arrived]) for one in (self._offered, self._prompts))
        return offered - self._hit_rate * prompts

    def _view(self, kept: Sequence[int], starting: Sequence[int], now_ms: float) -> FleetView:
        r, clock, span_ms = self._replicas, self._replicas.state.clock, self._interval_ms
        arrived = self._door.arrived
        responses = np.concatenate([np.zeros(0), *(r.finished_ms(i, int(self._ended[i])) for i in kept)])
        view = FleetView(
            now_s=now_ms / 1000.0,
            serving=len(kept),
            starting=len(starting),
            queued=int(sum(clock[i].n_queue for i in kept)),
            running=int(sum(clock[i].n_running for i in kept)),
            utilisation=float(np.minimum(self._busy_ms[list(kept)] / span_ms, 1.0).mean()) if kept else 0.0,
            ttft_s=self._ttft_ms / self._first / 1000.0 if self._first else math.nan,
            response_s=float(responses.mean()) / 1000.0 if len(responses) else math.nan,
            arrivals_per_s=1000.0 * (arrived - self._arrived) / span_ms,
            tokens_per_s=1000.0 * self._to_compute(arrived) / span_ms,
            slo_attainment=self._good / self._judged if self._judged else math.nan,
        )
        self._arrived, self._ttft_ms, self._first = arrived, 0.0, 0
        self._good = self._judged = 0
        self._busy_ms[:] = 0.0
        self._ended[:] = [int(clock[i].n_ended) for i in range(len(r))]
        return view
