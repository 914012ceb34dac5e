"""Staying within the feasible set of the saturation document; arrays hold the parameters in field order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from batchpilot.latency.fitting.residuals import FEASIBLE, NAMES
from batchpilot.latency.model.saturation import SaturationParameters

LOWEST, HIGHEST = np.array([FEASIBLE[name] for name in NAMES]).T


def project(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest feasible parameters.

    Args:
        values: shape (11,).
    """
    return np.clip(values, LOWEST, HIGHEST)


def check_feasible(parameters: SaturationParameters) -> None:
    """Refuse parameters outside the feasible set.

    Args:
        parameters: to check.

    Raises:
        ValueError: one is outside; the message names it and its bounds.
    """
    for name, value in parameters.to_dict().items():
        lowest, highest = FEASIBLE[name]
        if not (lowest <= value <= highest and np.isfinite(value)):
            raise ValueError(f"{name} is {value:g}; online adaptation needs it finite, {lowest:g} to {highest:g}")
