"""The planning tuner: tries limits out on a digital twin of the engine before it sets them. Times in ms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.baselines import StaticTuner
from batchpilot.core import SLO, TRACKS, Limits, Tuner, WindowMetrics
from batchpilot.core.actions import ActionTable
from batchpilot.core.details import WindowDetails, believable
from batchpilot.core.grids import GRIDS, Grid
from batchpilot.core.names import lookup
from batchpilot.core.slo import can_be_aimed_at, within_promise
from batchpilot.engines.simulated.twin import Horizon, Twin
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.tuners.planning.aiming import LOWEST_SHARE, AimingTuner, share_for
from batchpilot.tuners.planning.estimating import Estimate
from batchpilot.tuners.planning.search import CoordinateSearch
from batchpilot.tuners.planning.starting import starting_limits
from batchpilot.tuners.planning.traffic import Traffic
from batchpilot.tuners.planning.worth import believed_kv_tokens, work_in_progress
from batchpilot.tuners.rails.true_estimate import TrueEstimate

MOVED = {"guarded": ("token_budget", "step_target_ms", "ttft_guard")}
"""Fields that plans move in a track, all of it where nothing is said. Beside the guard, a bound on the queue, another
discipline or a batch size gain less than is lost by luck among so many candidates."""

STEP_TARGETS = (0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.1, 1.25, 1.5, 2.0, math.inf)
GRIDS_OF_PLANS = GRIDS | {"step_target_ms": Grid("step_target_ms", STEP_TARGETS, times_tpot_target=True)}
"""Step targets lie closer where they matter, just below the promise."""

WITHIN_PROMISE = Grid("step_target_ms", tuple(share for share in STEP_TARGETS if share <= 1.0), times_tpot_target=True)
"""Of a server that holds no token budget, a gateway's: without a step target nothing would bound its steps."""

FUTURES = 8
HEATS = 2

COUNTED_TTFT_TARGETS, COUNTED_RESIDENCES, SEEN_THROUGH_TTFT_TARGETS = 2.0, 1.0, 2.0
SHORTEST_SEEN_THROUGH_MS = 3000.0
"""Requests are counted that arrive within two TTFT targets and the time a request stays, since what is let in now takes
the place of what comes while it decodes; they are seen through for two more targets, at least three seconds."""

LONGEST_COUNTED_MS, LONGEST_SEEN_THROUGH_MS = 60_000.0, 30_000.0
"""However long the promises are; what comes so late is not known."""

MOST_STEPS = 5000
"""Of a rollout, the shortest that there are; an engine of short steps is looked at less far ahead."""

MOST_WORK = 30_000_000
"""Of all rollouts of a plan, as the twin counts it; a second of one core. Where there is much to do a plan takes a
third of it. A search that has taken as much ends with the best that it found."""

MARGIN = 0.97
"""Share of each target that a plan aims at, at most: the twin knows no noise, and what it just meets is missed half the
time. Where predictions are off by more, it leaves as much room as they are off."""


