"""The replicas of a fleet as rows of one scheduler state: started, drained, killed, measured. Times in ms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.limits import Limits
from batchpilot.core.metrics import METRICS, WindowMetrics, from_record
from batchpilot.core.tuner import Tuner
from batchpilot.engines.scheduler.cancellation import cancel
from batchpilot.engines.scheduler.controls import write_limits
from batchpilot.engines.scheduler.state import FAILED, LENGTH, REQUEST, UNFINISHED, SchedulerState, allocate, row
from batchpilot.engines.scheduler.windows import open_window, summarise
from batchpilot.engines.simulated.loading import NOISE_TABLE, load, put_tenants
from batchpilot.fleet.arrays import COUNT, DECODE, DECODES, LINK, new_views
from batchpilot.fleet.hearing import Found, Heard, Hearing
from batchpilot.fleet.prompts import Prompts
from batchpilot.fleet.spec import ROLES, ReplicaSpec
from batchpilot.latency.model.compiled import plain
from batchpilot.latency.planning.energy import Work
from batchpilot.workloads.table import RequestTable

_LEAST_ROOM = 1024
_SEED_STRIDE = 1_000_003


@dataclass(slots=True)
class Span:
    """A replica's life, from the decision to have it until it is gone.

    Attributes:
        replica: its number.
        spec: its kind, a place in the fleet's specs.
        from_ms: when it was decided.
        ready_ms: when it served.
        until_ms: when it was gone; infinity while it is there.
    """

    replica: int
    spec: int
    from_ms: float
    ready_ms: float
    until_ms: float = math.inf


class Replicas:
    """Rows for every replica that may exist.

    Args:
        specs: kinds.
        kinds: the kind of each row.
        requests: of the run; for targets and users.

    Attributes:
        state: the scheduler's arrays, a row a replica.
        views: what routers know, records of `VIEW`.
        links: where the replicas of pools are in time, records of `LINK`.
        lines: who is between two of them, as `FleetArrays` has them.
        prompts: what requests have in common, and their images.
        sent_blocks: as `FleetArrays` has them.
        spans: lives of replicas, in order of their beginning.
        done: the final records of the requests that left a row, records of `REQUEST`, shape (requests,).
    """

    def __init__(self, specs: Sequence[ReplicaSpec], kinds: Sequence[int], requests: RequestTable) -> None:
        self.specs, self.kinds = tuple(specs), list(kinds)
        room = max(_LEAST_ROOM, 2 * len(requests) // max(len(kinds), 1))
        drift = max((len(spec.engine.drift) for spec in specs), default=0)
        self.prompts = Prompts(specs, requests)
        self.state = allocate(
            len(kinds),
            room,
            users=requests.users,
            noise=NOISE_TABLE,
            drift_rows=drift,
            hashed_blocks=2 * self.prompts.blocks,
            images=0 if requests.images is None else max(room * requests.images.most, self.prompts.image_rows),
        )
        self.sent_blocks = np.zeros((len(kinds), self.prompts.blocks), np.int32)
        self.views: Any = new_views(len(kinds)).view(np.recarray)
        self.views["on"] = 0
        self.links: Any = np.zeros(len(kinds), LINK).view(np.recarray)
        self.lines = np.zeros((3, len(kinds), 3), np.int64)
        self.spans: list[Span] = []
        self.done = np.zeros(len(requests), REQUEST)
        self._hearing = Hearing(self.kinds, len(specs))
        self._nobody = replace(requests.select(slice(0, 0)), images=None, turns=None)
        self._targets = requests
        self._tuners: list[Tuner | None] = [None] * len(kinds)
        self._limits: list[Limits | None] = [None] * len(kinds)
        self._ordered: list[Limits | None] = [None] * len(kinds)
        self._weights = np.array([specs[kind].weight for kind in kinds], np.float64)
        self._record = np.zeros(1, METRICS).view(np.recarray)

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def busy_ms(self) -> NDArray[np.float64]:
        """Time within steps that was heard of each row so far, shape (replicas,)."""
        return self._hearing.busy_ms

    @property
    def tuned(self) -> bool:
        """Whether any replica that may exist has a tuner."""
        return any(not isinstance(spec.limits, Limits) for spec in self.specs)

    def row(self, i: int) -> SchedulerState:
        """A replica's arrays.

        Args:
            i: its number.
        """
        return plain(row)(self.state, i)

    def start(self, i: int, from_ms: float, ready_ms: float) -> None:
        """Begin a replica's life: its row is empty, its tuner fresh.

        Args:
            i: its number.
            from_ms: when it was decided.
            ready_ms: when it will serve.
        """
        spec = self.specs[self.kinds[i]]
        role = ROLES[spec.role]
        engine = replace(spec.engine, seed=spec.engine.seed + _SEED_STRIDE * i)
        if role == DECODE:  # its requests come from other replicas, not from clients
            engine = replace(engine, front_ms=0.0)
        self._hearing.keep(self.state, i)
        looks = self.state.clock[i].looks
        load(self.state, i, engine, self._nobody)
        self.state.clock[i].looks = looks + 1
        self.prompts.put(self.state, i, self.kinds[i])
        put_tenants(self.state, i, np.unique(self._targets.user), engine.tenants)
        clock = self.state.clock[i]
        clock.ttft_target_ms = float(np.median(self._targets.ttft_target_ms)) if len(self._targets) else math.nan
        clock.tpot_target_ms = float(np.median(self._targets.tpot_target_ms)) if len(self._targets) else math.nan
        clock.now_ms = ready_ms
        plain(open_window)(self.row(i))
        self._hearing.forget(i)
        tuner = None if isinstance(spec.limits, Limits) else spec.limits(i)
        self._tuners[i], self._limits[i] = tuner, None
        self.set_limits(i, tuner.ask() if tuner is not None else self._ordered[i] or spec.limits)  # type: ignore[arg-type]
        view = self.views[i]
        view.on, view.draining, view.dead, view.suspected = 1, 0, 0, 0
        self.links[i] = (role, ready_ms, 0.0, 0)
        view.version, view.weight = spec.version, self._weights[i]
        view.tier = spec.tier + (DECODES if role == DECODE else 0)
        view.ready_ms, view.open_until_ms, view.failures, view.tried_by = ready_ms, 0.0, 0, -1
        view.requests = view.queued_tokens = view.sent = view.sent_tokens = 0
        view.credit = 0.0
        view.held, view.kind = 0, self.kinds[i]
        self.spans.append(Span(i, self.kinds[i], from_ms, ready_ms))

    def stop(self, i: int, now_ms: float) -> None:
        """End a replica's life.

        Args:
            i: its number.
            now_ms: when.
        """
        self.views[i].on = 0
        self.span(i).until_ms = now_ms

    def span(self, i: int) -> Span:
        """A replica's present life, or its last one.

        Args:
            i: its number.
        """
        return next(span for span in reversed(self.spans) if span.replica == i)

    def set_limits(self, i: int, limits: Limits) -> None:
        """Put limits into force.

        Args:
            i: the replica.
            limits: its.
        """
        if limits != self._limits[i]:
            engine = self.specs[self.kinds[i]].engine
            write_limits(self.state, i, limits, engine.discipline, engine.speculation.drafted)
            self._limits[i] = limits
            self.links[i].wake_ms = 0.0

    def order(self, i: int, limits: Limits) -> None:
        """Let a row run with other limits from now on, whenever a replica has it.

        Args:
            i: its number.
            limits: in place of its kind's.

        Raises:
            ValueError: its kind has tuners, which decide themselves.
        """
        spec = self.specs[self.kinds[i]]
        if not isinstance(spec.limits, Limits):
            raise ValueError(f"replicas of {spec.name} have tuners, which set their limits; give the kind limits")
        self._ordered[i] = limits
        if self.views[i].on and not self.views[i].dead:
            self.set_limits(i, limits)

    def weigh(self, i: int, weight: float) -> None:
        """Give a row another weight under the rules that weigh, whenever a replica has it.

        Args:
            i: its number.
            weight: > 0.

        Raises:
            ValueError: it is not above 0.
        """
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"weight of replica {i} is {weight}; it must be above 0")
        self._weights[i] = self.views[i].weight = weight

    def limits_of(self, i: int) -> Limits | None:
        """What a row runs with, None before its first replica.

        Args:
            i: its number.
        """
        return self._limits[i]

    def hear(self, i: int) -> Heard:
        """Listen to a replica: what it did since the last time.

        Args:
            i: its number.
        """
        return self._hearing.hear(self.state, i)

    def has_tuner(self, i: int) -> bool:
        """Whether a replica has a tuner, which wants its windows.

        Args:
            i: its number.
        """
        return self._tuners[i] is not None

    def measure(self, i: int) -> WindowMetrics:
        """Close a replica's window, and let its tuner hear of it; what was not heard before is not heard any more.

        Args:
            i: its number.
        """
        one = self.row(i)
        summarise(one, self._record)
        self._hearing.keep(self.state, i)
        open_window(one)
        self._hearing.forget(i)
        limits = self._limits[i]
        assert limits is not None
        window = from_record(self._record[0], limits)
        tuner = self._tuners[i]
        if tuner is not None:
            tuner.tell(window)
            self.set_limits(i, tuner.ask())
        return window

    def work(self, kind: int) -> Work:
        """What all replicas of a kind have done.

        Args:
            kind: number of their spec.
        """
        return self._hearing.work(self.state, kind)

    def found(self) -> Found:
        """What replicas did not have to compute so far."""
        return self._hearing.found(self.state)

    def slow(self, i: int, factor: float) -> None:
        """Make the steps of a replica take so many times as long, from the next one on.

        Args:
            i: its number.
            factor: > 0; its inverse takes it back.
        """
        engine = self.specs[self.kinds[i]].engine
        true = (engine.latency, *(parameters for _, parameters in engine.drift))
        for k, parameters in enumerate(true, 1):
            self.state.parameters[i, k, 1:] = parameters.scaled(factor).as_array()

    def pending(self, i: int) -> NDArray[np.int64]:
        """Places in a row of the requests that have not ended, shape (n,).

        Args:
            i: the replica.
        """
        here = self.state.requests[i, : int(self.state.clock[i].n_requests)]
        return np.flatnonzero(here["reason"] == UNFINISHED)

    def is_empty(self, i: int) -> bool:
        """Whether a replica has no request, and none is bound for it.

        Args:
            i: its number.
        """
        return len(self.pending(i)) == 0 and not self.lines[:, i, COUNT].any()

    def silent(self, i: int) -> NDArray[np.int64]:
        """Places in a row of the requests that have not ended and have no token yet, shape (n,).

        Args:
            i: the replica.
        """
        places = self.pending(i)
        return np.asarray(places[self.state.requests["generated"][i, places] == 0])

    def withdraw(self, i: int, places: NDArray[np.int64]) -> None:
        """Take requests out of a replica.

        Args:
            i: the replica.
            places: in its row.
        """
        for k in places:
            cancel(self.row(i), int(k))

    def empty(self, i: int, where: NDArray[np.int64], now_ms: float, lost: int = FAILED) -> None:
        """Keep the records of a row's requests, end those that have not, and leave the row to nobody.

        Args:
            i: the replica.
            where: of every request, as `run_fleet` writes it; those of this row are marked as kept (replica -1).
            now_ms: when the unfinished ones ended.
            lost: why.
        """
        mine = np.flatnonzero(where[:, 0] == i)
        records = np.asarray(self.state.requests)[i, where[mine, 1]]
        unfinished = records["reason"] == UNFINISHED
        records["reason"][unfinished] = lost
        records["finish_ms"][unfinished] = now_ms
        self.done[mine] = records
        where[mine, 0] = -1
        clock = self.state.clock[i]
        clock.n_requests = clock.next_arrival = clock.n_queue = clock.n_running = 0
        for counted in ("running", "held"):
            self.state.users[counted][i] = 0

    def grow(self) -> None:
        """Give every row twice the room."""
        wider = {}
        grown = ["requests", "slots", "lines"]
        grown += ["chains"] if self.prompts.blocks else []
        grown += ["images"] if len(self.prompts.images) else []
        for name in grown:
            old = np.asarray(getattr(self.state, name))
            new = np.zeros((old.shape[0], 2 * old.shape[1]), old.dtype)
            new[:, : old.shape[1]] = old
            wider[name] = new.view(np.recarray)
        self.state = self.state._replace(**wider)

    def collect(self, where: NDArray[np.int64]) -> NDArray[np.void]:
        """The record of every request that a replica took, wherever it is; others are zero.

        Args:
            where: of every request, as `run_fleet` writes it.
        """
        held = np.flatnonzero(where[:, 0] >= 0)
        self.done[held] = np.asarray(self.state.requests)[where[held, 0], where[held, 1]]
        return self.done

    def finished_ms(self, i: int, since: int) -> NDArray[np.float64]:
        """Response times of the requests that finished in a replica since so many had ended.

        Args:
            i: its number.
            since: number of requests that had ended.
        """
        ended = self.state.slots["ended"][i, since : int(self.state.clock[i].n_ended)]
        records = np.asarray(self.state.requests[i])[ended]
        return np.asarray((records["finish_ms"] - records["arrival_ms"])[records["reason"] == LENGTH])
