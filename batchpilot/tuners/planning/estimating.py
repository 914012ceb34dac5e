"""A latency estimate that learns from the steps of windows. Times in ms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.details import WindowDetails
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.online import AdaptiveLatency
from batchpilot.latency.online.feasible import project

STEPS_PER_WINDOW = 100
"""More steps of one window say little more, and each costs time."""

FIRST_GUESS = SaturationParameters(p_max=20.0, k_b=0.12, k_s=0.005, tau_0=10.0, tau_b=0.02, tau_c=1e-4)
"""Believed in where nobody says better: an 8B model on a card of the A100's class; steps correct it within seconds."""

RECENT_STEPS, FEWEST_STEPS = 500, 30
JUDGED_STEPS = 100
PARTIAL_SHARE = 0.1
_TOLD = (
    *("stage", "version", "mean_error", "p95_error", "base_mean_error", "drift_rate", "failure_rate", "healthy"),
    *("complaints", "updates_accepted", "updates_worse", "updates_failed", "observations_per_update"),
    *("parameter_spread", "prediction_spread"),
)
SLOWEST = 1.5
"""A mean further above the estimate than this is not scatter; the estimate has to learn it."""


class Estimate:
    """What a tuner believes a step costs, in the mean.

    Adaptation follows the typical step, since a glitch may not move its parameters. Requests wait for the sum of theirs
    though, glitches included, so all times are stretched by what the latest steps took in all over what was typical.

    In the stages `offline` and `shadow` of a roll-out the base is believed whatever steps say, in `partial` in all but
    a share of the windows.

    Args:
        base: where it begins, from a calibration or a catalogue; None for a first guess.
        stage: where the roll-out stands, one of `latency.online.stages.STAGES`.

    Raises:
        ValueError: no such stage.
    """

    def __init__(self, base: SaturationParameters | None, stage: str = "full") -> None:
        self._guessed = base is None
        self._base = feasible(base or FIRST_GUESS)
        self._stage, self._share, self._windows = stage, PARTIAL_SHARE, 0
        self.forget()

    @property
    def parameters(self) -> SaturationParameters:
        """The estimate in force."""
        return self._parameters

    @property
    def array(self) -> NDArray[np.float64] | None:
        """The estimate in force as nine numbers; None for a first guess that no step has corrected yet."""
        if self._guessed and (not self.adaptive.version or self._believes_base):
            return None
        return self._parameters.as_array()

    @property
    def error(self) -> float | None:
        """Mean relative error of its latest predictions, each judged before it was learned from; None before any."""
        error = self.adaptive.monitor.recent_error(JUDGED_STEPS, of_base=self._believes_base)
        return error if math.isfinite(error) else None

    def hear(self, details: WindowDetails) -> None:
        """Learn from a window's steps.

        Args:
            details: what a server knows of the window; without steps nothing is learned.
        """
        steps = details.steps
        if len(steps) > STEPS_PER_WINDOW:
            steps = steps[np.linspace(0, len(steps) - 1, STEPS_PER_WINDOW).astype(np.int64)]
        for _, batch_size, tokens, context, duration in steps.tolist():
            self.adaptive.record(batch_size, tokens, context, duration)
        self.adaptive.update()
        self._windows += 1
        self._stretch()

    def forget(self) -> None:
        """Begin anew, in the same stage."""
        self.adaptive = AdaptiveLatency(self._base, stage=self._stage, partial_share=self._share)
        self._parameters = self._base

    def move_to(self, stage: str, share: float | None = None) -> None:
        """Move the roll-out of what is learned on, or back.

        Args:
            stage: one of `latency.online.stages.STAGES`.
            share: of the windows, for stage "partial"; None keeps the present one.

        Raises:
            ValueError: no such stage, or the share is outside 0 to 1; nothing is changed then.
        """
        self.adaptive.move_to(stage, share)
        self._stage, self._share = stage, self._share if share is None else share
        self._stretch()

    def status(self) -> dict[str, Any]:
        """Stage, errors, updates and health of what is learned; None where nothing is known yet."""
        told = self.adaptive.status()
        figures = {name: told[name] for name in _TOLD}
        return {
            f"latency_{name}": None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in figures.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """The estimate and what it learned from, as plain data."""
        return self.adaptive.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: the state is not an estimate's; nothing is changed then.
        """
        self.adaptive.load_state_dict(state)
        self._stage = self.adaptive.stage
        self._stretch()

    @property
    def _believes_base(self) -> bool:
        """Whether this window goes by the base, whatever was learned."""
        return self.adaptive.parameters_for(self._windows) is not self.adaptive.adapted

    def _stretch(self) -> None:
        if self._stage in ("offline", "shadow") or self._believes_base:
            self._parameters = self._base
            return
        typical, rows = self.adaptive.adapted, self.adaptive.newest(RECENT_STEPS)
        if len(rows) < FEWEST_STEPS:
            self._parameters = typical
            return
        predicted_ms = typical.predict(rows[:, 0], rows[:, 1], rows[:, 2])
        self._parameters = slower(typical, min(float(rows[:, 3].sum() / predicted_ms.sum()), SLOWEST))


def feasible(parameters: SaturationParameters) -> SaturationParameters:
    """The nearest parameters that online adaptation accepts.

    Args:
        parameters: any.
    """
    return SaturationParameters(*project(parameters.as_array()))


def slower(parameters: SaturationParameters, factor: float) -> SaturationParameters:
    """The parameters under which every step takes so many times as long; a factor below 1 changes nothing.

    Args:
        parameters: any.
        factor: of all times.
    """
    factor = max(factor, 1.0)
    times = {name: factor * getattr(parameters, name) for name in ("tau_0", "tau_b", "tau_s", "tau_c", "tau_e")}
    return replace(parameters, p_max=parameters.p_max / factor, **times)
