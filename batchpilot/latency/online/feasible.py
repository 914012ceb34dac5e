"""Which parameters are allowed online: the saturation document's feasible set, in field order of the parameters."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from batchpilot.latency.saturation import SaturationParameters

FEASIBLE: dict[str, tuple[float, float]] = {
    "p_max": (0.1, 10_000.0),
    "k_b": (1e-4, 10.0),
    "k_s": (1e-4, 1.0),
    "w_0": (0.0, np.inf),
    "w_1": (1e-6, np.inf),
    "tau_0": (0.0, np.inf),
    "tau_b": (0.0, np.inf),
    "tau_s": (0.0, np.inf),
    "tau_c": (0.0, np.inf),
}
"""Lowest and highest value by parameter. Source: throughput saturation document, projection of the online update."""

LOWEST, HIGHEST = np.array([FEASIBLE[field.name] for field in fields(SaturationParameters)]).T


def project(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest feasible parameters.

    Args:
        values: parameters in field order, shape (9,).
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
