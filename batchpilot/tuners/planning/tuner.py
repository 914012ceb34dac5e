"""The planning tuner: tries limits out on a digital twin of the engine before it sets them. Times in ms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.baselines import StaticTuner
from batchpilot.core import SLO, TRACKS, Limits, WindowMetrics
from batchpilot.core.actions import ActionTable
from batchpilot.core.details import WindowDetails
from batchpilot.core.grids import GRIDS, Grid
from batchpilot.core.names import lookup
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.tuners.planning.aiming import AimingTuner
from batchpilot.tuners.planning.believing import BelievingTuner
from batchpilot.tuners.planning.estimating import Estimate
from batchpilot.tuners.planning.foresight import Foresight
from batchpilot.tuners.planning.search import CoordinateSearch
from batchpilot.tuners.planning.starting import starting_limits
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

MOST_WORK = 30_000_000
"""Of all rollouts of a plan, as the twin counts it; a second of one core. Where there is much to do a plan takes a
third of it. A search that has taken as much ends with the best that it found."""


class PlanningTuner(BelievingTuner):
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
        error_margin: whether the rule that stands in while the estimate is doubted leaves room for its usual error; not
            where those who fill the steps leave it by what became of their requests.

    Raises:
        ValueError: no such track, too few futures, no work allowed, or nothing left to move.
    """

    name = "model-based"

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
        error_margin: bool = True,
    ) -> None:
        for option, value, lowest in (("futures", futures, HEATS), ("most_work", most_work, 1)):
            if value < lowest:
                raise ValueError(f"{option} is {value}; it must be >= {lowest}")
        fields = tuple(name for name in lookup(TRACKS, track, "track") if name not in not_held)
        self._estimate = Estimate(latency, latency_stage)
        self._foresight = Foresight(self._estimate, slo)
        self._seed, self._futures, self._most_work = seed, futures, most_work
        self._fields = tuple(name for name in MOVED.get(track, fields) if name not in not_held)
        if not self._fields:
            raise ValueError(f"track {track!r} moves only what the server cannot hold ({', '.join(not_held)})")
        self._grids = GRIDS_OF_PLANS | ({"step_target_ms": WITHIN_PROMISE} if "token_budget" in not_held else {})
        self._anchor_at(starting_limits(fields, base, self._estimate.parameters, slo))
        rule = (
            AimingTuner(slo, base=base, error=lambda: self._error() if error_margin else None)
            if "step_target_ms" in self._fields
            else StaticTuner(self._start)
        )
        self._rail = TrueEstimate(self._error, rule)
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
        self._foresight.hear(details)

    def tell(self, metrics: WindowMetrics) -> None:
        """Plan the next window.

        Args:
            metrics: the window; without details before it nothing changes.
        """
        self._windows_heard += 1
        self._rail.hear(metrics)
        if self._foresight.blind:
            self._reason = self._foresight.blind
        elif self._rail.is_doubted:
            self._position, self._planned_tokens = None, None
            self._set(self._rail.allow(self._limits), self._rail.reason)
        else:
            self._plan(metrics)

    def reset(self, seed: int | None = None) -> None:
        """Forget traffic, steps and plans.

        Args:
            seed: of the guesses; None keeps the constructor's.
        """
        self._rng = np.random.default_rng(self._seed if seed is None else seed)
        self._foresight.forget()
        self._rail.reset()
        self._position = None
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
            "arrivals_remembered": len(self._foresight.traffic.arrivals),
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
            **self._foresight.state_dict(),
            "rail": self._rail.state_dict(),
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
        rng = np.random.default_rng()
        try:
            fields, limits = tuple(state["fields"]), Limits.from_dict(state["limits"])
            start = Limits.from_dict(state["start"])
            position = None if state["position"] is None else np.array(state["position"], np.int64)
            heard, changes, reason = int(state["windows_heard"]), int(state["changes"]), str(state["reason"])
            planned, rail = state["planned_tokens"], state["rail"]
            rng.bit_generator.state = state["rng"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"the state of {self.name!r} is incomplete: {error!r}") from error
        if fields != self._fields:
            raise ValueError(f"the state moves {', '.join(fields)}; this tuner moves {', '.join(self._fields)}")
        try:
            self._foresight.load_state_dict(state)
        except (KeyError, TypeError) as error:
            raise ValueError(f"the state of {self.name!r} is incomplete: {error!r}") from error
        self._anchor_at(start)
        self._rail.load_state_dict(rail)
        self._rng = rng
        self._limits, self._position, self._planned_tokens = limits, position, planned
        self._windows_heard, self._changes, self._reason = heard, changes, reason

    def _anchor_at(self, start: Limits) -> None:
        grids = [self._grids[name] for name in self._fields]
        self._start = start
        self._table = ActionTable(self._fields, start, "absolute", grids=grids)
        self._search = CoordinateSearch(self._table, HEATS, self._futures)

    def _plan(self, metrics: WindowMetrics) -> None:
        foresight = self._foresight
        length_ms = foresight.look(metrics, self._futures, self._rng)
        tpot_ms = foresight.tpot_ms
        until = foresight.twin.work + self._most_work

        def evaluate(positions: NDArray[np.int64], first: int, end: int) -> NDArray[np.float64]:
            candidates = self._table.to_arrays(positions, np.full(len(positions), tpot_ms))
            return foresight.values(candidates, first, end)

        anchor = self._table.start(tpot_ms)
        present = anchor if self._position is None else self._position
        self._position, self._planned_tokens = self._search.improve(
            anchor, present, evaluate, lambda: foresight.twin.work > until
        )
        limits = self._table.to_limits(self._position, tpot_ms)
        self._set(limits, f"best of the plans over {length_ms / 1000.0:.1f} s: {limits}")

    def _error(self) -> float | None:
        return self._estimate.error

    def _set(self, limits: Limits, reason: str) -> None:
        self._reason = reason
        if limits != self._limits:
            self._changes += 1
            self._limits = limits
