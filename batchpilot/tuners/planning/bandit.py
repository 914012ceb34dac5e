"""A safe bandit over setpoints: tries small changes of a frozen strategy's limits on the server itself. Times in ms.

A policy, or a rule, is as good as what it was made on. Here its limits are the setpoints, and the arms are factors on
one of them. An arm is tried on live traffic only where the twin foresees a bounded loss, in turn with the setpoints in
force, and takes their place once it has surely served more for what came; the setpoints of old stay among its
challengers, so that what was won in one hour is given back in the next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from batchpilot.core import SLO, TRACKS, Limits, Tuner, WindowMetrics
from batchpilot.core.details import WindowDetails
from batchpilot.core.limit_arrays import limit_arrays
from batchpilot.core.names import lookup
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.tuners.planning.believing import BelievingTuner
from batchpilot.tuners.planning.estimating import Estimate
from batchpilot.tuners.planning.foresight import Foresight
from batchpilot.tuners.planning.trials import SMALLEST_GAIN, Trial
from batchpilot.tuners.policy.oddity import WindowClock

FACTORS = {
    "batch_size": (0.5, 2.0),
    "token_budget": (0.5, 2.0),
    "max_queued_tokens": (0.5, 2.0),
    "step_target_ms": (0.85, 1.15),
    "ttft_guard": (0.8, 1.25),
}
"""What a setpoint is multiplied by; steps that a dozen requests can tell apart."""

FARTHEST = 4.0
"""No setpoint goes further from the frozen one than this factor."""

FUTURES = 8
LARGEST_LOSS = 0.01
"""Share of what the setpoints in force serve that an arm may be expected to lose; the twin is doubted by as much."""

REMEMBERED = 0.8
"""Share of the weight of an arm's earlier trials that is left after each later trial of any arm; each begins with the
weight of what is foreseen."""

SHORTEST_TURN_WINDOWS, FEWEST_ARRIVALS = 4, 48
"""Of a turn; a turn in which little came says little."""

Arm = tuple[str, float]


class SafeBandit(BelievingTuner):
    """Challenges a frozen strategy's setpoints, one factor at a time.

    Args:
        frozen: what sets the limits; it hears every window as if its own limits had been in force.
        track: the fields whose setpoints are challenged, where `frozen` sets them.
        latency: estimated step latency to begin with; None for a first guess that the steps correct.
        latency_stage: how far what is learned is believed: offline, shadow, partial or full.
        slo: the promise; None takes it from the windows.
        seed: of futures and choices.
        largest_loss: share that an arm may be foreseen to lose, 0 to 1.

    Raises:
        ValueError: no such track, or a loss out of bounds.
    """

    name = "safe-bandit"

    def __init__(
        self,
        frozen: Tuner,
        track: str = "limits",
        *,
        latency: SaturationParameters | None = None,
        latency_stage: str = "full",
        slo: SLO | None = None,
        seed: int = 0,
        largest_loss: float = LARGEST_LOSS,
    ) -> None:
        if not 0.0 <= largest_loss <= 1.0:
            raise ValueError(f"largest_loss is {largest_loss}; it must be from 0 to 1")
        self._frozen, self._seed, self._largest_loss = frozen, seed, largest_loss
        self._fields = tuple(name for name in lookup(TRACKS, track, "track") if name in FACTORS)
        self._estimate = Estimate(latency, latency_stage)
        self._foresight = Foresight(self._estimate, slo)
        self._factors: dict[str, float] = {}
        self._seen: dict[Arm, tuple[float, float]] = {}
        self._trial: Trial | None = None
        self._limits = frozen.ask()
        self._start()

    def ask(self) -> Limits:
        """The frozen limits times the factors in force, the challenger's in its turn."""
        return self._limits

    def study(self, details: WindowDetails) -> None:
        """Hear who is in flight, what came, and what steps cost.

        Args:
            details: of the window that `tell` hears next.
        """
        self._foresight.hear(details)
        self._frozen.study(details)

    def tell(self, metrics: WindowMetrics) -> None:
        """Count the window for whose turn it was; end the turn, or the trial, when enough came.

        Args:
            metrics: any window; an odd one, or one measured under other limits than asked for, counts for nobody.
        """
        if self._clock.oddity(metrics) is None and metrics.limits == self._limits:
            self._served += metrics.goodput_tokens_per_s * metrics.duration_ms / 1000.0
            self._arrived += metrics.arrivals
            self._windows += 1
        self._frozen.tell(replace(metrics, limits=self._frozen.ask()))
        if self._windows >= SHORTEST_TURN_WINDOWS and self._arrived >= FEWEST_ARRIVALS:
            self._end_turn(metrics)
        self._limits = self._with(self._frozen.ask(), self._factors_now())

    def move_latency_to(self, stage: str, share: float | None = None) -> None:
        """Move the roll-out of what is learned of step latency, the frozen strategy's with it.

        Args:
            stage: offline, shadow, partial or full.
            share: of the windows, for partial.

        Raises:
            ValueError: no such stage, or the share is outside 0 to 1.
        """
        super().move_latency_to(stage, share)
        if isinstance(self._frozen, BelievingTuner):
            self._frozen.move_latency_to(stage, share)

    def reset(self, seed: int | None = None) -> None:
        """Forget every trial; begin at the frozen limits.

        Args:
            seed: of futures and choices; None keeps the constructor's.
        """
        self._frozen.reset(seed)
        self._foresight.forget()
        self._start(seed)

    def status(self) -> dict[str, Any]:
        """The frozen strategy's, the factors in force, who challenges them and what was won and lost so far."""
        return {
            **self._frozen.status(),
            "phase": "TRIAL" if self._trial else "HOLDING",
            "current_batch_size": self._limits.batch_size,
            "limits": str(self._limits),
            "factors": dict(self._factors),
            "challenger": None if self._trial is None else list(self._trial.arm),
            "trials": self._trials,
            "wins": self._wins,
            **self._estimate.status(),
            "estimate_error": self._estimate.error,
            "reason": self._reason,
        }

    def state_dict(self) -> dict[str, Any]:
        """Factors, trial, turn and what the twin knows, as plain data."""
        return {
            "tuner": self.name,
            "frozen": self._frozen.state_dict(),
            **self._foresight.state_dict(),
            "factors": dict(self._factors),
            "seen": [[*arm, *told] for arm, told in self._seen.items()],
            "trial": None if self._trial is None else self._trial.state_dict(),
            "turn": [self._served, self._arrived, self._windows],
            "counts": [self._trials, self._wins],
            "end_ms": self._clock.end_ms if math.isfinite(self._clock.end_ms) else None,
            "rng": self._rng.bit_generator.state,
            "reason": self._reason,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: the state is another tuner's, or a field is missing or wrong.
        """
        if state.get("tuner") != self.name:
            raise ValueError(f"this is the state of {state.get('tuner')!r}, not of {self.name!r}")
        rng = np.random.default_rng()
        try:
            frozen, reason = state["frozen"], str(state["reason"])
            factors = {lookup(FACTORS, name, "limit") and name: float(by) for name, by in state["factors"].items()}
            seen = {(str(arm), float(by)): (float(gain), float(weight)) for arm, by, gain, weight in state["seen"]}
            trial = None if state["trial"] is None else Trial.from_state(state["trial"])
            served, arrived, windows = state["turn"]
            trials, wins = map(int, state["counts"])
            clock = WindowClock()
            clock.end_ms = -math.inf if state["end_ms"] is None else float(state["end_ms"])
            rng.bit_generator.state = state["rng"]
            self._foresight.load_state_dict(state)
        except (KeyError, TypeError) as error:
            raise ValueError(f"the state of {self.name!r} is incomplete: {error!r}") from error
        self._frozen.load_state_dict(frozen)
        self._factors, self._seen, self._trial, self._rng, self._reason = factors, seen, trial, rng, reason
        self._served, self._arrived, self._windows = float(served), int(arrived), int(windows)
        self._trials, self._wins, self._clock = trials, wins, clock
        self._limits = self._with(self._frozen.ask(), self._factors_now())

    def _start(self, seed: int | None = None) -> None:
        self._rng = np.random.default_rng(self._seed if seed is None else seed)
        self._factors, self._seen, self._trial = {}, {}, None
        self._trials = self._wins = 0
        self._clock = WindowClock()
        self._limits = self._frozen.ask()
        self._reason = "the frozen limits"
        self._next_turn()

    def _next_turn(self) -> None:
        self._served, self._arrived, self._windows = 0.0, 0, 0

    def _end_turn(self, metrics: WindowMetrics) -> None:
        """Hand the server to the other side; decide the trial where that is sure; begin another."""
        worth = self._served / self._arrived
        self._next_turn()
        if self._trial is None:
            self._trial = self._challenger(metrics)
            return
        self._trial.hear(worth)
        verdict = self._trial.verdict
        if verdict is None:
            return
        field, factor = self._trial.arm
        self._remember(self._trial.arm, self._trial.gain)
        if verdict:
            self._seen = {}  # gains over other setpoints than these
            self._factors = _times(self._factors, field, factor)
            self._wins += 1
        self._reason = f"{field} x{factor:g} {'won' if verdict else 'did not win'}: {self._trial.summary}"
        self._trial = None

    def _challenger(self, metrics: WindowMetrics) -> Trial | None:
        """The arm to try next, drawn by what the twin foresees; None where none is both safe and a change."""
        if self._foresight.blind:
            self._reason = self._foresight.blind
            return None
        frozen = self._frozen.ask()
        present = self._with(frozen, self._factors)
        arms = [arm for arm in self._arms() if self._with(frozen, _times(self._factors, *arm)) != present]
        if not arms:
            self._reason = "no arm would change the limits"
            return None
        self._foresight.look(metrics, FUTURES, self._rng)
        limits = [present, *(self._with(frozen, _times(self._factors, *arm)) for arm in arms)]
        values = self._foresight.values(limit_arrays(limits))
        scale = max(float(values[0].mean()), 1e-9)
        gains = (values[1:] - values[0]) / scale
        mean = np.array([self._believed(arm, gain) for arm, gain in zip(arms, gains.mean(axis=1), strict=True)])
        safe = mean >= -self._largest_loss
        if not safe.any():
            self._reason = f"a loss above {self._largest_loss:.0%} is to be expected of every arm"
            return None
        doubt = gains.std(axis=1, ddof=1) / math.sqrt(FUTURES) + self._largest_loss
        drawn = np.where(safe, self._rng.normal(mean, doubt), -math.inf)
        chosen = int(np.argmax(drawn))
        if drawn[chosen] <= SMALLEST_GAIN:
            self._reason = "no arm promises a gain"
            return None
        self._trials += 1
        field, factor = arms[chosen]
        self._reason = f"trying {field} x{factor:g}, expected {mean[chosen]:+.1%}"
        return Trial(arms[chosen])

    def _believed(self, arm: Arm, foreseen: float) -> float:
        """What is foreseen of an arm, beside what its trials saw."""
        gain, weight = self._seen.get(arm, (0.0, 0.0))
        return (foreseen + weight * gain) / (1.0 + weight)

    def _remember(self, arm: Arm, gain: float) -> None:
        self._seen = {one: (seen, REMEMBERED * weight) for one, (seen, weight) in self._seen.items()}
        seen, weight = self._seen.get(arm, (0.0, 0.0))
        self._seen[arm] = (seen * weight + gain) / (weight + 1.0), weight + 1.0

    def _arms(self) -> list[Arm]:
        return [
            (field, factor)
            for field in self._fields
            for factor in FACTORS[field]
            if 1.0 / FARTHEST <= self._factors.get(field, 1.0) * factor <= FARTHEST
        ]

    def _factors_now(self) -> dict[str, float]:
        trial = self._trial
        return self._factors if trial is None or not trial.is_challengers_turn else _times(self._factors, *trial.arm)

    def _with(self, limits: Limits, factors: Mapping[str, float]) -> Limits:
        changed: dict[str, Any] = {}
        for field, factor in factors.items():
            value = getattr(limits, field)
            if value is not None:
                changed[field] = value * factor if isinstance(value, float) else max(round(value * factor), 1)
        return limits.replace(**changed) if changed else limits


def _times(factors: Mapping[str, float], field: str, factor: float) -> dict[str, float]:
    return {**factors, field: factors.get(field, 1.0) * factor}
