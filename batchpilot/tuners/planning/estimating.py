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
SLOWEST = 1.5
"""A mean further above the estimate than this is not scatter; the estimate has to learn it."""


class Estimate:
    """What a tuner believes a step costs, in the mean.

    Adaptation follows the typical step, since a glitch may not move its parameters. Requests wait for the sum of theirs
    though, glitches included, so all times are stretched by what the latest steps took in all over what was typical.

    Args:
        base: where it begins, from a calibration or a catalogue; None for a first guess.
    """

    def __init__(self, base: SaturationParameters | None) -> None:
        self._guessed = base is None
        self._base = feasible(base or FIRST_GUESS)
        self.forget()

    @property
    def parameters(self) -> SaturationParameters:
        """The estimate in force."""
        return self._parameters

    @property
    def array(self) -> NDArray[np.float64] | None:
        """The estimate in force as nine numbers; None for a first guess that no step has corrected yet."""
        if self._guessed and not self.adaptive.status()["version"]:
            return None
        return self._parameters.as_array()

    @property
    def error(self) -> float | None:
        """Mean relative error of its latest predictions, each judged before it was learned from; None before any."""
        error = self.adaptive.monitor.recent_error(JUDGED_STEPS)
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
        self._stretch()

    def forget(self) -> None:
        """Begin anew."""
        self.adaptive = AdaptiveLatency(self._base)
        self._parameters = self._base

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
        self._stretch()

    def _stretch(self) -> None:
        typical, rows = self.adaptive.parameters, self.adaptive.newest(RECENT_STEPS)
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
