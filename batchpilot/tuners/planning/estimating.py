"""A latency estimate that learns from the steps of windows. Times in ms."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.details import WindowDetails
from batchpilot.latency.online import AdaptiveLatency
from batchpilot.latency.online.feasible import project
from batchpilot.latency.saturation import SaturationParameters

STEPS_PER_WINDOW = 100
"""More steps of one window say little more, and each costs time."""

FIRST_GUESS = SaturationParameters(p_max=20.0, k_b=0.12, k_s=0.005, tau_0=10.0, tau_b=0.02, tau_c=1e-4)
"""Believed in where nobody says better: an 8B model on a card of the A100's class; steps correct it within seconds."""


class Estimate:
    """What a tuner believes a step costs.

    Args:
        base: where it begins, from a calibration or a catalogue; None for a first guess.
    """

    def __init__(self, base: SaturationParameters | None) -> None:
        self._guessed = base is None
        self._base = feasible(base or FIRST_GUESS)
        self.adaptive = AdaptiveLatency(self._base)

    @property
    def parameters(self) -> SaturationParameters:
        """The estimate in force."""
        return self.adaptive.parameters

    @property
    def array(self) -> NDArray[np.float64] | None:
        """The estimate in force as nine numbers; None for a first guess that no step has corrected yet."""
        if self._guessed and not self.adaptive.status()["version"]:
            return None
        return self.adaptive.parameters.as_array()

    @property
    def error(self) -> float | None:
        """Mean relative error of its latest predictions; None before any."""
        error = float(self.adaptive.status()["mean_error"])
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

    def forget(self) -> None:
        """Begin anew."""
        self.adaptive = AdaptiveLatency(self._base)


def feasible(parameters: SaturationParameters) -> SaturationParameters:
    """The nearest parameters that online adaptation accepts.

    Args:
        parameters: any.
    """
    return SaturationParameters(*project(parameters.as_array()))
