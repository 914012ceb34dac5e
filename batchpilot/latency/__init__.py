"""The saturation model: how long a step takes, how well that is known, and what it allows.

Fitting needs scipy, so its names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from batchpilot.latency.roofline import LatencyEstimate, roofline
from batchpilot.latency.saturation import SaturationParameters, largest_tokens, step_ms

if TYPE_CHECKING:
    from batchpilot.latency.demand import Demand
    from batchpilot.latency.entry import LatencyEntry
    from batchpilot.latency.fitting import Fit, fit
    from batchpilot.latency.inverse import best_step, sla_inverse
    from batchpilot.latency.judging import compare, judge
    from batchpilot.latency.measurement_files import read_measurements
    from batchpilot.latency.observations import Observations
    from batchpilot.latency.online import AdaptiveLatency, BackgroundUpdates
    from batchpilot.latency.planning import Plan, plan
    from batchpilot.latency.registry import LatencyRegistry, find_latency
    from batchpilot.latency.regressors import REGRESSORS, make_regressor

__all__ = [
    "LatencyEstimate",
    "roofline",
    "SaturationParameters",
    "largest_tokens",
    "step_ms",
    "Observations",
    "read_measurements",
    "fit",
    "Fit",
    "make_regressor",
    "REGRESSORS",
    "judge",
    "compare",
    "AdaptiveLatency",
    "BackgroundUpdates",
    "sla_inverse",
    "best_step",
    "Demand",
    "plan",
    "Plan",
    "LatencyRegistry",
    "LatencyEntry",
    "find_latency",
]

_HOMES = {
    "Observations": "observations",
    "read_measurements": "measurement_files",
    "fit": "fitting",
    "Fit": "fitting",
    "make_regressor": "regressors",
    "REGRESSORS": "regressors",
    "judge": "judging",
    "compare": "judging",
    "AdaptiveLatency": "online",
    "BackgroundUpdates": "online",
    "sla_inverse": "inverse",
    "best_step": "inverse",
    "Demand": "demand",
    "plan": "planning",
    "Plan": "planning",
    "LatencyRegistry": "registry",
    "LatencyEntry": "entry",
    "find_latency": "registry",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name in _HOMES:
        return getattr(import_module(f"batchpilot.latency.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'batchpilot.latency' has no attribute {name!r}")