class PlanningTuner(Tuner):
    """Model-predictive control of a track's limits.

    After each window it learns what steps cost, guesses several futures from the recent past, replays them on a copy of
    the scheduler from the present moment under candidate limits, and sets the best. Before the first arrivals it stands
    where the latency estimate says (`starting_limits`). While the estimate is off by more than a plan is worth, a rail
    puts the guarded rule in place of plans; in a track without step target and guard, the start.

    Args:
        track: the fields it moves.
        base: the other fields; None for none.
        latency: estimated step latency to begin with; None for a first guess that the steps correct.
        latency_stage: how far what is learned is believed: offline, shadow, partial or full.
        slo: the promise, for the start; None takes it from the windows.
        seed: of the guesses.
        futures: guesses a decision, >= 2.
        most_work: of a plan, see `MOST_WORK`; >= 1.
        not_held: limits that the server cannot hold: what a plan expects of them would not come true.

    Raises:
        ValueError: no such track, too few futures, no work allowed, or nothing left to move.
    """

    name = "model-based"
    needs_details = True

    def __init__(
        self,
        track: str = "limits",
        base: Limits | None = None,
        *,
        latency: SaturationParameters | None = None,
        latency_stage: str = "full",
        slo: SLO | None = None,
        seed: int = 0,
        futures: int = FUTURES,
        most_work: int = MOST_WORK,
        not_held: tuple[str, ...] = (),
    ) -> None:
        for option, value, lowest in (("futures", futures, HEATS), ("most_work", most_work, 1)):
            if value < lowest:
                raise ValueError(f"{option} is {value}; it must be >= {lowest}")
        fields = tuple(name for name in lookup(TRACKS, track, "track") if name not in not_held)
        self._estimate = Estimate(latency, latency_stage)
        self._slo, self._seed, self._futures, self._most_work = slo, seed, futures, most_work
        self._fields = tuple(name for name in MOVED.get(track, fields) if name not in not_held)
        if not self._fields:
            raise ValueError(f"track {track!r} moves only what the server cannot hold ({', '.join(not_held)})")
        self._grids = GRIDS_OF_PLANS | ({"step_target_ms": WITHIN_PROMISE} if "token_budget" in not_held else {})
        self._anchor_at(starting_limits(fields, base, self._estimate.parameters, slo))
        self._twin = Twin()
        self._tpot_ms = math.inf
        rule = (
            AimingTuner(slo, base=base, error=self._error)
            if "step_target_ms" in self._fields
            else StaticTuner(self._start)
        )
        self._rail = TrueEstimate(self._error, rule)
        self._details: WindowDetails | None = None
        self._position: NDArray[np.int64] | None = None
        self._planned_tokens: float | None = None
        self._limits, self._reason = self._start, ""
        self.reset()

    def ask(self) -> Limits:
        """The limits of the last plan."""
        return self._limits

    def study(self, details: WindowDetails) -> None:
        """Hear who is in flight, what came, and what steps cost.

        Args:
            details: of the window that `tell` hears next.
        """
        self._details = believable(details)
        if self._details is not None:
            self._traffic.hear(self._details)
            self._estimate.hear(self._details)

    def tell(self, metrics: WindowMetrics) -> None:
        """Plan the next window.

        Args:
            metrics: the window; without details before it nothing changes.
        """
        self._windows_heard += 1
        self._rail.hear(metrics)
        if self._details is None:
            self._reason = "waiting for the details of a window: this server tells only metrics"
        elif not self._traffic.known:
            self._reason = "waiting for the first requests"
        elif self._rail.is_doubted:
            self._position, self._planned_tokens = None, None
            self._set(self._rail.allow(self._limits), self._rail.reason)
        else:
            self._plan(self._details, metrics)

    def move_latency_to(self, stage: str, share: float | None = None) -> None:
        """Move the roll-out of what is learned of step latency, see `Estimate.move_to`.

        Args:
            stage: offline, shadow, partial or full.
            share: of the windows, for partial.

        Raises:
            ValueError: no such stage, or the share is outside 0 to 1.
        """
        self._estimate.move_to(stage, share)

    @property
    def estimate(self) -> NDArray[np.float64] | None:
        """What it believes a step costs, nine saturation parameters; None while that is only a guess."""
        return self._estimate.array

    def reset(self, seed: int | None = None) -> None:
        """Forget traffic, steps and plans.

        Args:
            seed: of the guesses; None keeps the constructor's.
        """
        self._rng = np.random.default_rng(self._seed if seed is None else seed)
        self._traffic = Traffic()
        self._estimate.forget()
        self._rail.reset()
        self._details = self._position = None
        self._tpot_ms = math.inf
        self._limits = self._start
        self._windows_heard = self._changes = 0
        self._planned_tokens = None
        self._reason = f"start: {self._start}"

    def status(self) -> dict[str, Any]:
        """The limits, what the plan promises and how true the estimate is."""
        return {
            "phase": "PLANNING",
            "current_batch_size": self._limits.batch_size,
            "is_stabilized": False,
            "limits": str(self._limits),
            "planned_tokens": self._planned_tokens,
            **self._rail.status(),
            **self._estimate.status(),
            "rails": self._rail.name,
            "rails_acting": self._rail.name if self._rail.is_doubted else "",
            "arrivals_remembered": len(self._traffic.arrivals),
            "changes": self._changes,
            "windows_heard": self._windows_heard,
            "reason": self._reason,
        }

    def state_dict(self) -> dict[str, Any]:
        """Traffic, estimate, plan and the state of the guesses as plain data."""
        return {
            "tuner": self.name,
            "fields": list(self._fields),
            "start": self._start.to_dict(),
            "limits": self._limits.to_dict(),
            "position": None if self._position is None else self._position.tolist(),
            "planned_tokens": self._planned_tokens,
            "traffic": self._traffic.state_dict(),
            "estimate": self._estimate.state_dict(),
            "rail": self._rail.state_dict(),
            "tpot_ms": self._tpot_ms if math.isfinite(self._tpot_ms) else None,
            "rng": self._rng.bit_generator.state,
            "windows_heard": self._windows_heard,
            "changes": self._changes,
            "reason": self._reason,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: the state is of another tuner or track, or a field is missing; nothing is changed then.
        """
        if state.get("tuner") != self.name:
            raise ValueError(f"this is the state of {state.get('tuner')!r}, not of {self.name!r}")
        traffic = Traffic()
        rng = np.random.default_rng()
        try:
            fields, limits = tuple(state["fields"]), Limits.from_dict(state["limits"])
            start = Limits.from_dict(state["start"])
            position = None if state["position"] is None else np.array(state["position"], np.int64)
            heard, changes, reason = int(state["windows_heard"]), int(state["changes"]), str(state["reason"])
            planned, estimate, rail = state["planned_tokens"], state["estimate"], state["rail"]
            tpot_ms = math.inf if state["tpot_ms"] is None else float(state["tpot_ms"])
            traffic.load_state_dict(state["traffic"])
            rng.bit_generator.state = state["rng"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"the state of {self.name!r} is incomplete: {error!r}") from error
        if fields != self._fields:
            raise ValueError(f"the state moves {', '.join(fields)}; this tuner moves {', '.join(self._fields)}")
        self._anchor_at(start)
        self._estimate.load_state_dict(estimate)
        self._rail.load_state_dict(rail)
        self._traffic, self._rng, self._details, self._tpot_ms = traffic, rng, None, tpot_ms
        self._limits, self._position, self._planned_tokens = limits, position, planned
        self._windows_heard, self._changes, self._reason = heard, changes, reason

    def _anchor_at(self, start: Limits) -> None:
        grids = [self._grids[name] for name in self._fields]
        self._start = start
        self._table = ActionTable(self._fields, start, "absolute", grids=grids)
        self._search = CoordinateSearch(self._table, HEATS, self._futures)

    def _plan(self, details: WindowDetails, metrics: WindowMetrics) -> None:
        tpot_ms, ttft_ms = self._promises()
        kv_tokens = believed_kv_tokens(details, metrics)
        horizon = self._horizon(details, metrics.step_ms_mean, kv_tokens, ttft_ms, tpot_ms)
        margin = max(min(share_for(self._estimate.error), MARGIN), LOWEST_SHARE)
        futures = self._traffic.futures(details, self._futures, horizon.length_ms, margin, self._rng)
        self._twin.look(futures, self._estimate.parameters, kv_tokens, horizon)
        until = self._twin.work + self._most_work

        def evaluate(positions: NDArray[np.int64], first: int, end: int) -> NDArray[np.float64]:
            candidates = self._table.to_arrays(positions, np.full(len(positions), tpot_ms))
            return self._twin.values(candidates, first, end)

        anchor = self._table.start(tpot_ms)
        present = anchor if self._position is None else self._position
        self._position, self._planned_tokens = self._search.improve(
            anchor, present, evaluate, lambda: self._twin.work > until
        )
        limits = self._table.to_limits(self._position, tpot_ms)
        self._set(limits, f"best of the plans over {horizon.length_ms / 1000.0:.1f} s: {limits}")

    def _error(self) -> float | None:
        return self._estimate.error

    def _set(self, limits: Limits, reason: str) -> None:
        self._reason = reason
        if limits != self._limits:
            self._changes += 1
            self._limits = limits

    def _promises(self) -> tuple[float, float]:
        """TPOT and TTFT that requests are promised, near the operator's; the last TPOT where none is now."""
        slo = self._slo
        tpot_ms = within_promise(self._traffic.typical_tpot_ms(), None if slo is None else slo.tpot_ms)
        if can_be_aimed_at(tpot_ms):
            self._tpot_ms = tpot_ms
        ttft_ms = within_promise(self._traffic.typical_ttft_ms(), None if slo is None else slo.ttft_ms)
        return self._tpot_ms, min(ttft_ms, LONGEST_COUNTED_MS)

    def _horizon(
        self, details: WindowDetails, measured_ms: float, kv_tokens: int, ttft_ms: float, tpot_ms: float
    ) -> Horizon:
        traffic, latency = self._traffic, self._estimate.parameters
        shortest_ms = latency.predict_one(1, 1, 0)
        step_ms = min(measured_ms if measured_ms > 0 else math.inf, tpot_ms, LONGEST_COUNTED_MS)
        counted = COUNTED_TTFT_TARGETS * ttft_ms + COUNTED_RESIDENCES * traffic.mean_output * step_ms
        counted = min(counted, LONGEST_COUNTED_MS, MOST_STEPS * shortest_ms / 2)
        seen_through = max(SEEN_THROUGH_TTFT_TARGETS * ttft_ms, SHORTEST_SEEN_THROUGH_MS)
        seen_through = min(seen_through, LONGEST_SEEN_THROUGH_MS, MOST_STEPS * shortest_ms / 2)
        worth = work_in_progress(
            latency,
            traffic.mean_prompt,
            traffic.mean_output,
            traffic.rate_per_ms(details.now_ms),
            kv_tokens,
            cached_tokens=traffic.mean_cached,
        )
        price = traffic.mean_output / max(traffic.mean_prompt - traffic.mean_cached, 1.0)
        return Horizon(details.now_ms, counted, counted + seen_through, price, worth)
