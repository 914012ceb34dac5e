"""From measured steps to a saturation model, and how far to trust it.

Fitting needs scipy, so its names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchpilot.latency.fitting.judging import compare, judge
    from batchpilot.latency.fitting.measurement_files import read_measurements
    from batchpilot.latency.fitting.observations import Observations
    from batchpilot.latency.fitting.regressors import REGRESSORS, make_regressor
    from batchpilot.latency.fitting.saturation_fit import Fit, fit

__all__ = ["fit", "Fit", "compare", "judge", "make_regressor", "REGRESSORS", "Observations", "read_measurements"]

_HOMES = {
    "fit": "saturation_fit",
    "Fit": "saturation_fit",
    "compare": "judging",
    "judge": "judging",
    "make_regressor": "regressors",
    "REGRESSORS": "regressors",
    "Observations": "observations",
    "read_measurements": "measurement_files",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name in _HOMES:
        return getattr(import_module(f"batchpilot.latency.fitting.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'batchpilot.latency.fitting' has no attribute {name!r}")
